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
from specinfer.runtime.partition import ID, Projection, equal, shift
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


def test_a_function_that_is_no_task() -> None:
    def plain(x: Any) -> None: ...

    runtime = Runtime()
    x = line(runtime, "x")
    message = r"launch of .*plain, expected a task: a function declared with `@task\(...\)`"
    with pytest.raises(LaunchError, match=message):
        runtime.launch(cast(Any, plain), x=x)
    with pytest.raises(LaunchError, match="launch of 'plain', expected a task"):
        runtime.index_launch(cast(Any, "plain"), 2, x=x)


def test_a_read_of_what_is_no_region() -> None:
    runtime = Runtime()
    halves = equal(line(runtime, "x"), 2)
    with pytest.raises(LaunchError, match="a Partition, expected a region or a subregion"):
        runtime.read(cast(Region, halves))


@pytest.mark.parametrize("number", range(4))
def test_data_that_the_task_says_nothing_of(number: int) -> None:
    runtime = Runtime()
    x, y = line(runtime, "x"), line(runtime, "y")
    value = [y, y.rows(0, 2), equal(y, 2), equal(y, 2)[shift(1)]][number]
    message = "task scale: argument by is .*y.*, expected a value: the task declares no privilege"
    with pytest.raises(LaunchError, match=message):
        runtime.launch(scale, x=x, by=value)
    with pytest.raises(LaunchError, match=message):
        runtime.index_launch(scale, 2, x=equal(x, 2), by=value)


@pytest.mark.parametrize("projection", [ID, shift(1)])
def test_a_projection_in_a_single_launch(projection: Projection) -> None:
    runtime = Runtime()
    x = line(runtime, "x")
    message = r"task scale: argument by is the projection .*, which a single launch has none of"
    with pytest.raises(LaunchError, match=message):
        runtime.launch(scale, x=x, by=projection)
    with pytest.raises(LaunchError, match=message):
        runtime.bind(scale, x=x, by=projection)


def holders(value: Any) -> list[Any]:
    return [(value,), [1, value], {"k": value}, {1: [2, (value,)]}]


@pytest.mark.parametrize("number", range(len(holders(None))))
def test_a_future_inside_a_value(number: int) -> None:
    runtime = Runtime()
    x = line(runtime, "x")
    value = holders(runtime.launch(add_up, x=x))[number]
    message = "task scale: argument by is .*, a (tuple|list|dict) with a Future in it, which the"
    with pytest.raises(LaunchError, match=message):
        runtime.launch(scale, x=x, by=value)
    with pytest.raises(LaunchError, match=message):
        runtime.index_launch(scale, 2, x=equal(x, 2), by=value)
    with pytest.raises(
        LaunchError, match=r"task increment: argument otherwise is .* with a Future in it"
    ):
        runtime.launch(increment, x=x, predicate=runtime.launch(add_up, x=x), otherwise=value)
    trace = runtime.trace("step", lambda by: runtime.launch(scale, x=x, by=by))
    with pytest.raises(TraceError, match=r"trace step: parameter by is .* with a future, expected"):
        trace(by=value)


@pytest.mark.parametrize("number", range(len(holders(None))))
def test_a_parameter_or_projection_inside_a_value(number: int) -> None:
    runtime = Runtime()
    x = line(runtime, "x")
    trace = runtime.trace("step", lambda by: runtime.launch(scale, x=x, by=holders(by)[number]))
    with pytest.raises(LaunchError, match=r"argument by is .* with a Parameter in it"):
        trace(by=1)
    with pytest.raises(LaunchError, match=r"argument by is .* with a Projection in it"):
        runtime.index_launch(scale, 2, x=equal(x, 2), by=holders(ID)[number])


def test_values_that_hold_plain_ones_only() -> None:
    runtime = Runtime()
    x = line(runtime, "x")
    for value in holders((1, "a")):
        assert runtime.launch(scale, x=x, by=value).get() == value


def test_a_projection_as_the_parameter_of_a_trace() -> None:
    runtime = Runtime()
    x = line(runtime, "x")
    trace = runtime.trace("step", lambda by: runtime.index_launch(scale, 2, x=equal(x, 2), by=by))
    with pytest.raises(TraceError, match="trace step: parameter by is a projection, expected a"):
        trace(by=ID)


@pytest.mark.parametrize("shape", [4, 2.5, (2.5,), "ab", ("a",), None])
def test_a_shape_that_is_none(shape: Any) -> None:
    with pytest.raises(LaunchError, match=r"region x: shape .*, expected 1 to 4 dimensions"):
        Runtime().region("x", shape, {"value": "int64"})


def test_a_shape_of_numpys_integers() -> None:
    runtime = Runtime()
    x = runtime.region("x", tuple(np.array([2, 3])), {"value": "int64"})
    assert x.shape == (2, 3)
    assert all(type(extent) is int for extent in x.shape)


@pytest.mark.parametrize("dtype", ["bogus", 3, (1, 2, 3)])
def test_a_type_that_nobody_knows(dtype: Any) -> None:
    with pytest.raises(LaunchError, match=r"region x: field value is of type .*, expected one"):
        Runtime().region("x", (4,), {"value": dtype})


@pytest.mark.parametrize("fields", ["int64", ["value"], {}])
def test_fields_that_are_none(fields: Any) -> None:
    with pytest.raises(LaunchError, match="region x: expected at least one field, by name with"):
        Runtime().region("x", (4,), fields)


def test_a_domain_that_is_no_number() -> None:
    runtime = Runtime()
    x = line(runtime, "x")
    domains: list[Any] = [2.0, "2", (), runtime.launch(add_up, x=x)]
    for domain in domains:
        with pytest.raises(LaunchError, match=r"domain .*expected"):
            runtime.index_launch(scale, domain, x=x, by=1)
    two: Any = np.int64(2)
    assert len(runtime.index_launch(scale, two, x=equal(x, two), by=1)) == 2


def test_a_shift_for_a_domain_of_other_dimensions() -> None:
    runtime = Runtime()
    grid = runtime.region("grid", (4, 4), {"value": "int64"})
    quarters = equal(grid, (2, 2))
    with pytest.raises(LaunchError, match=r"shift\(1\): point \(0, 0\) has 2 dimensions, expect"):
        runtime.index_launch(increment, (2, 2), x=quarters[shift(1)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"executor": "threads"}, "executor is 'threads' .str., expected an object such as Serial"),
        ({"executor": ThreadedExecutor}, "executor is .* .class., expected an object such as"),
        ({"machine": 2}, r"machine is 2 .int., expected an object such as SimulatedRanks\(2\)"),
        ({"mapper": "mapper.yaml"}, "mapper is 'mapper.yaml' .str., expected an object such as"),
    ],
    ids=str,
)
def test_a_name_is_no_executor_machine_or_mapper(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Runtime(**arguments)


def test_the_runtime_is_had_from_its_package() -> None:
    from specinfer import runtime

    assert runtime.Runtime is Runtime
    with pytest.raises(AttributeError, match="has no attribute 'Runtim'"):
        runtime.__getattr__("Runtim")
