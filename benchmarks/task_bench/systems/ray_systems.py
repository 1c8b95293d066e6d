"""Ray: tasks whose outputs are passed by reference, and its compiled graphs of actors."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
import ray

from benchmarks.task_bench.kernel import signed
from benchmarks.task_bench.patterns import active, dependences
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
    """One compiled graph of all steps, one actor a core: only the first step hears of the driver.

    Points lie in blocks on the actors; an actor passes on its rows where another one needs them.
    """

    name = "Ray compiled graph"
    cores = CORES
    steps = 60

    def __init__(self) -> None:
        start_ray()
        self._actors = [ray.remote(num_cpus=0)(_Block).remote() for _ in range(CORES)]
        self._graph: Any = None

    def prepare(self, shape: Shape) -> None:
        """Compile the graph."""
        from ray.dag import InputNode, MultiOutputNode

        self._forget()
        owner = [point * CORES // shape.width for point in range(shape.width)]
        with InputNode() as given:
            blocks: list[Any] = [given] * CORES
            for step in range(shape.steps):
                needs: list[dict[int, list[int]]] = [{} for _ in range(CORES)]
                for point in active(shape.pattern, shape.width, shape.steps, step):
                    needs[owner[point]][point] = dependences(
                        shape.pattern, shape.width, shape.steps, step, point
                    )
                read = [
                    sorted({owner[at] for wanted in needs[rank].values() for at in wanted} - {rank})
                    for rank in range(CORES)
                ]
                blocks = [
                    self._actors[rank].step.bind(
                        blocks[rank], step, needs[rank], *(blocks[other] for other in read[rank])
                    )
                    for rank in range(CORES)
                ]
            self._graph = MultiOutputNode(blocks).experimental_compile()

    def run(self, iterations: int) -> float:
        """Run the graph once."""
        start = perf_counter()
        ray.get(self._graph.execute(iterations))
        return perf_counter() - start

    def close(self) -> None:
        """Stop Ray."""
        self._forget()
        ray.shutdown()

    def _forget(self) -> None:
        if self._graph is not None:
            self._graph.teardown()
            self._graph = None


def _point(step: int, point: int, iterations: int, needs: list[int], *rows: Any) -> Any:
    return signed(step, point, iterations, [np.array(row) for row in rows], needs)


class _Block:
    """The points of one core."""

    def __init__(self) -> None:
        self.iterations = 0

    def step(
        self, before: Any, step: int, needs: dict[int, list[int]], *others: dict[int, Any]
    ) -> dict[int, Any]:
        """Rows by point.

        Args:
            before: those of this block in the step before; at the first step, the iterations.
            step: which one.
            needs: by point of this step, the points that it needs.
            others: rows of the step before of other blocks.
        """
        if step == 0:
            self.iterations, before = before, {}
        known = dict(before)
        for rows in others:
            known.update(rows)
        return {
            point: signed(step, point, self.iterations, [known[at] for at in wanted], wanted)
            for point, wanted in needs.items()
        }
