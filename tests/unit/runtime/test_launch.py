"""A launch is checked once: its arguments, its memory, and that it is not in its own way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from specinfer.runtime.context import Runtime
from specinfer.runtime.dependence import Requirement
from specinfer.runtime.errors import LaunchError
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.privilege import RW, WD, Privilege, R, Reduce
from specinfer.runtime.region import Region
from specinfer.runtime.task import Task, task


@task(x=R, y=WD)
def scale(x: Any, y: Any, factor: int) -> None:
    y[:] = x * factor


def pair(one: Privilege, other: Privilege) -> Task:
    @task(one=one, other=other)
    def pair(one: Any, other: Any) -> None: ...

    return pair


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def row(runtime: Runtime) -> Region:
    return runtime.region("row", (6,), {"value": "int64"}, {"value": np.arange(6)})


@pytest.fixture
def cache(runtime: Runtime) -> Region:
    fields = {"k": np.zeros(6, int), "v": np.ones(6, int)}
    return runtime.region("cache", (6,), dict.fromkeys(fields, "int64"), fields)


def test_a_launch_calls_its_task_on_the_memory_named(runtime: Runtime, row: Region) -> None:
    runtime.launch(scale, x=row.rows(0, 2), y=row.rows(4, 6), factor=10)
    assert runtime.read(row.part()).tolist() == [0, 1, 2, 3, 0, 10]


def test_a_launch_bound_once_sees_what_changes(runtime: Runtime, row: Region) -> None:
    launch = runtime.bind(scale, x=row.rows(1, 2), y=row.rows(5, 6), factor=10)
    runtime.issue(launch)
    runtime.array(row, "value")[1] = 7
    runtime.issue(launch)
    assert runtime.read(row.part())[5] == 70


def test_arguments_may_come_in_any_order(runtime: Runtime, row: Region) -> None:
    runtime.launch(scale, factor=10, y=row.rows(4, 6), x=row.rows(0, 2))
    assert runtime.read(row.part())[5] == 10


def test_a_whole_region_may_stand_for_all_of_its_points(runtime: Runtime, row: Region) -> None:
    other = runtime.region("other", (6,), {"value": "int64"})
    runtime.launch(scale, x=row, y=other, factor=2)
    assert runtime.read(other.part()).tolist() == [0, 2, 4, 6, 8, 10]


def test_several_fields_arrive_as_one_record(runtime: Runtime, cache: Region) -> None:
    seen: list[SimpleNamespace] = []

    @task(cache=R)
    def look(cache: SimpleNamespace) -> None:
        seen.append(cache)

    runtime.launch(look, cache=cache.rows(0, 2))
    assert (seen[0].k.tolist(), seen[0].v.tolist()) == ([0, 0], [1, 1])


def test_a_launch_requires_each_field_of_each_region_argument(
    runtime: Runtime, row: Region, cache: Region
) -> None:
    launch = runtime.bind(pair(WD, Reduce("+")), one=cache.rows(1, 3), other=row.part())
    (point,) = launch.binding.points
    assert point.requirements == (
        Requirement((cache.id, "k"), IndexSpace((1,), (3,)), WD),
        Requirement((cache.id, "v"), IndexSpace((1,), (3,)), WD),
        Requirement((row.id, "value"), IndexSpace((0,), (6,)), Reduce("+")),
    )


def test_a_launch_is_described_with_its_privileges(runtime: Runtime, row: Region) -> None:
    launch = runtime.bind(scale, x=row.rows(0, 2), y=row.rows(4, 6), factor=10)
    assert str(launch) == "scale(x=R row[0:2], y=WD row[4:6], factor=10)"


@pytest.mark.parametrize("privilege", [R, Reduce("+")], ids=str)
def test_arguments_with_privileges_that_commute_may_overlap(
    runtime: Runtime, row: Region, privilege: Privilege
) -> None:
    runtime.bind(pair(privilege, privilege), one=row.part(), other=row.part())


@pytest.mark.parametrize(
    ("one", "other"),
    [(R, RW), (WD, R), (RW, RW), (WD, WD), (R, Reduce("+")), (Reduce("+"), Reduce("max"))],
    ids=str,
)
def test_refuses_overlapping_arguments_that_do_not_commute(
    runtime: Runtime, row: Region, one: Privilege, other: Privilege
) -> None:
    with pytest.raises(
        LaunchError, match=r"task pair: one \(.* row\[0:4\]\) and other \(.*\) overlap"
    ):
        runtime.bind(pair(one, other), one=row.rows(0, 4), other=row.rows(3, 6))


def test_arguments_apart_in_points_or_fields_may_both_write(
    runtime: Runtime, row: Region, cache: Region
) -> None:
    runtime.bind(pair(RW, RW), one=row.rows(0, 3), other=row.rows(3, 6))
    runtime.bind(pair(RW, RW), one=cache.part(None, "k"), other=cache.part(None, "v"))
    runtime.bind(pair(RW, RW), one=row.part(), other=cache.part())
    runtime.bind(pair(RW, RW), one=row.rows(2, 2), other=row.part())


def test_refuses_a_missing_argument(runtime: Runtime, row: Region) -> None:
    with pytest.raises(
        LaunchError, match=r"task scale: launched with \['x', 'y'\], expected .*fac"
    ):
        runtime.launch(scale, x=row.rows(0, 2), y=row.rows(2, 4))


def test_refuses_an_unknown_argument(runtime: Runtime, row: Region) -> None:
    with pytest.raises(LaunchError, match=r"task scale: launched with .*'z'"):
        runtime.launch(scale, x=row.rows(0, 2), y=row.rows(2, 4), factor=1, z=2)


def test_refuses_an_array_where_a_subregion_is_expected(runtime: Runtime, row: Region) -> None:
    with pytest.raises(
        LaunchError, match="task scale: argument y is ndarray, expected a subregion"
    ):
        runtime.launch(scale, x=row.part(), y=np.zeros(6), factor=1)


@pytest.mark.parametrize("shape", [(6,), (2, 3, 1)])
def test_refuses_a_region_of_other_dimensions_than_its_axes(shape: tuple[int, ...]) -> None:
    @task(x=R, pure=True, axes={"x": ("rows", None)})
    def look(x: Any) -> None: ...

    runtime = Runtime()
    x = runtime.region("x", shape, {"value": "int64"})
    message = f"task look: argument x, x, has {len(shape)} dimensions, expected 2, as its axes say"
    with pytest.raises(LaunchError, match=message):
        runtime.launch(look, x=x)


def test_refuses_a_processor_without_variant() -> None:
    runtime = Runtime(processors=["cuda"])
    row = runtime.region("row", (6,), {"value": "int64"})
    with pytest.raises(LaunchError, match="task scale: no variant for cuda"):
        runtime.launch(scale, x=row.rows(0, 2), y=row.rows(2, 4), factor=1)
