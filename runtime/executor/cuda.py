"""Runs operations in order on a GPU: each issues its work to one stream, and nobody waits for it.

Tasks whose arguments all lie on the GPU only issue work. Where a trace has such tasks one behind
the other, what they issue is captured as a CUDA graph when the trace is verified; a replay is then
one launch of the graph. Tasks that also work on the host (they give a value, or take one that
differs from run to run) stand between graphs and run as they are.

Memory that tasks take while they are captured, all graphs share: they run one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

import torch

from specinfer.runtime.dependence import LaunchId
from specinfer.runtime.errors import TraceError
from specinfer.runtime.executor import Operation, plain_calls
from specinfer.runtime.executor.gpu_check import check_gpu
from specinfer.runtime.executor.gpu_memory import is_out_of_memory, out_of_memory
from specinfer.runtime.executor.serial import SerialExecutor


class CudaExecutor(SerialExecutor):
    """One GPU; what raises on the host, raises at its launch.

    Args:
        device: number of the GPU.

    A task or a graph that the GPU has no memory for raises
    :class:`~specinfer.runtime.executor.gpu_memory.GpuMemoryError`.

    Raises:
        ConfigError: there is none, it is too old, or a library that it needs is.
    """

    def __init__(self, device: int = 0) -> None:
        super().__init__()
        check_gpu(device)
        torch.cuda.set_device(device)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def submit(
        self, id: LaunchId, operation: Operation, waits_for: Collection[LaunchId]
    ) -> Sequence[LaunchId]:
        """Run the operation's host part now; its work on the GPU comes when it comes."""
        try:
            with torch.cuda.stream(self._stream):
                return super().submit(id, operation, waits_for)
        except Exception as error:
            if is_out_of_memory(error):
                raise out_of_memory(operation, error) from error
            raise

    def prepare(self, operations: Sequence[Operation]) -> Sequence[Callable[[], Any]]:
        """A graph for each run of operations on the GPU, a plain function for each other."""
        calls: list[Callable[[], Any]] = []
        for is_on_gpu, run in groupby(operations, _is_on_gpu):
            some = list(run)
            calls += [self._captured(some)] if is_on_gpu else plain_calls(some)
        return calls

    def replay(
        self,
        base: LaunchId,
        calls: Sequence[Callable[[], Any]],
        operations: Sequence[Operation],
    ) -> None:
        """Run recorded operations."""
        if self.poisoned:
            super().replay(base, calls, operations)
            return
        at = 0
        with torch.cuda.stream(self._stream):
            for call in calls:
                try:
                    call()
                except BaseException as error:
                    self._fail(base + at, operations[at], error)
                    if is_out_of_memory(error):
                        raise out_of_memory(operations[at], error) from error
                    raise
                at += call.count if isinstance(call, _Graph) else 1

    def _captured(self, operations: Sequence[Operation]) -> _Graph:
        graph = torch.cuda.CUDAGraph()
        calls = plain_calls(operations)
        self._stream.synchronize()
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool)
            at = 0
            try:
                for at, call in enumerate(calls):  # noqa: B007 - read where one raises
                    call()
            except BaseException as error:
                with suppress(RuntimeError):  # what cannot be captured spoils all of it
                    graph.capture_end()
                if is_out_of_memory(error):
                    raise out_of_memory(f"{operations[at]}, captured,", error) from error
                raise TraceError(
                    f"{operations[at]} cannot be captured as part of a CUDA graph: {error}; "
                    "expected a task that only issues work to the GPU, and waits for none"
                ) from error
            try:
                graph.capture_end()
            except Exception as error:
                if is_out_of_memory(error):
                    what = f"a CUDA graph of {len(calls)} operations from {operations[0]} on"
                    raise out_of_memory(what, error) from error
                raise
        return _Graph(graph, len(calls))

    def wait(self, ids: Collection[LaunchId] | None) -> None:
        """Return when the GPU has done all that was issued; for no operations at once."""
        if ids is None or ids:
            self._stream.synchronize()

    def close(self) -> None:
        """Wait for the GPU."""
        self._stream.synchronize()


class _Graph:
    """A CUDA graph of some operations.

    Attributes:
        count: how many operations it stands for.
    """

    __slots__ = ("_graph", "count")

    def __init__(self, graph: torch.cuda.CUDAGraph, count: int) -> None:
        self._graph = graph
        self.count = count

    def __call__(self) -> None:
        self._graph.replay()


def _is_on_gpu(operation: Operation) -> bool:
    return bool(getattr(operation, "is_on_gpu", False))
