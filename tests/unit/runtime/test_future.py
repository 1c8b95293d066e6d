"""Futures: values of tasks that are passed on, folded, and asked for before they exist."""

from __future__ import annotations

import operator
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from unit.runtime.setups import MAKERS, everywhere, later, on_ranks

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import LaunchError, PoisonedError
from specinfer.runtime.executor.record import RecordingExecutor
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.future import Future
from specinfer.runtime.partition import ID, equal
from specinfer.runtime.privilege import RW, WD, R
from specinfer.runtime.region import Region
from specinfer.runtime.task import task

Ints = NDArray[np.int64]
TIMEOUT_SECONDS = 20.0  # only a bug makes a test wait so long


@task(x=R)
def total(x: Ints) -> int:
    return int(x.sum())


@task(x=RW)
def add(x: Ints, by: int) -> int:
    x += by
    return int(by)


@task(x=RW)
def increment(x: Ints) -> None:
    x += 1


@task(x=R)
def is_large(x: Ints, limit: int) -> bool:
    return bool(x.sum() > limit)


@task(x=R)
def fail(x: Ints) -> int:
    raise ArithmeticError("no such number")


def line(runtime: Runtime) -> Region:
    return runtime.region("x", (4,), {"value": "int64"}, {"value": np.arange(4)})


