"""Takes down what happens while a program runs, as cheaply as can be; it is made sense of later."""

from __future__ import annotations

import re
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from math import isfinite
from time import perf_counter_ns
from typing import Any, Protocol

from specinfer.runtime.dependence import Requirement
from specinfer.runtime.profile.dependences import find_dependences
from specinfer.runtime.profile.intervals import Interval, minus, union
from specinfer.runtime.profile.record import (
    HOST,
    MAIN,
    Instant,
    Kind,
    OperationKey,
    Profile,
    RequestSpan,
    Sample,
    Span,
)

DEFAULT_CAPACITY = 200_000
SHORTEST_HOST_NS = 1_000
"""A shorter piece between two tasks that the host ran itself is no span of its own."""
_SPAN_VALUES = 9
"""How many values are kept for a span."""


class Operation(Protocol):
    """What an executor runs, as far as a profile wants to know; ``str()`` describes it."""

    @property
    def requirements(self) -> Sequence[Requirement]:
        """What it does to regions."""
        ...


class Profiler:
    """An append-only record of one rank, filled by any number of threads.

    Args:
        rank: of this process.
        capacity: most events that are kept; later ones are only counted.

    What is recorded is kept as it was given, operations with the memory they name among it, and
    made plain only by :meth:`profile`.

    >>> profiler = Profiler()
    >>> profiler.span("worker 0", "matmul", 1_000, 5_000, 7, bytes=64)
    >>> profiler.profile().spans[0].duration
    4000
    """

    clock = staticmethod(perf_counter_ns)
    """Nanoseconds from some moment, the same for all threads."""

    def __init__(self, rank: int = 0, capacity: int = DEFAULT_CAPACITY) -> None:
        self.rank = rank
        self._room = capacity
        self._spans: list[Any] = []
        self._instants: list[Instant] = []
        self._samples: list[Sample] = []
        self._marks: list[tuple[bool, str, str, int, dict[str, Any]]] = []
        self._num_dropped = 0
        self._before_reading: list[Callable[[], None]] = []
        self._changed = threading.Lock()

    def span(
        self,
        row: str,
        name: str,
        start_ns: int,
        stop_ns: int,
        id: int | None = None,
        waits_for: Collection[int | OperationKey] = (),
        *,
        kind: Kind = "task",
        launch: Operation | None = None,
        **args: Any,
    ) -> None:
        """Something ran.

        Args:
            row: what it ran on.
            name: of the task; if empty, the first word that describes ``launch``.
            start_ns: when it began, by :attr:`clock`.
            stop_ns: when it ended.
            id: number of the operation, in program order.
            waits_for: operations that had to end before; with its rank, one of another rank.
            kind: what it is.
            launch: what ran; dependences are found from its requirements too.
            args: what else there is to tell; turned into text if it is not plain.
        """
        if self._room > 0:  # not through `_has_room`: a call is half the time of this one
            self._room -= 1
            # One long list: objects of their own would be looked through by the garbage collector
            # again and again, and take more time than all the rest.
            self._spans.extend(
                (row, name, start_ns, stop_ns, kind, id, waits_for, launch, args or None)
            )
        else:
            self._drop()

    def instant(self, name: str, reason: str) -> None:
        """Something happened just now, for this reason."""
        if self._has_room():
            self._instants.append(Instant(self.rank, name, perf_counter_ns(), reason))

    def count(self, name: str, value: float) -> None:
        """A counter has this value from now on."""
        if self._has_room():
            self._samples.append(Sample(self.rank, name, perf_counter_ns(), value))

    def begin_request(self, request: int | str, phase: str, **args: Any) -> None:
        """A phase of a request begins, inside of those that have not ended."""
        if self._has_room():
            self._marks.append((True, str(request), phase, perf_counter_ns(), args))

    def end_request(self, request: int | str, phase: str, **args: Any) -> None:
        """A phase of a request ends, and with it those that began inside of it."""
        if self._has_room():
            self._marks.append((False, str(request), phase, perf_counter_ns(), args))

    def before_reading(self, tell: Callable[[], None]) -> None:
        """Have somebody tell what it kept, before a profile is made."""
        self._before_reading.append(tell)

    def profile(self) -> Profile:
        """What was recorded so far.

        Host spans leave out the time of tasks that the host ran itself; phases of requests that
        have not ended do so now, and say that they are ``unfinished``.
        """
        for tell in self._before_reading:
            tell()
        now = perf_counter_ns()
        # Other threads may still append: a copy is what there was at one moment.
        values = list(self._spans)
        raw = list(zip(*(values[n::_SPAN_VALUES] for n in range(_SPAN_VALUES)), strict=True))
        return Profile(
            tuple(self._made_plain(raw)),
            tuple(self._instants),
            tuple(self._samples),
            tuple(_phases(self.rank, list(self._marks), now)),
            self._num_dropped,
        )

    def _has_room(self) -> bool:
        # Threads may take the last places at once: the capacity is a brake, not a law.
        if self._room > 0:
            self._room -= 1
            return True
        self._drop()
        return False

    def _drop(self) -> None:
        with self._changed:
            self._num_dropped += 1

    def _made_plain(self, raw: Sequence[Any]) -> Iterator[Span]:
        operations = [
            (id, launch.requirements)
            for *_, id, _, launch, _ in raw
            if id is not None and launch is not None
        ]
        operations.sort(key=lambda operation: operation[0])  # program order
        found = find_dependences(operations)
        inline = union((start, stop) for row, _, start, stop, *_ in raw if row == MAIN)
        for row, name, start, stop, kind, id, told, launch, more in raw:
            earlier = found.get(id, set()).union(told)
            keys = sorted(e if isinstance(e, tuple) else (self.rank, e) for e in earlier)
            args = {} if launch is None else {"launch": str(launch)}
            name = name or _first_word(args.get("launch", ""))
            args |= _plain(more or {})
            span = Span(self.rank, row, name, start, stop, kind, id, tuple(keys), args)
            if row == HOST and kind == "host":
                yield from _pieces(span, minus([(start, stop)], _between(inline, start, stop)))
            else:
                yield span


