"""A launch is checked once: its arguments, its memory, and that it is not in its own way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from specinfer.runtime.errors import LaunchError
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.launch import Requirement, bind
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
def row() -> Region:
    region = Region(0, "row", (6,), {"value": "int64"})
    region.attach("value", np.arange(6))
    return region


@pytest.fixture
def cache() -> Region:
    region = Region(1, "cache", (6,), {"k": "int64", "v": "int64"})
    region.attach("k", np.zeros(6, int))
    region.attach("v", np.ones(6, int))
    return region


def test_a_launch_calls_its_task_on_the_memory_named(row: Region) -> None:
    bind(scale, {"x": row.rows(0, 2), "y": row.rows(4, 6), "factor": 10}).run()
    assert row.array("value")[:].tolist() == [0, 1, 2, 3, 0, 10]


def test_a_launch_may_run_many_times(row: Region) -> None:
    launch = bind(scale, {"x": row.rows(1, 2), "y": row.rows(5, 6), "factor": 10})
    launch.run()
    row.rows(1, 2).view("value")[...] = 7
    launch.run()
    assert row.array("value")[5] == 70


def test_arguments_may_come_in_any_order(row: Region) -> None:
    bind(scale, {"factor": 10, "y": row.rows(4, 6), "x": row.rows(0, 2)}).run()
    assert row.array("value")[5] == 10


def test_several_fields_arrive_as_one_record(cache: Region) -> None:
    seen: list[SimpleNamespace] = []

    @task(cache=R)
    def look(cache: SimpleNamespace) -> None:
        seen.append(cache)

    bind(look, {"cache": cache.rows(0, 2)}).run()
    assert (seen[0].k.tolist(), seen[0].v.tolist()) == ([0, 0], [1, 1])


def test_a_launch_requires_each_field_of_each_region_argument(row: Region, cache: Region) -> None:
    launch = bind(pair(WD, Reduce("+")), {"one": cache.rows(1, 3), "other": row.part()})
    assert launch.requirements == (
        Requirement((1, "k"), IndexSpace((1,), (3,)), WD),
        Requirement((1, "v"), IndexSpace((1,), (3,)), WD),
        Requirement((0, "value"), IndexSpace((0,), (6,)), Reduce("+")),
    )


def test_a_launch_is_described_with_its_privileges(row: Region) -> None:
    launch = bind(scale, {"x": row.rows(0, 2), "y": row.rows(4, 6), "factor": 10})
    assert str(launch) == "scale(x=R row[0:2], y=WD row[4:6], factor=10)"


@pytest.mark.parametrize("privilege", [R, Reduce("+")], ids=str)
def test_arguments_with_privileges_that_commute_may_overlap(
    row: Region, privilege: Privilege
) -> None:
    bind(pair(privilege, privilege), {"one": row.part(), "other": row.part()})


@pytest.mark.parametrize(
    ("one", "other"),
    [(R, RW), (WD, R), (RW, RW), (WD, WD), (R, Reduce("+")), (Reduce("+"), Reduce("max"))],
    ids=str,
)
def test_refuses_overlapping_arguments_that_do_not_commute(
    row: Region, one: Privilege, other: Privilege
) -> None:
    with pytest.raises(
        LaunchError, match=r"task pair: one \(.* row\[0:4\]\) and other \(.*\) overlap"
    ):
        bind(pair(one, other), {"one": row.rows(0, 4), "other": row.rows(3, 6)})


def test_arguments_apart_in_points_or_fields_may_both_write(row: Region, cache: Region) -> None:
    bind(pair(RW, RW), {"one": row.rows(0, 3), "other": row.rows(3, 6)})
    bind(pair(RW, RW), {"one": cache.part(None, "k"), "other": cache.part(None, "v")})
    bind(pair(RW, RW), {"one": row.part(), "other": cache.part()})
    bind(pair(RW, RW), {"one": row.rows(2, 2), "other": row.part()})


def test_refuses_a_missing_argument(row: Region) -> None:
    with pytest.raises(
        LaunchError, match=r"task scale: launched with \['x', 'y'\], expected .*fac"
    ):
        bind(scale, {"x": row.rows(0, 2), "y": row.rows(2, 4)})


def test_refuses_an_unknown_argument(row: Region) -> None:
    with pytest.raises(LaunchError, match=r"task scale: launched with .*'z'"):
        bind(scale, {"x": row.rows(0, 2), "y": row.rows(2, 4), "factor": 1, "z": 2})


def test_refuses_an_array_where_a_subregion_is_expected(row: Region) -> None:
    with pytest.raises(
        LaunchError, match="task scale: argument y is ndarray, expected a subregion"
    ):
        bind(scale, {"x": row.part(), "y": np.zeros(6), "factor": 1})


def test_refuses_a_region_without_memory(row: Region) -> None:
    bare = Region(2, "bare", (6,), {"value": "int64"})
    with pytest.raises(LaunchError, match=r"region bare\.value: no memory attached"):
        bind(scale, {"x": row.part(), "y": bare.part(), "factor": 1})


def test_refuses_a_processor_without_variant(row: Region) -> None:
    with pytest.raises(LaunchError, match="task scale: no variant for cuda"):
        bind(scale, {"x": row.rows(0, 2), "y": row.rows(2, 4), "factor": 1}, processors=["cuda"])
