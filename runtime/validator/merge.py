"""One order for the operations of all processes, in which those of several ranks meet.

Each process goes on until an operation that others take part in, and waits there for them. If all
wait, they wait for ever - or, where messages were just large enough to be buffered, take each
other's data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specinfer.runtime.validator.findings import Finding
from specinfer.runtime.validator.logs import Event, Log, Op


@dataclass(frozen=True, slots=True)
class Step:
    """Something that was done, by one process or by several together.

    Attributes:
        log: of the first process that did it.
        what: its operation, or the exchange of a memory.
        ranks: whose memory is in the processes that did it.
    """

    log: Log
    what: Op | Event
    ranks: tuple[int, ...]


def merge(logs: Sequence[Log]) -> tuple[list[Step], list[Finding]]:
    """All that was done, and where ranks do not meet."""
    queues = [_queue(log) for log in logs]
    heads = [0] * len(logs)
    owner = {rank: n for n, log in enumerate(logs) for rank in log.ranks}
    steps: list[Step] = []
    while True:
        moved = False
        for n, log in enumerate(logs):
            while heads[n] < len(queues[n]):
                item = queues[n][heads[n]]
                others = _others(item, owner, n)
                if any(
                    heads[m] == len(queues[m]) or not _meet(item, queues[m][heads[m]])
                    for m in others
                ):
                    break
                for m in (n, *others):
                    heads[m] += 1
                ranks = tuple(rank for m in (n, *others) for rank in logs[m].ranks)
                steps.append(Step(log, item, ranks))
                moved = True
        if not moved:
            break
    stuck = [n for n in range(len(logs)) if heads[n] < len(queues[n])]
    if not stuck:
        return steps, []
    waiting = []
    for n, log in enumerate(logs):
        at = "has ended"
        if n in stuck:
            op = queues[n][heads[n]]
            at = f"is at {log.describe(op) if isinstance(op, Op) else op}"
        waiting.append(f"rank {', '.join(map(str, log.ranks))} {at}")
    text = f"ranks do not meet: {'; '.join(waiting)}; what comes after it was not checked"
    return steps, [Finding("ranks", text)]


def _queue(log: Log) -> list[Op | Event]:
    """What a process did to memory, in the order in which it began."""
    placed: list[tuple[int, int, Op | Event]] = []
    for op in log.ops.values():
        if op.start is not None and op.stop is not None:
            placed.append((op.start, 0, op))
    placed += [(e.line, 1, e) for e in log.events if e.kind == "exchanged"]
    placed.sort(key=lambda item: item[:2])
    return [item for *_, item in placed]


def _others(item: Op | Event, owner: dict[int, int], own: int) -> list[int]:
    if isinstance(item, Event):
        return []
    if item.work.kind == "value":
        involved = set(owner.values())
    else:
        involved = {owner[rank] for rank in item.work.ranks}
    return sorted(involved - {own})


def _meet(one: Op | Event, other: Op | Event) -> bool:
    if isinstance(one, Event) or isinstance(other, Event):
        return False
    a, b = one.work, other.work
    if a.kind == "value":
        return b.kind == "value" and _futures(one) == _futures(other)
    return (a.kind, a.key, a.what) == (b.kind, b.key, b.what)


def _futures(op: Op) -> list[object]:
    return [access.place for access in op.futures]
