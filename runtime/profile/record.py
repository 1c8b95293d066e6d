"""What a profile is made of: plain values, with times in nanoseconds of one clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["task", "communication", "host", "wait"]
"""What a span is: work, data on its way between ranks, the host at work, or the host waiting."""

KINDS: tuple[Kind, ...] = ("task", "communication", "host", "wait")

HOST, MAIN, DEVICE, COMMUNICATION = "host", "main", "gpu", "communication"
"""Rows: what the host does, tasks that it runs itself, tasks of a GPU, and data on its way between
ranks."""

TRACE_HITS, TRACE_MISSES = "trace hits", "trace misses"
"""Counters from which the hit rate of traces is computed."""

OperationKey = tuple[int, int]
"""The rank that ran an operation, and the operation's number there."""


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time.

    Attributes:
        rank: of the process.
        row: what it ran on: ``worker 0``, ``main``, ``gpu``, ``communication``, ``host``.
        name: of the task.
        start: when it began, in ns.
        stop: when it ended, in ns.
        kind: what it is.
        id: number of the operation on its rank, if it is one.
        waits_for: the operations that had to end before.
        args: whatever else is known; plain values.
    """

    rank: int
    row: str
    name: str
    start: int
    stop: int
    kind: Kind = "task"
    id: int | None = None
    waits_for: tuple[OperationKey, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def duration(self) -> int:
        """Time from start to stop, in ns."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Instant:
    """Something that happened at a time (ns), and why."""

    rank: int
    name: str
    time: int
    reason: str


@dataclass(frozen=True, slots=True)
class Sample:
    """The value of a counter from a time (ns) on."""

    rank: int
    name: str
    time: int
    value: float


@dataclass(frozen=True, slots=True)
class RequestSpan:
    """A phase of a request (times in ns); phases of one request nest or follow each other."""

    rank: int
    request: str
    name: str
    start: int
    stop: int
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profile:
    """What was recorded, of one rank or of several.

    Attributes:
        spans: what ran.
        instants: what happened.
        samples: values of counters.
        requests: phases of requests.
        num_dropped: events that came when the profiler was full.
    """

    spans: tuple[Span, ...] = ()
    instants: tuple[Instant, ...] = ()
    samples: tuple[Sample, ...] = ()
    requests: tuple[RequestSpan, ...] = ()
    num_dropped: int = 0

    @property
    def origin(self) -> int:
        """The time of the first event, in ns; 0 if there is none."""
        return min(
            (
                *(span.start for span in self.spans),
                *(instant.time for instant in self.instants),
                *(sample.time for sample in self.samples),
                *(request.start for request in self.requests),
            ),
            default=0,
        )

    @property
    def ranks(self) -> list[int]:
        """Those that something was recorded of."""
        seen = {span.rank for span in self.spans}
        seen |= {instant.rank for instant in self.instants}
        seen |= {sample.rank for sample in self.samples}
        return sorted(seen | {request.rank for request in self.requests})


def row_order(row: str) -> tuple[int, int, str]:
    """What rows are sorted by.

    >>> sorted(["communication", "worker 10", "worker 9", "gpu", "main", "host"], key=row_order)
    ['host', 'main', 'gpu', 'worker 9', 'worker 10', 'communication']
    """
    if row in (HOST, MAIN, DEVICE, COMMUNICATION):
        return {HOST: 0, MAIN: 1, DEVICE: 2, COMMUNICATION: 4}[row], 0, row
    number = row.rsplit(" ", 1)[-1]
    return 3, int(number) if number.isdecimal() else 0, row
