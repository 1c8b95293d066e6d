"""What a log leaves open: every operation must have ended."""

from __future__ import annotations

from collections.abc import Sequence

from specinfer.runtime.validator.findings import Finding
from specinfer.runtime.validator.logs import Log


def check_ends(log: Log, logs: Sequence[Log]) -> list[Finding]:
    """Operations of one process that did not end, although nothing failed anywhere before."""
    found = []
    has_failed = any(op.raised or op.refused for each in logs for op in each.ops.values())
    for _, op in sorted(log.ops.items()):
        if op.refused or op.stop is not None:
            continue
        if op.start is not None:
            found.append(Finding("leak", f"{log.describe(op)} began and never ended"))
        elif not op.done and log.is_closed:
            text = f"{log.describe(op)} was dropped when the runtime was closed"
            found.append(Finding("leak", text, "warning"))
        elif not op.done:
            found.append(Finding("leak", f"{log.describe(op)} was issued and never ran"))
        elif not has_failed:
            text = f"{log.describe(op)} was said to have ended, but never ran, and nothing failed"
            found.append(Finding("leak", text))
    return found
