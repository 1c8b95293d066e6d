"""When a device did what it was told, by the host's clock, without waiting for each piece of it.

A *mark* is put behind what was issued; the device notes the time when it gets there. Marks are read
in batches, when they have long been reached. Spans are told from an anchor: a mark whose time the
host knows, since it waited for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, Protocol

BATCH = 4096
"""Spans that are kept before those are told that have ended."""


class DeviceClock(Protocol):
    """Marks of one device, in the order in which it reaches them."""

    def mark(self) -> Any:
        """A mark behind all that was issued so far."""
        ...

    def is_reached(self, mark: Any) -> bool:
        """Whether the device got there."""
        ...

    def between(self, mark: Any, later: Any) -> int:
        """Nanoseconds from one mark to another; both were reached."""
        ...

    def wait(self, mark: Any) -> None:
        """Return when the device got there."""
        ...


class DeviceSpans:
    """What ran on a device, told once it is known when.

    Args:
        clock: of the device.
        now: that of the host, in ns.
    """

    def __init__(self, clock: DeviceClock, now: Callable[[], int] = perf_counter_ns) -> None:
        self._clock = clock
        self._now = now
        self._anchor: tuple[Any, int] | None = None
        self._pending: deque[tuple[Any, Any, Callable[[int, int], None]]] = deque()

    def begin(self) -> Any:
        """A mark in front of what is issued next."""
        if self._anchor is None:
            self._set_anchor()
        return self._clock.mark()

    def end(self, begun: Any, tell: Callable[[int, int], None]) -> None:
        """A mark behind it; ``tell`` is called with start and stop in ns, some time later."""
        self._pending.append((begun, self._clock.mark(), tell))
        if len(self._pending) >= BATCH:
            self._tell()

    def settle(self) -> None:
        """Wait for all that was issued, tell of it, and set the clocks anew."""
        if self._anchor is None:
            return
        if self._pending:
            self._clock.wait(self._pending[-1][1])
            self._tell()
        self._set_anchor()

    def _set_anchor(self) -> None:
        before = self._now()
        mark = self._clock.mark()
        self._clock.wait(mark)
        self._anchor = mark, (before + self._now()) // 2

    def _tell(self) -> None:
        """Those that have ended, in order."""
        assert self._anchor is not None
        anchor, at = self._anchor
        while self._pending and self._clock.is_reached(self._pending[0][1]):
            begun, ended, tell = self._pending.popleft()
            start = at + self._clock.between(anchor, begun)
            stop = start + self._clock.between(begun, ended)
            tell(start, stop)
            self._anchor = ended, stop  # short ways are measured finely


class CudaClock:
    """Events on the current stream of a GPU."""

    def __init__(self) -> None:
        import torch  # only where there is a GPU

        self._event: Any = torch.cuda.Event

    def mark(self) -> Any:
        """An event behind all that was issued so far."""
        event = self._event(enable_timing=True)
        event.record()
        return event

    def is_reached(self, mark: Any) -> bool:
        """Whether the GPU got there."""
        return bool(mark.query())

    def between(self, mark: Any, later: Any) -> int:
        """Nanoseconds from one event to another."""
        return int(1e6 * mark.elapsed_time(later))

    def wait(self, mark: Any) -> None:
        """Return when the GPU got there."""
        mark.synchronize()