def _first_word(text: str) -> str:
    """What stands before the first character that is in no word.

    >>> _first_word("matmul(x=R x, y=WD y)"), _first_word("all-reduce of x")
    ('matmul', 'all-reduce')
    """
    found = re.match(r"[\w-]+", text)
    return found[0] if found else text


def _between(intervals: Sequence[Interval], start: int, stop: int) -> Sequence[Interval]:
    """Those of sorted disjoint intervals that reach into another one."""
    first = bisect_right(intervals, start, key=lambda interval: interval[1])
    return intervals[first : bisect_left(intervals, stop, key=lambda interval: interval[0])]


def _pieces(span: Span, intervals: Iterable[Interval]) -> Iterator[Span]:
    for start, stop in intervals:
        if stop - start >= SHORTEST_HOST_NS:
            yield replace(span, start=start, stop=stop)


def _phases(
    rank: int, marks: Sequence[tuple[bool, str, str, int, dict[str, Any]]], now: int
) -> Iterator[RequestSpan]:
    open_phases: dict[str, list[tuple[str, int, dict[str, Any]]]] = {}
    for is_begin, request, phase, time, args in marks:
        stack = open_phases.setdefault(request, [])
        if is_begin:
            stack.append((phase, time, args))
            continue
        if phase not in (name for name, _, _ in stack):
            continue  # its begin was dropped
        while True:
            name, start, more = stack.pop()
            is_last = name == phase
            said = more | args if is_last else more
            yield RequestSpan(rank, request, name, start, time, _plain(said))
            if is_last:
                break
    for request, stack in open_phases.items():
        for name, start, args in reversed(stack):
            yield RequestSpan(rank, request, name, start, now, _plain(args | {"unfinished": True}))


def _plain(value: Any) -> Any:
    """The value itself if JSON has it, else as text.

    >>> _plain({"bytes": 8, "shape": (2, 3), "ratio": float("nan")})
    {'bytes': 8, 'shape': [2, 3], 'ratio': 'nan'}
    """
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return value if isinstance(value, float) and isfinite(value) else str(value)
