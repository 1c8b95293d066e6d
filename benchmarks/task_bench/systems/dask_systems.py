"""Dask: a graph of delayed calls, on threads and on processes."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import dask

from benchmarks.task_bench.kernel import signed
from benchmarks.task_bench.patterns import active, dependences
from benchmarks.task_bench.systems import Shape

CORES = 2


def build(shape: Shape, iterations: int) -> list[Any]:
    """The outputs of the last step, as delayed calls."""
    point_of = dask.delayed(signed, pure=False)
    before: dict[int, Any] = {}
    for step in range(shape.steps):
        now = {}
        for point in active(shape.pattern, shape.width, shape.steps, step):
            needs = dependences(shape.pattern, shape.width, shape.steps, step, point)
            now[point] = point_of(step, point, iterations, [before[n] for n in needs], needs)
        before = now
    return list(before.values())


class DaskThreads:
    """Dask's scheduler of threads."""

    name = "Dask threads"
    cores = CORES
    steps = 40

    def prepare(self, shape: Shape) -> None:
        """Keep the shape: graphs are built for each run, as a program would."""
        self._shape = shape

    def run(self, iterations: int) -> float:
        """Build and run."""
        start = perf_counter()
        outputs = build(self._shape, iterations)
        dask.compute(*outputs, scheduler="threads", num_workers=CORES, optimize_graph=False)
        return perf_counter() - start

    def close(self) -> None:
        """Do nothing."""


class DaskDistributed:
    """Dask's distributed scheduler, with one process a core."""

    name = "Dask distributed"
    cores = CORES
    steps = 12

    def __init__(self) -> None:
        from dask.distributed import Client, LocalCluster

        self._cluster = LocalCluster(
            n_workers=CORES, threads_per_worker=1, dashboard_address=None, memory_limit=0
        )
        self._client = Client(self._cluster)

    def prepare(self, shape: Shape) -> None:
        """Keep the shape."""
        self._shape = shape

    def run(self, iterations: int) -> float:
        """Build and run."""
        start = perf_counter()
        outputs = build(self._shape, iterations)
        self._client.gather(self._client.compute(outputs, optimize_graph=False))
        return perf_counter() - start

    def close(self) -> None:
        """Stop the processes."""
        self._client.close()
        self._cluster.close()
