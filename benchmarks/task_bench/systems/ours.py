"""specinfer's runtime: an index launch for each step, analysed every time or replayed from a trace.

The program says nothing of ranks or messages; the mapper puts points in blocks on ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import lcm
from time import perf_counter
from typing import Any

from benchmarks.task_bench.kernel import check, compute
from benchmarks.task_bench.patterns import active, dependences, intervals, period
from benchmarks.task_bench.systems import Shape
from specinfer.runtime.binding import Binding
from specinfer.runtime.context import Runtime
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.machine.start import machine_here
from specinfer.runtime.mapper import Mapper
from specinfer.runtime.mesh import line
from specinfer.runtime.partition import Colour, Projection, by_colour
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.region import Region
from specinfer.runtime.task import Task, Variant

TRACED_STEPS = 100
"""Steps of a trace, or a few more: a multiple of the period."""


class Blocks(Mapper):
    """Each point on the rank that holds its block."""

    def __init__(self, num_ranks: int, width: int) -> None:
        super().__init__(line(num_ranks))
        self._width = width

    def shard(self, launch: Binding, point: Colour, number: int, count: int) -> int:
        """By the row that is written."""
        row = launch.points[number].parts["out"].space.lo[0]
        return row * self.mesh.num_ranks // self._width


VALUES = ("base", "offset", "point", "firsts", "iterations")


def point_task(num_inputs: int) -> Task:
    """A point that reads so many intervals of rows; what is left of them is empty."""
    run = (_no_input, _one_input)[num_inputs] if num_inputs < 2 else _inputs
    names = tuple(f"rows{i}" for i in range(num_inputs))
    privileges = {**dict.fromkeys(names, R), "out": WD}
    return Task("point", privileges, (*names, "out", *VALUES), {"cpu": Variant(run)}, returns=False)


def _no_input(
    out: Any, base: int, offset: int, point: int, firsts: tuple[int, ...], iterations: int
) -> None:
    compute(out, base + offset, point, iterations)


def _one_input(
    rows: Any, out: Any, base: int, offset: int, point: int, firsts: tuple[int], iterations: int
) -> None:
    step = base + offset
    check(rows, step - 1, firsts[0])
    compute(out, step, point, iterations)


def _inputs(*arguments: Any) -> None:
    *inputs, out, base, offset, point, firsts, iterations = arguments
    step = base + offset
    for rows, first in zip(inputs, firsts, strict=True):
        check(rows, step - 1, first)
    compute(out, step, point, iterations)


@cache
def each(values: tuple[Any, ...]) -> Projection:
    """A value for each point, by its number."""
    return Projection(f"one of {values}", values.__getitem__)


class Ours:
    """A program over regions.

    Args:
        is_traced: whether steps are replayed.
    """

    steps = 1000

    def __init__(self, *, is_traced: bool) -> None:
        self.name = f"specinfer, {'traced' if is_traced else 'analysed'}"
        self._is_traced = is_traced
        self._machine = machine_here()
        self.cores = self._machine.num_ranks
        self._runtime: Runtime | None = None
        self._steps: Callable[[int], None] = lambda iterations: None

    def prepare(self, shape: Shape) -> None:
        """Make the regions; and, if traced, record and verify the traces of all steps."""
        self.close()
        machine = machine_here()
        runtime = Runtime(machine=machine, mapper=Blocks(machine.num_ranks, shape.width))
        rows = [runtime.region(name, (shape.width, 2), {"pair": "int64"}) for name in "ab"]
        tasks = [point_task(count) for count in range(shape.width + 1)]
        steps = [_arguments(shape, step, rows, tasks) for step in range(shape.steps)]

        def launch(start: int, stop: int, base: Any, iterations: Any) -> None:
            for step in range(start, stop):
                task, count, arguments = steps[step]
                offset = step - start
                runtime.index_launch(
                    task,
                    count,
                    **arguments,
                    base=base,
                    offset=offset,
                    iterations=iterations,
                )

        self._runtime, self._machine = runtime, machine
        if not self._is_traced:
            self._steps = lambda iterations: launch(0, shape.steps, 0, iterations)
            return
        size = -(-TRACED_STEPS // lcm(2, period(shape.pattern, shape.width)))
        size *= lcm(2, period(shape.pattern, shape.width))
        chunks = [(at, min(at + size, shape.steps)) for at in range(0, shape.steps, size)]
        alike: dict[str, tuple[int, int]] = {}  # chunks of the same launches share a trace
        same = [alike.setdefault(repr(steps[start:stop]), (start, stop)) for start, stop in chunks]
        trace = runtime.trace("steps", launch, keeps=4 * len(chunks))

        def replay(iterations: int) -> None:
            for (base, _), bucket in zip(chunks, same, strict=True):
                trace(*bucket, base=base, iterations=iterations)

        self._steps = replay
        for _ in range(4):
            replay(0)

    def run(self, iterations: int) -> float:
        """Run all steps; the slowest rank counts."""
        assert self._runtime is not None
        self._runtime.fence()
        start = perf_counter()
        self._steps(iterations)
        self._runtime.fence()
        return float(max(self._machine.gather_values(perf_counter() - start)))

    def close(self) -> None:
        """Free what communication took."""
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None


def _arguments(
    shape: Shape, step: int, rows: Sequence[Region], tasks: Sequence[Task]
) -> tuple[Task, int, dict[str, Any]]:
    """Task, number of points, and arguments of a step."""
    before, now = rows[(step + 1) % 2], rows[step % 2]
    points = active(shape.pattern, shape.width, shape.steps, step)
    needs = [
        intervals(dependences(shape.pattern, shape.width, shape.steps, step, point))
        for point in points
    ]
    most = max(map(len, needs))
    arguments: dict[str, Any] = {
        f"rows{i}": by_colour(
            before,
            {
                n: before.space.along(0, *(need[i] if i < len(need) else (0, 0)))
                for n, need in enumerate(needs)
            },
        )
        for i in range(most)
    }
    written: dict[Colour, IndexSpace] = {
        n: now.space.along(0, point, point + 1) for n, point in enumerate(points)
    }
    arguments["out"] = by_colour(now, written, disjoint=True)
    arguments["point"] = each(tuple(points))
    arguments["firsts"] = each(
        tuple(tuple(low for low, _ in [*need, *[(0, 0)] * most][:most]) for need in needs)
    )
    return tasks[most], len(points), arguments
