"""Ray: tasks whose outputs are passed by reference, and its compiled graphs of actors."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
import ray

from benchmarks.task_bench.kernel import check, compute, signed
from benchmarks.task_bench.patterns import active, dependences, period
from benchmarks.task_bench.systems import Shape

CORES = 2


def start_ray() -> None:
    """Start Ray in this process, quietly, with a worker for each core."""
    if not ray.is_initialized():
        ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level=40)


class RayTasks:
    """A remote call for each point."""

    name = "Ray tasks"
    cores = CORES
    steps = 20

    def __init__(self) -> None:
        start_ray()
        self._point = ray.remote(num_cpus=1)(_point)

    def prepare(self, shape: Shape) -> None:
        """Keep the shape."""
        self._shape = shape

    def run(self, iterations: int) -> float:
        """Issue all calls, then wait for the last step."""
        shape = self._shape
        start = perf_counter()
        before: dict[int, Any] = {}
        for step in range(shape.steps):
            now = {}
            for point in active(shape.pattern, shape.width, shape.steps, step):
                needs = dependences(shape.pattern, shape.width, shape.steps, step, point)
                rows = [before[n] for n in needs]
                now[point] = self._point.remote(step, point, iterations, needs, *rows)
            before = now
        ray.get(list(before.values()))
        return perf_counter() - start

    def close(self) -> None:
        """Stop Ray."""
        ray.shutdown()


class RayCompiled:
    """One compiled graph of a few steps, one actor a core, run again and again.

    Only where every step has all points: a compiled graph is one graph.
    """

    name = "Ray compiled graph"
    cores = CORES
    steps = 60

    def __init__(self) -> None:
        start_ray()
        self._actors = [ray.remote(num_cpus=0)(_Block).remote() for _ in range(CORES)]
        self._graph: Any = None

    def prepare(self, shape: Shape) -> None:
        """Compile one period of the pattern."""
        from ray.dag import InputNode, MultiOutputNode

        if self._graph is not None:
            self._graph.teardown()
            self._graph = None
        if shape.pattern in ("sweep", "tree"):
            raise NotImplementedError("its steps have different points")
        self._shape = shape
        self._period = period(shape.pattern, shape.width)
        owned = [
            [p for p in range(shape.width) if p * CORES // shape.width == rank]
            for rank in range(CORES)
        ]
        with InputNode() as given:
            blocks: list[Any] = [given] * CORES
            for offset in range(self._period):
                needs = {
                    p: dependences(shape.pattern, shape.width, 10**6, self._period + offset, p)
                    for p in range(shape.width)
                }
                read = [
                    sorted({n * CORES // shape.width for p in points for n in needs[p]} - {rank})
                    for rank, points in enumerate(owned)
                ]
                blocks = [
                    self._actors[rank].step.bind(
                        given if offset == 0 else blocks[rank],
                        rank,
                        offset,
                        {p: needs[p] for p in owned[rank]},
                        *([] if offset == 0 else [blocks[other] for other in read[rank]]),
                    )
                    for rank in range(CORES)
                ]
            self._graph = MultiOutputNode(blocks).experimental_compile()

    def run(self, iterations: int) -> float:
        """Run the graph as often as the steps take."""
        start = perf_counter()
        rows = np.full((self._shape.width, 2), -1, np.int64)
        for base in range(0, self._shape.steps, self._period):
            references = self._graph.execute((base, iterations, rows))
            for points, block in ray.get(references):
                rows[points] = block[points]
        return perf_counter() - start

    def close(self) -> None:
        """Stop Ray."""
        if self._graph is not None:
            self._graph.teardown()
        ray.shutdown()


def _point(step: int, point: int, iterations: int, needs: list[int], *rows: Any) -> Any:
    return signed(step, point, iterations, [np.array(row) for row in rows], needs)


class _Block:
    """The points of one core, with the rows of all points as far as it knows them."""

    def step(
        self, before: Any, rank: int, offset: int, needs: dict[int, list[int]], *others: Any
    ) -> Any:
        if offset == 0:
            self.base, self.iterations, given = before
            self.rows = np.array(given)
        for points, block in others:
            self.rows[points] = block[points]
        now, step = self.rows.copy(), self.base + offset
        for point, wanted in needs.items():
            for n in wanted if step else ():
                check(self.rows[n : n + 1], step - 1, n)
            compute(now[point], step, point, self.iterations)
        self.rows = now
        return list(needs), now
