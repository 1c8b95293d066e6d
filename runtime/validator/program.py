"""All processes must have said the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from specinfer.runtime.errors import ConfigError
from specinfer.runtime.validator.findings import Finding
from specinfer.runtime.validator.logs import Event, Log


def check_same(logs: Sequence[Log]) -> list[Finding]:
    """The first thing that two processes did not say alike.

    Raises:
        ConfigError: a rank that is in no log, or in two.
    """
    ranks = [rank for log in logs for rank in log.ranks]
    named = {r for log in logs for op in log.ops.values() for r in op.work.ranks}
    if not ranks or ranks != list(range(len(ranks))) or named - set(ranks):
        raise ConfigError(
            f"logs of ranks {ranks}, expected one of each of {sorted({0, *ranks, *named})}: "
            "give the files of all processes"
        )
    first = logs[0]
    for log in logs[1:]:
        for one, other in zip_longest(first.events, log.events):
            if one is None or other is None or _said(one) != _said(other):
                return [
                    Finding(
                        "ranks",
                        f"{first.name} says {one or 'nothing more'}, "
                        f"{log.name} says {other or 'nothing more'}",
                    )
                ]
    return []


def _said(event: Event) -> object:
    return event.kind, event.text, event.number, event.binding, event.is_predicated, event.key
