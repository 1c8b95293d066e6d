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
from specinfer.runtime.memory import Memory, OutOfMemoryError
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


BROADCAST = np.broadcast_to(np.zeros(1, int), 4)
READ_ONLY = np.zeros(4, int)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), r"region x\.v: attached \(3,\), expected \(4,\)"),
        (np.zeros((4, 1)), r"region x\.v: attached \(4, 1\), expected \(4,\)"),
        (torch.zeros(5), r"region x\.v: attached \(5,\), expected \(4,\)"),
        (np.zeros(4, "float32"), r"region x\.v: attached an array of float32, expected int64, as"),
        (torch.zeros(4), r"region x\.v: attached an array of torch\.float32, expected int64, as"),
        (np.zeros(4, ">i8"), r"region x\.v: attached an array of >i8, expected int64, as the f"),
        (BROADCAST, r"region x\.v: .* several elements in the same bytes \(broadcast\?\)"),
        (torch.zeros(1).long().expand(4), r"region x\.v: .* several elements in the same bytes"),
        (READ_ONLY, r"region x\.v: attached an array that is read-only, expected one that tasks"),
        ([0, 0, 0, 0], r"region x\.v: attached list, expected an array, or an object with DLPack"),
        (None, r"region x\.v: attached NoneType, expected an array, or an object with DLPack"),
    ],
    ids=[
        "too short",
        "other dimension",
        "too long",
        "floats",
        "floats of torch",
        "bytes in another order",
        "broadcast",
        "broadcast by torch",
        "read-only",
        "list",
        "nothing",
    ],
)
def test_refuses_what_cannot_be_its_memory(array: Any, message: str) -> None:
    runtime = Runtime()
    x = runtime.region("x", (4,), {"v": "int64"})
    with pytest.raises(LaunchError, match=message):
        runtime.attach(x, "v", array)


@pytest.mark.parametrize("make", [np.zeros, torch.zeros], ids=["numpy", "torch"])
class TestOverlap:
    """Launches that use one field do not wait for those that use another."""

    @everywhere
    def test_is_refused(self, kind: str, make: Callable[..., Any]) -> None:
        with MAKERS[kind]() as runtime:
            array = make(6)
            fields = {"v": array.dtype}
            runtime.region("x", (4,), fields, {"v": array[:4]})
            y = runtime.region("y", (3,), fields)
            message = r"region y\.v: attached an array that overlaps with that of x\.v, expected"
            with pytest.raises(LaunchError, match=message):
                runtime.attach(y, "v", array[3:])
            with pytest.raises(LaunchError, match=message):
                runtime.region("y", (3,), fields, {"v": array[3:]})
            runtime.attach(y, "v", make(3))
            runtime.launch(increment, x=y)
            assert runtime.read(y).tolist() == [1, 1, 1]

    def test_of_fields_of_one_region_is_refused(self, make: Callable[..., Any]) -> None:
        array = make(4)
        with pytest.raises(LaunchError, match=r"region x\.b: .* overlaps with that of x\.a, exp"):
            Runtime().region(
                "x", (4,), {"a": array.dtype, "b": array.dtype}, {"a": array, "b": array}
            )

    def test_of_neighbours_and_columns_is_none(self, make: Callable[..., Any]) -> None:
        runtime, array = Runtime(), make((4, 6))
        for name, part in (
            ("above", array[:2, :]),
            ("left", array[2:, :3]),
            ("right", array[2:, 3:]),
            ("nothing", array[:0, :]),
        ):
            x = runtime.region(name, tuple(part.shape), {"v": array.dtype}, {"v": part})
            runtime.launch(increment, x=x)
        assert (array == 1).all()

    def test_with_what_was_given_back_or_exchanged_is_none(self, make: Callable[..., Any]) -> None:
        runtime, array = Runtime(), make(4)
        x, y = (runtime.region(name, (4,), {"v": array.dtype}) for name in "xy")
        runtime.attach(x, "v", array)
        runtime.attach(x, "v", array)  # the same again
        runtime.detach(x, "v")
        runtime.attach(y, "v", array)
        runtime.attach(y, "v", make(4))
        runtime.attach(x, "v", array)
        runtime.launch(increment, x=x)
        assert (array.tolist(), runtime.read(y).tolist()) == ([1] * 4, [0] * 4)

    def test_with_what_was_refused_is_none(self, make: Callable[..., Any]) -> None:
        runtime, array = Runtime(memories=[Memory("cpu", 100)]), make(4)
        with pytest.raises(OutOfMemoryError):
            runtime.region("x", (4,), {"v": array.dtype, "w": "S50"}, {"v": array})
        y = runtime.region("y", (4,), {"v": array.dtype}, {"v": array})
        assert runtime.read(y).tolist() == [0] * 4

    def test_of_fields_in_different_runtimes_is_the_programs_affair(
        self, make: Callable[..., Any]
    ) -> None:
        array = make(4)
        for runtime in (Runtime(), Runtime()):
            x = runtime.region("x", (4,), {"v": array.dtype}, {"v": array})
            runtime.launch(increment, x=x)
        assert array.tolist() == [2] * 4


def test_columns_of_a_record_are_fields_of_a_region() -> None:
    records = np.zeros(3, [("a", "float32"), ("b", "int64")])
    arrays = {name: records[name] for name in "ab"}
    x = Runtime().region("x", (3,), {"a": "float32", "b": "int64"}, arrays)
    assert x.fields == {"a": "float32", "b": "int64"}


def test_an_array_that_does_not_say_where_it_lies_is_taken() -> None:
    runtime, array = Runtime(), torch.zeros(2, 2).to_mkldnn()
    for name in "xy":
        runtime.region(name, (2, 2), {"v": torch.float32}, {"v": array})


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
