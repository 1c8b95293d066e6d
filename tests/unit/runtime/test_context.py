"""A program launches tasks on a runtime and reads what they leave, as if they ran in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import LaunchError
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.privilege import RW, WD, R
from specinfer.runtime.region import Region
from specinfer.runtime.task import task

NUM_ROWS = 8


@task(x=RW)
def increment(x: Any, by: int) -> None:
    x += by


@task(x=R, y=WD)
def copy(x: Any, y: Any) -> None:
    y[...] = x


class OnlyDLPack:
    """An array that says nothing of itself but how to take it over."""

    def __init__(self, array: torch.Tensor) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


@pytest.fixture(params=["serial", "threads"])
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    with Runtime(ThreadedExecutor(2) if request.param == "threads" else None) as runtime:
        yield runtime


def zeros(runtime: Runtime, name: str = "x") -> Region:
    return runtime.region(
        name, (NUM_ROWS,), {"value": "int64"}, {"value": np.zeros(NUM_ROWS, np.int64)}
    )


def test_launches_run_in_program_order(runtime: Runtime) -> None:
    x, y = zeros(runtime, "x"), zeros(runtime, "y")
    runtime.launch(increment, x=x.rows(0, 4), by=1)
    runtime.launch(copy, x=x.part(), y=y.part())
    runtime.launch(increment, x=x.rows(2, 8), by=10)
    runtime.launch(copy, x=x.rows(0, 2), y=y.rows(6, 8))
    assert runtime.read(x.part()).tolist() == [1, 1, 11, 11, 10, 10, 10, 10]
    assert runtime.read(y.part()).tolist() == [1, 1, 1, 1, 0, 0, 1, 1]


def test_a_read_waits_for_what_was_launched_before_it(runtime: Runtime) -> None:
    x = zeros(runtime)
    for expected in range(1, 20):
        runtime.launch(increment, x=x.part(), by=1)
        assert runtime.read(x.rows(3, 4)).tolist() == [expected]


def test_after_a_fence_everything_has_run(runtime: Runtime) -> None:
    regions = [zeros(runtime, f"x{i}") for i in range(4)]
    for region in regions:
        runtime.launch(increment, x=region.part(), by=1)
    runtime.fence()
    assert [int(runtime.array(region, "value")[0]) for region in regions] == [1, 1, 1, 1]


def test_launches_bound_once_are_issued_again_and_again(runtime: Runtime) -> None:
    x = zeros(runtime)
    step = [
        runtime.bind(increment, x=x.rows(0, 4), by=1),
        runtime.bind(copy, x=x.rows(0, 4), y=x.rows(4, 8)),
    ]
    for _ in range(5):
        runtime.issue_all(step)
    assert runtime.read(x.part()).tolist() == [5] * NUM_ROWS


def test_regions_are_numbered_in_order_of_creation(runtime: Runtime) -> None:
    assert [zeros(runtime, name).id for name in "abc"] == [0, 1, 2]


def test_a_field_without_memory_starts_as_zeros(runtime: Runtime) -> None:
    x = runtime.region("x", (2,), {"value": "int64"})
    runtime.launch(increment, x=x.part(), by=1)
    assert runtime.read(x.part()).tolist() == [1, 1]


def test_memory_may_be_attached_later(runtime: Runtime) -> None:
    x, memory = runtime.region("x", (2,), {"value": "int64"}), np.array([5, 6])
    runtime.launch(increment, x=x.part(), by=1)
    runtime.attach(x, "value", memory)
    runtime.launch(increment, x=x.part(), by=1)
    assert runtime.read(x.part()).tolist() == [6, 7]
    assert memory.tolist() == [6, 7]


def test_memory_detached_is_the_users_again(runtime: Runtime) -> None:
    memory = np.zeros(2, np.int64)
    x = runtime.region("x", (2,), {"value": "int64"}, {"value": memory})
    runtime.launch(increment, x=x.part(), by=1)
    assert runtime.detach(x, "value") is memory
    assert memory.tolist() == [1, 1]
    runtime.launch(increment, x=x.part(), by=1)
    runtime.fence()
    assert memory.tolist() == [1, 1]


@pytest.mark.parametrize(
    "make",
    [lambda n: np.zeros(n, "float32"), torch.zeros, lambda n: OnlyDLPack(torch.zeros(n))],
)
def test_memory_of_any_library_is_attached(runtime: Runtime, make: Any) -> None:
    x = runtime.region("x", (2,), {"value": "float32"}, {"value": make(2)})
    runtime.launch(increment, x=x.rows(0, 1), by=1)
    assert runtime.read(x.part()).tolist() == [1, 0]


def test_refuses_memory_for_an_unknown_field(runtime: Runtime) -> None:
    x = runtime.region("x", (2,), {"value": "int64"})
    with pytest.raises(LaunchError, match=r"region x: no field 'q', expected one of \['value'\]"):
        runtime.attach(x, "q", np.zeros(2))


def test_refuses_memory_of_another_shape(runtime: Runtime) -> None:
    with pytest.raises(LaunchError, match=r"region x.value: attached \(3,\), expected \(2,\)"):
        runtime.region("x", (2,), {"value": "int64"}, {"value": np.zeros(3)})


def test_a_launch_refused_leaves_no_trace(runtime: Runtime) -> None:
    x = zeros(runtime)
    with pytest.raises(LaunchError, match="overlap in one launch"):
        runtime.launch(copy, x=x.part(), y=x.part())
    runtime.launch(increment, x=x.part(), by=1)
    assert runtime.read(x.part()).tolist() == [1] * NUM_ROWS
