"""One launch for many points: each gets its part and its values, and none may disturb another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from unit.runtime.setups import MAKERS, everywhere

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import LaunchError
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.partition import ID, Projection, by_colour, equal, restricted, shift
from specinfer.runtime.privilege import RW, WD, R, Reduce
from specinfer.runtime.region import Region
from specinfer.runtime.task import Task, task

Ints = NDArray[np.int64]


@task(x=RW)
def add(x: Ints, by: Any) -> None:
    x += by


@task(x=R, y=WD)
def copy(x: Ints, y: Ints) -> None:
    y[...] = x


@task(x=WD)
def fill(x: Ints, point: tuple[int, int]) -> None:
    x[...] = 10 * point[0] + point[1]


@task(x=R, total=Reduce("+"))
def add_up(x: Ints, total: Ints) -> None:
    total += x.sum()


def line(runtime: Runtime, name: str = "x", size: int = 8) -> Region:
    return runtime.region(name, (size,), {"value": "int64"}, {"value": np.arange(size)})


@everywhere
def test_each_point_gets_its_part(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = line(runtime)
        runtime.index_launch(add, 2, x=equal(x, 2), by=10)
        assert runtime.read(x).tolist() == [10, 11, 12, 13, 14, 15, 16, 17]


@everywhere
def test_the_id_stands_for_the_point_as_a_value(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = runtime.region("x", (4,), {"value": "int64"})
        runtime.index_launch(add, 4, x=equal(x, 4), by=ID)
        assert runtime.read(x).tolist() == [0, 1, 2, 3]


def test_a_projection_as_a_value_is_a_function_of_the_point() -> None:
    runtime = Runtime()
    x = runtime.region("x", (3,), {"value": "int64"})
    squared = Projection("squared", lambda point: point * point)
    runtime.index_launch(add, 3, x=equal(x, 3), by=squared)
    assert runtime.read(x).tolist() == [0, 1, 4]


@everywhere
def test_points_may_read_one_subregion_all_together(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x, y = line(runtime, "x", 2), line(runtime, "y")
        runtime.index_launch(copy, 4, x=x, y=equal(y, 4))
        assert runtime.read(y).tolist() == [0, 1] * 4


@everywhere
def test_points_may_reduce_to_one_subregion_all_together(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x, total = line(runtime), line(runtime, "total", 1)
        runtime.index_launch(add_up, 4, x=equal(x, 4), total=total)
        assert runtime.read(total).tolist() == [28]


@everywhere
def test_points_may_read_parts_that_overlap(kind: str) -> None:
    @task(x=R, y=WD)
    def smooth(x: Ints, y: Ints) -> None:
        y[:] = x.sum()

    with MAKERS[kind]() as runtime:
        x, y = line(runtime), line(runtime, "y")
        halos = restricted(x, 4, IndexSpace((0,), (2,)), 2, reach=1)
        runtime.index_launch(smooth, 4, x=halos, y=equal(y, 4))
        assert runtime.read(y).tolist() == [3, 3, 10, 10, 18, 18, 18, 18]


def test_a_point_may_use_the_part_of_its_neighbour() -> None:
    runtime = Runtime()
    x, y = line(runtime), line(runtime, "y")
    runtime.index_launch(copy, 3, x=equal(x, 4)[shift(1)], y=equal(y, 4))
    assert runtime.read(y).tolist() == [2, 3, 4, 5, 6, 7, 6, 7]


@everywhere
def test_a_domain_may_have_several_dimensions(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        grid = runtime.region("grid", (2, 3), {"value": "int64"})
        runtime.index_launch(fill, (2, 3), x=equal(grid, (2, 3)), point=ID)
        assert runtime.read(grid).tolist() == [[0, 1, 2], [10, 11, 12]]


def test_a_domain_of_several_dimensions_may_share_parts_through_a_projection() -> None:
    runtime = Runtime()
    row, grid = line(runtime, "row", 3), runtime.region("grid", (2, 3), {"value": "int64"})
    column = Projection("column", lambda point: point[1])
    runtime.index_launch(copy, (2, 3), x=equal(row, 3)[column], y=equal(grid, (2, 3)))
    assert runtime.read(grid).tolist() == [[0, 1, 2], [0, 1, 2]]


@everywhere
def test_an_empty_domain_does_nothing(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = line(runtime)
        assert len(runtime.index_launch(add, 0, x=equal(x, 2), by=1)) == 0
        assert runtime.read(x).tolist() == list(range(8))


@everywhere
def test_points_with_empty_parts_run_too(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = line(runtime, size=2)
        runtime.index_launch(add, 4, x=equal(x, 4), by=5)
        assert runtime.read(x).tolist() == [5, 6]


def test_the_points_of_a_launch_run_in_order_where_operations_do() -> None:
    seen = []

    @task(x=RW)
    def look(x: Ints, point: int) -> None:
        seen.append(point)

    runtime = Runtime()
    runtime.index_launch(look, 4, x=equal(line(runtime), 4), point=ID)
    assert seen == [0, 1, 2, 3]


@task(x=R)
def look(x: Ints) -> None:
    pass


@task(x=R, y=RW)
def change(x: Ints, y: Ints) -> None:
    pass


@pytest.mark.parametrize(
    ("launched", "domain", "arguments", "message"),
    [
        (
            add,
            2,
            lambda x: {"x": x, "by": 1},
            r"task add: points 0 \(RW \[0:8\]\) and 1 \(RW \[0:8\]\) of one launch overlap in "
            r"argument x, line",
        ),
        (
            add,
            2,
            lambda x: {"x": by_colour(x, {0: space(0, 5), 1: space(4, 8)}), "by": 1},
            r"points 0 \(RW \[0:5\]\) and 1 \(RW \[4:8\]\) .* argument x, line\.parts\[ID\]",
        ),
        (
            add,
            2,
            lambda x: {"x": equal(x, 2)[Projection("first", lambda point: 0)], "by": 1},
            r"points 0 \(RW \[0:4\]\) and 1 \(RW \[0:4\]\) .* argument x, line\.parts\[first\]",
        ),
        (
            change,
            3,
            lambda x: {"x": equal(x, 4)[shift(1)], "y": equal(x, 4)},
            r"points 0 \(R \[2:4\]\) and 1 \(RW \[2:4\]\) of one launch overlap",
        ),
        (
            change,
            2,
            lambda x: {"x": x.rows(0, 2), "y": equal(x, 2)},
            r"task change: x \(R line\[0:2\]\) and y \(RW line\[0:4\]\) overlap .* at point 0",
        ),
        (
            look,
            3,
            lambda x: {"x": equal(x, 2)},
            r"line\.parts\[ID\]: point 2 is sent to colour 2, which leaves .* 2 colours 0\.\.1",
        ),
        (
            look,
            2,
            lambda x: {"x": np.zeros(8)},
            r"task look: argument x is ndarray, expected a partition or a subregion",
        ),
        (look, 2, lambda x: {}, r"task look: launched with \[\], expected \['x'\]"),
    ],
)
def test_refuses(
    launched: Task, domain: int, arguments: Callable[[Region], dict[str, Any]], message: str
) -> None:
    runtime = Runtime()
    with pytest.raises(LaunchError, match=message):
        runtime.index_launch(launched, domain, **arguments(line(runtime, "line")))


@pytest.mark.parametrize("domain", [-1, (2, -1)])
def test_refuses_a_negative_domain(domain: Any) -> None:
    runtime = Runtime()
    with pytest.raises(LaunchError, match=r"domain .*: expected 0 or more points along each"):
        runtime.index_launch(look, domain, x=line(runtime))


def test_a_single_launch_refuses_a_partition() -> None:
    runtime = Runtime()
    with pytest.raises(LaunchError, match="argument x is Partition, expected a subregion"):
        runtime.launch(look, x=equal(line(runtime), 2))


def test_conflicts_of_points_in_the_second_dimension_are_found() -> None:
    runtime = Runtime()
    grid = runtime.region("grid", (2, 6), {"value": "int64"})
    parts = restricted(grid, (1, 3), IndexSpace((0, 0), (2, 3)), (2, 2))
    with pytest.raises(LaunchError, match=r"points \(0, 0\) \(RW .*\) and \(0, 1\) \(RW"):
        runtime.index_launch(add, (1, 3), x=parts, by=1)


def test_points_that_reduce_with_different_operators_conflict() -> None:
    @task(x=Reduce("+"), y=Reduce("max"))
    def both(x: Ints, y: Ints) -> None:
        pass

    runtime = Runtime()
    x = line(runtime)
    with pytest.raises(LaunchError, match=r"points 0 \(Reduce\(max\) .* and 1 \(Reduce\(\+\)"):
        runtime.index_launch(both, 3, x=equal(x, 4), y=equal(x, 4)[shift(1)])


def space(low: int, high: int) -> IndexSpace:
    return IndexSpace((low,), (high,))
