"""Checks what a program did against what it meant, from logs, when it is over.

The logs (:mod:`specinfer.runtime.oplog`) hold the launches in program order and what each of them
may do to its regions, and the operations that were carried out for them. Nothing is run again, and
no value is compared: each value is the list of those that made it.

Nothing here is shared with the code that it judges - the analysis of dependences, placement,
lowering - not even how rectangles meet.

* :mod:`order`: what waited for what covers every conflict.
* :mod:`merge`: the ranks meet in the same transfers, in one order.
* :mod:`flow`: every read saw the version that the program means.
* :mod:`ends`: nothing was left undone.

After Legion Spy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from specinfer.runtime.validator.ends import check_ends
from specinfer.runtime.validator.findings import Finding
from specinfer.runtime.validator.flow import check_flow
from specinfer.runtime.validator.logs import Log, parse, read
from specinfer.runtime.validator.merge import merge
from specinfer.runtime.validator.order import check_order
from specinfer.runtime.validator.program import check_same

__all__ = ["Finding", "validate", "validate_files"]


def validate_files(paths: Iterable[Path]) -> list[Finding]:
    """What is wrong in the logs of a program: a file for each of its processes.

    Raises:
        ConfigError: a file that is no log, or ranks that are missing.
    """
    return _validate([read(path) for path in paths])


def validate(logs: Iterable[Sequence[dict[str, Any]]]) -> list[Finding]:
    """The same of records in memory.

    Raises:
        ConfigError: what is no log.
    """
    return _validate([parse(records, f"log {n}") for n, records in enumerate(logs)])


def _validate(logs: list[Log]) -> list[Finding]:
    logs = sorted(logs, key=lambda log: log.ranks)
    findings = differences = check_same(logs)
    for log in logs:
        findings = [*findings, *check_ends(log, logs), *check_order(log)]
    steps, mismatch = merge(logs)
    findings = [*findings, *mismatch]
    if not differences:  # else there is no one meaning to compare with
        findings += check_flow(logs, steps)
    return findings
