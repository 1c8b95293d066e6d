"""Memory of the program as the memory of a field, and back again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from unit.runtime.setups import MAKERS, everywhere, on_ranks

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import LaunchError
from specinfer.runtime.partition import equal
from specinfer.runtime.privilege import RW, WD, R, Reduce
from specinfer.runtime.task import task


@task(x=RW)
def increment(x: Any) -> None:
    x += 1


@task(x=R, y=WD)
def copy(x: Any, y: Any) -> None:
    y[...] = x


@task(x=R, total=Reduce("+"))
def add_up(x: Any, total: Any) -> None:
    total += x.sum()


class OnlyDLPack:
    """An array that says nothing of itself but how to take it over."""

    def __init__(self, array: torch.Tensor) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


libraries = pytest.mark.parametrize("make", [np.zeros, torch.zeros], ids=["numpy", "torch"])


@everywhere
@libraries
def test_an_array_becomes_the_memory_of_a_field(kind: str, make: Callable[..., Any]) -> None:
    with MAKERS[kind]() as runtime:
        array = make(4)
        x = runtime.region("x", (4,), {"v": array.dtype}, {"v": array})
        runtime.launch(increment, x=x.rows(0, 2))
        assert runtime.read(x).tolist() == [1, 1, 0, 0]
        assert array.tolist() == [1, 1, 0, 0]  # not a copy


@everywhere
def test_an_object_that_knows_only_dlpack_is_taken_over(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        array = OnlyDLPack(torch.zeros(4))
        x = runtime.region("x", (4,), {"v": "float32"}, {"v": array})
        runtime.launch(increment, x=x.rows(0, 2))
        assert runtime.read(x).tolist() == [1, 1, 0, 0]
        assert array.array.tolist() == [1, 1, 0, 0]


@libraries
def test_a_task_is_given_the_array_as_it_was_attached(make: Callable[..., Any]) -> None:
    seen = []

    @task(x=R)
    def look(x: Any) -> None:
        seen.append(type(x))

    runtime, array = Runtime(), make(4)
    x = runtime.region("x", (4,), {"v": array.dtype}, {"v": array})
    runtime.launch(look, x=x)
    runtime.launch(look, x=x.rows(0, 2))
    assert seen == [type(array)] * 2


@everywhere
def test_memory_may_be_exchanged(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        first, second = np.zeros(4, int), np.full(4, 10)
        x = runtime.region("x", (4,), {"v": "int64"}, {"v": first})
        runtime.launch(increment, x=x)
        runtime.attach(x, "v", second)
        runtime.launch(increment, x=x)
        assert runtime.read(x).tolist() == [11, 11, 11, 11]
        assert second.tolist() == [11, 11, 11, 11]


def test_what_was_launched_before_uses_the_memory_of_before() -> None:
    with MAKERS["threads"]() as runtime:
        first, second = np.zeros(4, int), np.zeros(4, int)
        x = runtime.region("x", (4,), {"v": "int64"}, {"v": first})
        for _ in range(10):
            runtime.launch(increment, x=x)
        runtime.attach(x, "v", second)
        assert (first.tolist(), second.tolist()) == ([10] * 4, [0] * 4)


def test_fields_may_have_memory_of_different_libraries() -> None:
    @task(x=RW)
    def add(x: Any) -> None:
        x.a[:] += x.b.numpy()

    runtime = Runtime()
    arrays = {"a": np.zeros(2, np.float32), "b": torch.ones(2)}
    x = runtime.region("x", (2,), {"a": "float32", "b": torch.float32}, arrays)
    runtime.launch(add, x=x)
    assert runtime.read(x.part(None, "a")).tolist() == [1, 1]


@everywhere
@pytest.mark.parametrize("dtype", ["int64", torch.int64, torch.bfloat16], ids=str)
def test_a_field_without_memory_starts_as_zeros_of_its_type(kind: str, dtype: Any) -> None:
    with MAKERS[kind]() as runtime:
        x = runtime.region("x", (2, 2), {"v": dtype})
        runtime.launch(increment, x=x.rows(1, 2))
        found = runtime.read(x)
        assert found.tolist() == [[0, 0], [1, 1]]
        assert found.dtype == dtype


class TestDetach:
    @everywhere
    @libraries
    def test_gives_the_array_itself_back(self, kind: str, make: Callable[..., Any]) -> None:
        with MAKERS[kind]() as runtime:
            array = make(4)
            x = runtime.region("x", (4,), {"v": array.dtype}, {"v": array})
            runtime.launch(increment, x=x)
            assert runtime.detach(x, "v") is array
            assert array.tolist() == [1, 1, 1, 1]

    @everywhere
    def test_brings_the_values_of_all_ranks_home(self, kind: str) -> None:
        with MAKERS[kind]() as runtime:
            array = np.zeros(6, int)
            x = runtime.region("x", (6,), {"v": "int64"}, {"v": array})
            runtime.index_launch(increment, 6, x=equal(x, 6))
            runtime.detach(x, "v")
            assert array.tolist() == [1] * 6

    @everywhere
    def test_carries_out_pending_reductions(self, kind: str) -> None:
        with MAKERS[kind]() as runtime:
            array = np.full(1, 100)
            x = runtime.region("x", (6,), {"v": "int64"}, {"v": np.arange(6)})
            total = runtime.region("total", (1,), {"v": "int64"}, {"v": array})
            runtime.index_launch(add_up, 3, x=equal(x, 3), total=total)
            runtime.detach(total, "v")
            assert array.tolist() == [115]

    @everywhere
    def test_leaves_zeros(self, kind: str) -> None:
        with MAKERS[kind]() as runtime:
            array = np.ones(4, int)
            x = runtime.region("x", (4,), {"v": "int64"}, {"v": array})
            runtime.launch(increment, x=x)
            runtime.detach(x, "v")
            runtime.launch(increment, x=x)
            assert runtime.read(x).tolist() == [1, 1, 1, 1]
            assert array.tolist() == [2, 2, 2, 2]

    def test_gives_memory_that_the_runtime_made(self) -> None:
        runtime = on_ranks(2)
        x = runtime.region("x", (4,), {"v": "int64"})
        runtime.launch(increment, x=x)
        assert runtime.detach(x, "v").tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("kind", ["serial", "sim"])
def test_refuses_a_field_that_there_is_not(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = runtime.region("x", (4,), {"v": "int64"})
        with pytest.raises(LaunchError, match=r"region x: no field 'w', expected one of \['v'\]"):
            runtime.attach(x, "w", np.zeros(4))
        with pytest.raises(LaunchError, match=r"region x: no field 'w', expected one of \['v'\]"):
            runtime.detach(x, "w")
        with pytest.raises(LaunchError, match=r"region y: no field 'w', expected one of \['v'\]"):
            runtime.region("y", (4,), {"v": "int64"}, {"w": np.zeros(4)})


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), r"region x\.v: attached \(3,\), expected \(4,\)"),
        (np.zeros((4, 1)), r"region x\.v: attached \(4, 1\), expected \(4,\)"),
        (torch.zeros(5), r"region x\.v: attached \(5,\), expected \(4,\)"),
        ([0, 0, 0, 0], r"region x\.v: attached list, expected an array, or an object with DLPack"),
        (None, r"region x\.v: attached NoneType, expected an array, or an object with DLPack"),
    ],
    ids=["too short", "other dimension", "too long", "list", "nothing"],
)
def test_refuses_what_cannot_be_its_memory(array: Any, message: str) -> None:
    runtime = Runtime()
    x = runtime.region("x", (4,), {"v": "int64"})
    with pytest.raises(LaunchError, match=message):
        runtime.attach(x, "v", array)


def test_refuses_to_attach_to_a_region_of_another_runtime() -> None:
    runtime, other = Runtime(), Runtime()
    x, y = runtime.region("x", (4,), {"v": "int64"}), other.region("y", (4,), {"v": "int64"})
    for act in (
        lambda: runtime.attach(y, "v", np.ones(4, int)),
        lambda: runtime.detach(y, "v"),
        lambda: runtime.read(y),
        lambda: runtime.array(y, "v"),
    ):
        with pytest.raises(LaunchError, match=r"y.* is of another runtime"):
            act()
    assert runtime.read(x).tolist() == [0, 0, 0, 0]