@everywhere
def test_a_future_gives_what_the_task_returned(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        assert runtime.launch(total, x=line(runtime)).get() == 6


@everywhere
def test_a_value_may_be_asked_for_again(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = line(runtime)
        future = runtime.launch(total, x=x)
        runtime.launch(add, x=x, by=1)
        assert [future.get(), future.get()] == [6, 6]


@everywhere
def test_a_task_that_returns_nothing_gives_none(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        assert runtime.launch(increment, x=line(runtime)).get() is None


@everywhere
def test_a_task_that_returns_none_although_it_need_not_gives_none(kind: str) -> None:
    @task(x=R)
    def find(x: Ints) -> int | None:
        return None

    with MAKERS[kind]() as runtime:
        assert runtime.launch(find, x=line(runtime)).get() is None


@everywhere
def test_a_future_is_passed_on_without_waiting(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = line(runtime)
        six = runtime.launch(total, x=x)
        twelve = runtime.launch(add, x=x.rows(0, 2), by=six)
        runtime.launch(add, x=x.rows(2, 3), by=twelve)
        assert runtime.read(x).tolist() == [6, 7, 8, 3]


def test_a_launch_is_issued_before_the_future_that_it_gets_has_a_value() -> None:
    gate = threading.Event()

    @task(x=R)
    def wait(x: Ints) -> int:
        assert gate.wait(TIMEOUT_SECONDS)
        return 7

    with Runtime(ThreadedExecutor(2)) as runtime:
        x = line(runtime)
        future = runtime.launch(wait, x=x.rows(0, 1))
        runtime.launch(add, x=x.rows(1, 2), by=future)
        assert not future.is_ready
        gate.set()
        assert runtime.read(x.rows(1, 2)).tolist() == [8]


@everywhere
def test_a_future_given_to_an_index_launch_goes_to_each_point(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = line(runtime)
        runtime.index_launch(add, 2, x=equal(x, 2), by=runtime.launch(total, x=x))
        assert runtime.read(x).tolist() == [6, 7, 8, 9]


@everywhere
def test_a_launch_bound_once_may_be_given_a_future(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = line(runtime)
        launch = runtime.bind(add, x=x, by=runtime.launch(total, x=x))
        runtime.issue_all([launch, launch])
        assert runtime.read(x).tolist() == [12, 13, 14, 15]


@everywhere
def test_an_index_launch_gives_a_future_for_each_point(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        sums = runtime.index_launch(total, 2, x=equal(line(runtime), 2))
        assert len(sums) == 2
        assert sums[1].get() == 5
        assert sums.get() == {0: 1, 1: 5}


@everywhere
def test_a_future_map_gives_each_point_its_own_value(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        halves = equal(line(runtime), 2)
        runtime.index_launch(add, 2, x=halves, by=runtime.index_launch(total, 2, x=halves))
        assert runtime.read(halves[0]).tolist() == [1, 2]
        assert runtime.read(halves[1]).tolist() == [7, 8]


def test_a_future_of_a_map_may_be_passed_on_alone() -> None:
    runtime = Runtime()
    x = line(runtime)
    sums = runtime.index_launch(total, 2, x=equal(x, 2))
    runtime.launch(add, x=x, by=sums[1])
    assert runtime.read(x).tolist() == [5, 6, 7, 8]


@everywhere
def test_values_are_folded_in_the_order_of_points(kind: str) -> None:
    @task(x=R)
    def name(x: Ints, point: int) -> str:
        return "abcd"[point]

    with MAKERS[kind]() as runtime:
        named = runtime.index_launch(name, 4, x=equal(line(runtime), 4), point=ID)
        assert named.reduce(operator.add) == "abcd"


@everywhere
def test_a_launch_runs_only_if_its_predicate_is_true(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = line(runtime)
        yes = runtime.launch(is_large, x=x, limit=5)
        no = runtime.launch(is_large, x=x, limit=6)
        runtime.launch(add, x=x, by=10, predicate=yes)
        runtime.launch(add, x=x, by=100, predicate=no)
        assert runtime.read(x).tolist() == [10, 11, 12, 13]


@everywhere
def test_a_launch_that_does_not_run_gives_what_it_was_told_otherwise(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = line(runtime)
        no = runtime.launch(is_large, x=x, limit=6)
        assert runtime.launch(add, x=x, by=1, predicate=no, otherwise=-1).get() == -1
        assert runtime.launch(add, x=x, by=1, predicate=no).get() is None


@everywhere
def test_points_that_do_not_run_give_what_they_were_told_otherwise(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = line(runtime)
        no = runtime.launch(is_large, x=x, limit=6)
        sums = runtime.index_launch(total, 2, x=equal(x, 2), predicate=no, otherwise=0)
        assert sums.get() == {0: 0, 1: 0}


def test_what_a_task_would_have_discarded_is_kept_if_it_does_not_run() -> None:
    @task(x=WD, pure=True)
    def clear(x: Ints) -> None:
        x[:] = 0

    with on_ranks(2) as runtime:
        x = line(runtime)
        no = runtime.launch(is_large, x=x, limit=1000)
        runtime.index_launch(add, 2, x=equal(x, 2), by=10)  # each rank holds a half
        runtime.launch(clear, x=x, predicate=no)
        assert runtime.read(x).tolist() == [10, 11, 12, 13]


@later
def test_the_value_of_a_task_that_raised_is_refused(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        future = runtime.launch(fail, x=line(runtime))
        with pytest.raises(PoisonedError, match=r"fail\(x=R x\) raised ArithmeticError: no such"):
            future.get()
        with pytest.raises(PoisonedError, match=r"future of launch 0 has no value: .*no such"):
            future.get()


@later
def test_who_was_given_a_value_that_was_never_made_does_not_run(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = line(runtime)
        runtime.launch(add, x=x.rows(0, 1), by=runtime.launch(fail, x=x.rows(1, 2)))
        with pytest.raises(PoisonedError, match="no such number"):
            runtime.read(x.rows(0, 1))
        assert runtime.read(x.rows(1, 4)).tolist() == [1, 2, 3]


@later
def test_a_predicate_that_was_never_made_stops_the_launch(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = line(runtime)
        predicate = runtime.launch(fail, x=x.rows(1, 2))
        runtime.launch(add, x=x.rows(0, 1), by=1, predicate=predicate)
        with pytest.raises(PoisonedError, match="no such number"):
            runtime.read(x.rows(0, 1))


def test_a_future_map_has_no_other_points() -> None:
    runtime = Runtime()
    sums = runtime.index_launch(total, 2, x=equal(line(runtime), 2))
    with pytest.raises(LaunchError, match=r"future map: no point 2 among 0\.\.1"):
        sums[2]


@everywhere
def test_a_single_launch_refuses_a_future_map(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = line(runtime)
        sums = runtime.index_launch(total, 2, x=equal(x, 2))
        with pytest.raises(LaunchError, match=r"argument by is the future map .* of one"):
            runtime.launch(add, x=x, by=sums)
        with pytest.raises(LaunchError, match=r"argument by is the future map .* of one"):
            runtime.bind(add, x=x, by=sums)
        assert runtime.read(x).tolist() == [0, 1, 2, 3]


@everywhere
def test_an_index_launch_refuses_the_futures_of_fewer_points(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = line(runtime)
        sums = runtime.index_launch(total, 2, x=equal(x, 2))
        with pytest.raises(LaunchError, match="task add: argument by has no future for point 2"):
            runtime.index_launch(add, 4, x=equal(x, 4), by=sums)
        assert runtime.read(x).tolist() == [0, 1, 2, 3]  # no point has run


def test_a_future_of_another_runtime_is_refused() -> None:
    runtime, other = Runtime(), Runtime()
    future = other.launch(total, x=line(other))
    x = line(runtime)
    with pytest.raises(LaunchError, match="task add: argument by is a future of another runtime"):
        runtime.launch(add, x=x, by=future)
    with pytest.raises(LaunchError, match="task add: predicate is a future of another runtime"):
        runtime.launch(add, x=x, by=1, predicate=future)
    with pytest.raises(LaunchError, match="task add: argument by is a future of another runtime"):
        runtime.bind(add, x=x, by=future)


def test_what_a_launch_gives_otherwise_is_a_value() -> None:
    runtime = Runtime()
    x = line(runtime)
    future = runtime.launch(is_large, x=x, limit=5)
    with pytest.raises(LaunchError, match="task add: otherwise is Future, expected a value"):
        runtime.launch(add, x=x, by=1, predicate=future, otherwise=future)


@pytest.mark.parametrize("name", ["Future", "FutureMap"])
def test_a_future_is_no_region(name: str) -> None:
    runtime = Runtime()
    x = line(runtime)
    future: Any = runtime.launch(total, x=x)
    if name == "FutureMap":
        future = runtime.index_launch(total, 2, x=equal(x, 2))
    with pytest.raises(LaunchError, match=f"argument x is {name}, expected a subregion"):
        runtime.launch(total, x=future)


def test_asking_whether_a_value_is_here_does_not_wait() -> None:
    runtime = on_ranks(2)
    future: Future = runtime.launch(total, x=line(runtime))
    assert future.is_ready


def test_the_value_of_a_launch_that_is_never_run_is_refused() -> None:
    runtime = Runtime(RecordingExecutor())
    future = runtime.launch(total, x=line(runtime))
    with pytest.raises(PoisonedError, match="future of launch 0 has no value: it has not run"):
        future.get()
