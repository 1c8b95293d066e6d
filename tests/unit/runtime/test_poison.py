"""A task that raised: what depends on it is not run, everything else is, and the cause is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from unit.runtime.setups import MAKERS, everywhere, on_ranks

from specinfer.runtime.context import Runtime
from specinfer.runtime.dependence import Requirement
from specinfer.runtime.errors import PoisonedError
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.partition import ID, equal
from specinfer.runtime.poison import PoisonedData
from specinfer.runtime.privilege import RW, WD, R, Reduce
from specinfer.runtime.region import Region
from specinfer.runtime.task import task

Ints = NDArray[np.int64]
LINE = IndexSpace((0,), (8,))


@task(x=RW)
def fail(x: Ints) -> None:
    x[:] = -1  # half done
    raise ArithmeticError("no such number")


@task(x=RW)
def fail_at_one(x: Ints, point: int) -> int:
    if point == 1:
        raise ArithmeticError("no such number")
    x += 1
    return point


@task(total=Reduce("+"))
def fail_to_add(total: Ints) -> None:
    raise ArithmeticError("no such number")


@task(x=RW)
def increment(x: Ints) -> None:
    x += 1


@task(x=R, y=WD)
def copy(x: Ints, y: Ints) -> None:
    y[...] = x


@task(x=WD)
def clear(x: Ints) -> None:
    x[...] = 0


@task(x=WD)
def seven(x: Ints) -> int:
    x[...] = 7
    return 7


@task()
def say(it: Any) -> bool:
    if it is None:
        raise ArithmeticError("nothing to say")
    return bool(it)


@task(x=R, total=Reduce("+"))
def add_up(x: Ints, total: Ints) -> None:
    total += x.sum()


@pytest.fixture(params=[kind for kind in MAKERS if kind != "serial"])
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    """One that tells of failures at the next wait."""
    with MAKERS[request.param]() as runtime:
        yield runtime


def vector(runtime: Runtime, name: str = "x") -> Region:
    return runtime.region(name, (8,), {"value": "int64"})


def take_error(runtime: Runtime, told: str | None = None) -> None:
    with pytest.raises(PoisonedError, match=told):
        runtime.fence()


def spoilt(runtime: Runtime, name: str = "x") -> Region:
    """A region that was never made: a task raised, which was told."""
    x = vector(runtime, name)
    runtime.launch(fail, x=x)
    take_error(runtime)
    return x


def interval(low: int, high: int) -> IndexSpace:
    return IndexSpace((low,), (high,))


def test_the_next_wait_raises_with_the_task_and_its_error(runtime: Runtime) -> None:
    runtime.launch(fail, x=vector(runtime))
    take_error(runtime, r"^fail\(x=RW x\) raised ArithmeticError: no such")


def test_the_original_error_is_the_cause(runtime: Runtime) -> None:
    runtime.launch(fail, x=vector(runtime))
    with pytest.raises(PoisonedError) as raised:
        runtime.fence()
    assert isinstance(raised.value.__cause__, ArithmeticError)


def test_it_is_raised_once_and_then_by_those_who_read_the_data(runtime: Runtime) -> None:
    x = spoilt(runtime)
    runtime.fence()
    for _ in range(2):
        with pytest.raises(PoisonedError, match=r"^x was never made: fail\(x=RW x\) raised"):
            runtime.read(x)


def test_what_reads_the_data_is_not_run_and_neither_is_what_reads_that(runtime: Runtime) -> None:
    x, y, z = (vector(runtime, name) for name in "xyz")
    runtime.launch(fail, x=x)
    runtime.launch(copy, x=x, y=y)
    runtime.launch(copy, x=y, y=z)
    take_error(runtime)
    with pytest.raises(PoisonedError, match=r"z was never made: fail\(x=RW x\) raised"):
        runtime.read(z)


def test_what_does_not_depend_on_it_runs(runtime: Runtime) -> None:
    x, y = vector(runtime, "x"), vector(runtime, "y")
    runtime.launch(fail, x=x.rows(0, 4))
    runtime.launch(increment, x=x.rows(4, 8))
    runtime.launch(increment, x=y)
    take_error(runtime)
    assert runtime.read(x.rows(4, 8)).tolist() == [1, 1, 1, 1]
    assert runtime.read(y).tolist() == [1] * 8


def test_data_that_are_overwritten_are_whole_again(runtime: Runtime) -> None:
    x = spoilt(runtime)
    runtime.launch(clear, x=x)
    runtime.launch(increment, x=x)
    assert runtime.read(x).tolist() == [1] * 8


@everywhere
@pytest.mark.parametrize("runs", [False, True])
def test_data_that_might_be_overwritten_are_not_made_whole(kind: str, runs: bool) -> None:
    with MAKERS[kind]() as runtime:
        x = vector(runtime)
        with suppress(ArithmeticError):  # at the launch, or
            runtime.launch(fail, x=x)
        with suppress(PoisonedError):  # later
            runtime.fence()
        future = runtime.launch(seven, x=x, predicate=runtime.launch(say, it=runs), otherwise=3)
        assert future.get() == (7 if runs else 3)  # it reads nothing that was not made
        with pytest.raises(PoisonedError, match="no such number"):
            runtime.read(x)
        runtime.launch(clear, x=x)
        assert runtime.read(x).tolist() == [0] * 8


def test_a_value_that_was_never_made_is_made_in_the_next_replay(runtime: Runtime) -> None:
    x = vector(runtime)

    def body(it: Any) -> Any:
        return runtime.launch(seven, x=x, predicate=runtime.launch(say, it=it), otherwise=3)

    step = runtime.trace("step", body)
    for _ in range(3):
        assert step(it=False).get() == 3
    step(it=None)
    take_error(runtime, "nothing to say")
    assert step(it=False).get() == 3
    with pytest.raises(PoisonedError, match="nothing to say"):
        runtime.read(x)


def test_points_that_are_overwritten_are_whole_again_the_others_not(runtime: Runtime) -> None:
    x = spoilt(runtime)
    runtime.launch(clear, x=x.rows(0, 4))
    assert runtime.read(x.rows(0, 4)).tolist() == [0, 0, 0, 0]
    with pytest.raises(PoisonedError, match=r"x\[4:8\] was never made"):
        runtime.read(x.rows(4, 8))


def test_what_is_read_and_written_is_not_made_whole(runtime: Runtime) -> None:
    x = vector(runtime)
    runtime.launch(fail, x=x)
    runtime.launch(increment, x=x)
    take_error(runtime)
    with pytest.raises(PoisonedError, match="x was never made"):
        runtime.read(x)


def test_a_point_that_raised_does_not_stop_the_others(runtime: Runtime) -> None:
    x = vector(runtime)
    futures = runtime.index_launch(fail_at_one, 4, x=equal(x, 4), point=ID)
    take_error(runtime, r"fail_at_one\(.*\) at point 1 raised Arithmetic")
    assert [futures[point].get() for point in (0, 2, 3)] == [0, 2, 3]
    with pytest.raises(PoisonedError, match="no such number"):
        futures[1].get()
    assert runtime.read(x.rows(4, 8)).tolist() == [1, 1, 1, 1]
    with pytest.raises(PoisonedError, match=r"x\[2:4\] was never made"):
        runtime.read(x.rows(2, 4))


def test_a_reduction_that_raised_spoils_the_total(runtime: Runtime) -> None:
    total = vector(runtime, "total")
    runtime.launch(fail_to_add, total=total)
    take_error(runtime)
    with pytest.raises(PoisonedError, match="total was never made"):
        runtime.read(total)


def test_a_reduction_to_spoilt_data_does_not_make_them_whole(runtime: Runtime) -> None:
    x, total = vector(runtime, "x"), vector(runtime, "total")
    runtime.launch(fail, x=total)
    runtime.launch(add_up, x=x, total=total)
    take_error(runtime)
    with pytest.raises(PoisonedError, match="total was never made"):
        runtime.read(total)


def test_of_several_failures_one_is_raised(runtime: Runtime) -> None:
    x, y = vector(runtime, "x"), vector(runtime, "y")
    runtime.launch(fail, x=x)
    runtime.launch(fail, x=y)
    take_error(runtime, r"fail\(x=RW [xy]\)")
    runtime.fence()
    for region in (x, y):
        with pytest.raises(PoisonedError, match=f"{region.name} was never made"):
            runtime.read(region)


def test_memory_attached_anew_is_whole(runtime: Runtime) -> None:
    x = spoilt(runtime)
    runtime.attach(x, "value", np.arange(8))
    assert runtime.read(x).tolist() == list(range(8))
    runtime.launch(increment, x=x)
    assert runtime.read(x.rows(0, 1)).tolist() == [1]


def test_a_failure_is_carried_to_where_the_data_are_sent() -> None:
    runtime = on_ranks(2)
    x, y = vector(runtime, "x"), vector(runtime, "y")
    runtime.index_launch(fail_at_one, 2, x=equal(x, 2), point=ID)
    runtime.launch(copy, x=x.rows(4, 8), y=y.rows(0, 4))  # the data come from the second rank
    take_error(runtime, "at point 1 raised")
    with pytest.raises(PoisonedError, match=r"y\[0:4\] was never made"):
        runtime.read(y.rows(0, 4))


class TestSerial:
    """The error itself, at the launch: a traceback leads to the task."""

    def test_raises_at_the_launch_and_notes_which_it_was(self) -> None:
        runtime = Runtime()
        with pytest.raises(ArithmeticError, match="no such number") as raised:
            runtime.launch(fail, x=vector(runtime))
        assert raised.value.__notes__ == ["raised by fail(x=RW x)"]

    def test_a_launch_that_reads_the_data_is_refused(self) -> None:
        runtime = Runtime()
        x, y = vector(runtime, "x"), vector(runtime, "y")
        with pytest.raises(ArithmeticError):
            runtime.launch(fail, x=x)
        message = r"^copy\(x=R x, y=WD y\) reads what was never made: fail\(x=RW x\) raised"
        with pytest.raises(PoisonedError, match=message):
            runtime.launch(copy, x=x, y=y)

    def test_a_read_of_the_data_is_refused(self) -> None:
        runtime = Runtime()
        x = vector(runtime)
        with pytest.raises(ArithmeticError):
            runtime.launch(fail, x=x)
        with pytest.raises(PoisonedError, match="read of x reads what was never made: fail"):
            runtime.read(x)

    def test_a_fence_has_nothing_more_to_tell(self) -> None:
        runtime = Runtime()
        with pytest.raises(ArithmeticError):
            runtime.launch(fail, x=vector(runtime))
        runtime.fence()

    def test_points_behind_the_one_that_raised_do_not_run(self) -> None:
        runtime = Runtime()
        x = vector(runtime)
        with pytest.raises(ArithmeticError):
            runtime.index_launch(fail_at_one, 4, x=equal(x, 4), point=ID)
        assert runtime.read(x.rows(0, 2)).tolist() == [1, 1]
        assert runtime.read(x.rows(4, 8)).tolist() == [0, 0, 0, 0]


@everywhere
def test_an_interrupt_is_raised_as_it_is(kind: str) -> None:
    @task(x=RW)
    def interrupt(x: Ints) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), MAKERS[kind]() as runtime:
        runtime.launch(interrupt, x=vector(runtime))  # there, or at the end


class TestPoisonedData:
    def test_knows_which_points_and_why(self) -> None:
        poisoned = PoisonedData()
        poisoned.add([Requirement("x", interval(2, 4), RW)], "because")
        assert poisoned.cause_in("x", interval(3, 8)) == "because"
        assert poisoned.cause_in("x", interval(4, 8)) is None
        assert poisoned.cause_in("y", LINE) is None

    @pytest.mark.parametrize(
        ("privilege", "is_poisoned"), [(R, False), (RW, True), (WD, True), (Reduce("+"), True)]
    )
    def test_what_a_launch_only_reads_is_not_poisoned(
        self, privilege: Any, is_poisoned: bool
    ) -> None:
        poisoned = PoisonedData()
        poisoned.add([Requirement("x", LINE, privilege)], "because")
        assert bool(poisoned) == is_poisoned

    def test_spreads_to_what_a_reader_writes(self) -> None:
        poisoned = PoisonedData()
        poisoned.add([Requirement("x", LINE, WD)], "because")
        reader = [Requirement("x", interval(0, 1), R), Requirement("y", LINE, WD)]
        assert poisoned.spreads(reader) == "because"
        assert poisoned.cause_in("y", LINE) == "because"

    def test_is_cleared_where_it_is_overwritten(self) -> None:
        poisoned = PoisonedData()
        poisoned.add([Requirement("x", LINE, WD)], "because")
        assert poisoned.spreads([Requirement("x", interval(2, 8), WD)]) is None
        assert poisoned.cause_in("x", interval(2, 8)) is None
        assert poisoned.cause_in("x", interval(0, 2)) == "because"
        assert poisoned.spreads([Requirement("x", interval(0, 2), WD)]) is None
        assert not poisoned

    def test_a_reduction_neither_reads_nor_clears_it(self) -> None:
        poisoned = PoisonedData()
        poisoned.add([Requirement("x", LINE, WD)], "because")
        assert poisoned.spreads([Requirement("x", LINE, Reduce("+"))]) is None
        assert poisoned.cause_in("x", LINE) == "because"
