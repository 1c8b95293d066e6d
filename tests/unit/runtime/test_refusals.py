"""What a program could easily get wrong is refused, with what was expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import ConfigError, LaunchError, TraceError
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.future import Future
from specinfer.runtime.machine.one import OneRank
from specinfer.runtime.partition import equal
from specinfer.runtime.privilege import RW, R, Reduce
from specinfer.runtime.region import Region
from specinfer.runtime.task import task


@task(x=RW)
def increment(x: NDArray[np.int64]) -> None:
    x += 1


@task(x=R)
def add_up(x: NDArray[np.int64]) -> int:
    return int(x.sum())


@task(x=RW)
def scale(x: NDArray[np.int64], by: int) -> int:
    return by


def line(runtime: Runtime, name: str) -> Region:
    return runtime.region(name, (4,), {"value": "int64"})


@pytest.mark.parametrize("whole", [lambda x: x, lambda x: x.rows(0, 2)])
def test_a_region_of_another_runtime(whole: Callable[[Region], Any]) -> None:
    runtime, other = Runtime(), Runtime()
    x, y = line(runtime, "x"), line(other, "y")
    with pytest.raises(LaunchError, match=r"argument x, y.*, is of another runtime"):
        runtime.launch(increment, x=whole(y))
    with pytest.raises(LaunchError, match=r"argument x, y.parts\[ID\], is of another runtime"):
        runtime.index_launch(increment, 2, x=equal(y, 2))
    assert runtime.read(x).tolist() == [0, 0, 0, 0]


def test_a_region_that_the_runtime_has_none_of() -> None:
    other = Runtime()
    with pytest.raises(LaunchError, match="another runtime"):
        Runtime().launch(increment, x=line(other, "y"))


def test_a_future_as_a_truth_value() -> None:
    runtime = Runtime()
    future = runtime.launch(add_up, x=line(runtime, "x"))
    with pytest.raises(LaunchError, match=r"future of launch 0 is used as a truth value"):
        bool(future)


def test_a_future_as_the_parameter_of_a_trace() -> None:
    runtime = Runtime()
    x = line(runtime, "x")
    trace = runtime.trace("step", lambda by: runtime.launch(scale, x=x, by=by))
    with pytest.raises(TraceError, match="trace step: parameter by is a future, expected a value"):
        trace(by=runtime.launch(add_up, x=x))


def test_a_trace_keeps_no_parameter_of_an_earlier_run() -> None:
    runtime = Runtime()
    x = line(runtime, "x")
    trace = runtime.trace("step", lambda by=7: runtime.launch(scale, x=x, by=by))
    runs: list[dict[str, int]] = [{"by": 2}, {}, {}, {"by": 2}, {}, {"by": 3}]
    assert [trace(**run).get() for run in runs] == [2, 7, 7, 2, 7, 3]
    assert trace.stats.replayed == 2


def test_a_read_of_several_fields() -> None:
    runtime = Runtime()
    x = runtime.region("x", (4,), {"k": "int64", "v": "int64"})
    with pytest.raises(LaunchError, match=r"read x\.k,v: has 2 fields, expected one"):
        runtime.read(x)
    assert runtime.read(x.part(None, "k")).tolist() == [0, 0, 0, 0]


def test_a_predicate_that_is_no_future() -> None:
    runtime = Runtime()
    with pytest.raises(LaunchError, match="predicate is bool, expected the future of a launch"):
        runtime.launch(increment, x=line(runtime, "x"), predicate=cast(Future, True))


def test_a_task_that_reduces_with_an_unknown_operator() -> None:
    with pytest.raises(LaunchError, match=r"reduction 'xor': unknown operator, expected one of \+"):
        task(x=Reduce("xor"))(lambda x: None)


def test_a_task_with_an_argument_that_launches_have_themselves() -> None:
    with pytest.raises(LaunchError, match="has an argument 'predicate', which launches have"):
        task(x=R)(lambda x, predicate: None)


def test_arguments_may_have_the_names_of_python_parameters() -> None:
    runtime = Runtime()

    @task(self=RW)
    def fill(self: NDArray[np.int64], task: int, domain: int) -> None:
        self[:] = task + domain

    x = line(runtime, "x")
    runtime.launch(fill, self=x, task=1, domain=2)
    runtime.index_launch(fill, 1, self=equal(x, 2), task=2, domain=2)
    assert runtime.read(x).tolist() == [4, 4, 3, 3]


def test_several_processes_with_an_executor_that_keeps_no_order() -> None:
    class Machine(OneRank):
        control: Any = object()

    with pytest.raises(
        ConfigError, match="ThreadedExecutor runs operations in an order of its own"
    ):
        Runtime(ThreadedExecutor(), machine=Machine())
