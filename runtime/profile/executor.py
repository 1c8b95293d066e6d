"""An executor that tells a profiler what another one does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from time import perf_counter_ns
from typing import Any

from specinfer.runtime.dependence import LaunchId
from specinfer.runtime.executor import Executor
from specinfer.runtime.executor.wrapping import WrappingExecutor
from specinfer.runtime.profile.device import DeviceClock, DeviceSpans
from specinfer.runtime.profile.profiler import Profiler
from specinfer.runtime.profile.record import COMMUNICATION, DEVICE, HOST, MAIN

SHORTEST_WAIT_NS = 1_000
"""The host did not really wait if it took less."""


class ProfilingExecutor(WrappingExecutor):
    """Hands everything on, and records when each operation ran, where, and what it waited for.

    Args:
        inner: carries out the operations.
        profiler: is told.
        clock: of the GPU that operations are issued to, if there is one.

    An operation is named by the first word of its ``str()``. It may have, besides what executors
    ask of it,

    * ``is_communication``: if true, it is shown in a row of its own;
    * ``num_bytes``: shown with it;
    * ``remote_waits_for``: (rank, number) of operations of other ranks that had to end before.

    Times are those of ``run()``: of one that only starts work elsewhere, they are of the starting.
    With a clock, what works on the GPU's memory has a span in the row ``gpu``, with the GPU's own
    time, and its issuing is the host's work.
    """

    def __init__(
        self, inner: Executor, profiler: Profiler, clock: DeviceClock | None = None
    ) -> None:
        super().__init__(inner)
        self._profiler = profiler
        self.on_device = None if clock is None else DeviceSpans(clock)
        if self.on_device is not None:
            profiler.before_reading(self.on_device.settle)
        self._rows: dict[int, str] = {}
        self._new_row = threading.Lock()
        self._issuing_since: int | None = None
        self._num_issued = 0

    def submit(
        self, id: LaunchId, operation: Any, waits_for: Collection[LaunchId]
    ) -> Sequence[LaunchId]:
        """Hand on an operation that will tell when it runs."""
        if self._issuing_since is None:
            self._issuing_since = perf_counter_ns()
        self._num_issued += 1
        profiled = _Profiled(operation, id, tuple(waits_for), self)
        finished: Sequence[LaunchId] = self._inner.submit(id, profiled, waits_for)
        return finished

    def replay(
        self, base: LaunchId, calls: Sequence[Callable[[], Any]], operations: Sequence[Any]
    ) -> None:
        """Have recorded operations run in order; each of them tells when."""
        if self._issuing_since is None:
            self._issuing_since = perf_counter_ns()
        self._num_issued += len(operations)
        # The plain functions tell nobody what they are: the operations take their place.
        told = [_Profiled(operation, id, (), self) for id, operation in enumerate(operations, base)]
        self._inner.replay(base, [profiled.run for profiled in told], told)

    def wait(self, ids: Collection[LaunchId] | None) -> None:
        """Wait, and record how long that took and how long the host was busy before."""
        start = perf_counter_ns()
        self._issued(start)
        try:
            self._inner.wait(ids)
        finally:
            stop = perf_counter_ns()
            if stop - start >= SHORTEST_WAIT_NS:
                self._profiler.span(HOST, "wait", start, stop, kind="wait")
            if self.on_device is not None:
                self.on_device.settle()
            self._issuing_since = perf_counter_ns()

    def close(self) -> None:
        """Close the executor."""
        self._issued(perf_counter_ns())
        self._issuing_since = None
        self._inner.close()

    def ran(self, profiled: _Profiled, start: int, stop: int) -> None:
        """Record that an operation ran on this thread."""
        operation = profiled.operation
        is_communication = getattr(operation, "is_communication", False)
        num_bytes = getattr(operation, "num_bytes", None)
        self._profiler.span(
            COMMUNICATION if is_communication else self._row(profiled.issuer),
            "",
            start,
            stop,
            profiled.id,
            (*profiled.waits_for, *getattr(operation, "remote_waits_for", ())),
            kind="communication" if is_communication else "task",
            launch=operation,
            **({} if num_bytes is None else {"bytes": num_bytes}),
        )

    def issued(self, profiled: _Profiled, start: int, stop: int) -> None:
        """Record that an operation was issued to the device."""
        name = str(profiled.operation).partition("(")[0]
        self._profiler.span(self._row(profiled.issuer), name, start, stop, kind="host")

    def ran_on_device(self, profiled: _Profiled, start: int, stop: int) -> None:
        """Record that an operation ran on the device."""
        self._profiler.span(
            DEVICE, "", start, stop, profiled.id, profiled.waits_for, launch=profiled.operation
        )

    def _issued(self, now: int) -> None:
        if self._issuing_since is not None:
            self._profiler.span(
                HOST, "issue", self._issuing_since, now, kind="host", launches=self._num_issued
            )
        self._num_issued = 0

    def _row(self, issuer: int) -> str:
        thread = threading.get_ident()
        if thread == issuer:
            return MAIN
        row = self._rows.get(thread)
        if row is None:
            with self._new_row:
                row = self._rows.setdefault(thread, f"worker {len(self._rows)}")
        return row


class _Profiled:
    """An operation that tells when it ran; for the rest the operation itself."""

    __slots__ = ("_executor", "id", "issuer", "operation", "requirements", "waits_for")

    def __init__(
        self,
        operation: Any,
        id: LaunchId,
        waits_for: tuple[LaunchId, ...],
        executor: ProfilingExecutor,
    ) -> None:
        self.operation = operation
        self.requirements = operation.requirements
        self.id = id
        self.waits_for = waits_for
        self.issuer = threading.get_ident()
        self._executor = executor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.operation, name)

    def __str__(self) -> str:
        return str(self.operation)

    def run(self) -> Any:
        """Run the operation, and tell when even if it raises."""
        on_device = self._executor.on_device
        if on_device is not None and _works_on_gpu(self.operation):
            return self._run_on(on_device)
        start = perf_counter_ns()
        try:
            return self.operation.run()
        finally:
            self._executor.ran(self, start, perf_counter_ns())

    def _run_on(self, device: DeviceSpans) -> Any:
        begun, start = device.begin(), perf_counter_ns()
        try:
            return self.operation.run()
        finally:
            stop = perf_counter_ns()
            device.end(begun, partial(self._executor.ran_on_device, self))
            self._executor.issued(self, start, stop)

    def bound(self) -> Callable[[], Any]:
        """The same as a plain function."""
        return self.run


def _works_on_gpu(operation: Any) -> bool:
    """Whether all memory of an operation is a GPU's, even if it also works on the host."""
    return bool(getattr(getattr(operation, "executable", None), "is_on_gpu", False))
