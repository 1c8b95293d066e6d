"""Temporary values lie over each other in memory, and nobody sees it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from specinfer.runtime import binding
from specinfer.runtime.arena import ArenaError
from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import LaunchError, MapperError, PoisonedError
from specinfer.runtime.executor.in_order import InOrderExecutor
from specinfer.runtime.executor.shuffled import ShuffledExecutor
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.machine.sim import SimulatedRanks
from specinfer.runtime.mapper import Mapper
from specinfer.runtime.mapper.random import RandomMapper
from specinfer.runtime.memory import Memory, OutOfMemoryError
from specinfer.runtime.mesh import Mesh, line
from specinfer.runtime.partition import equal
from specinfer.runtime.privilege import WD, R, Reduce
from specinfer.runtime.region import Region, Storage
from specinfer.runtime.task import task
from specinfer.runtime.temporaries import Temporary


@task(out=WD, pure=True)
def fill(out: Any, number: int) -> None:
    out[...] = number


@task(x=R, y=R, out=WD, pure=True)
def combine(x: Any, y: Any, out: Any) -> None:
    out[...] = 2 * x.sum() + y.sum()


@task(x=R, total=Reduce("+"), pure=True)
def add_up(x: Any, total: Any) -> None:
    total += x.sum()


def program(runtime: Runtime, seed: int) -> int:
    """Random values of random lifetimes; what is left of them all."""
    generator = random.Random(seed)
    steps = generator.randint(3, 12)
    inputs = [
        (max(0, n - generator.randint(1, 4)), max(0, n - generator.randint(1, 4)))
        for n in range(steps)
    ]
    last = {n: n for n in range(steps)}
    for n, used in enumerate(inputs):
        for m in used if n else ():
            last[m] = n
    for n in range(steps):  # the total reads each value when it has been used
        last[n] = max(last[n], n) + 1
    values = [
        Temporary(f"v{n}", (generator.randint(1, 9),), "int64", 2 * n, 2 * last[n] + 1)
        for n in range(steps)
    ]
    regions = list(runtime.temporaries("values", values).values())
    total = runtime.region("total", (1,), {"value": "int64"})
    added: set[int] = set()
    for n, (x, y) in enumerate(inputs):
        if n:
            runtime.launch(combine, x=regions[x], y=regions[y], out=regions[n])
        else:
            runtime.launch(fill, out=regions[n], number=seed % 7 + 1)
        for m in range(n + 1):
            if last[m] <= n and m not in added:
                added.add(m)
                runtime.launch(add_up, x=regions[m], total=total)
    return int(runtime.read(total.part())[0])


EXECUTORS: dict[str, Callable[[int], Runtime]] = {
    "threads": lambda seed: Runtime(ThreadedExecutor(3)),
    "shuffled": lambda seed: Runtime(ShuffledExecutor(seed)),
    "simulated": lambda seed: Runtime(
        ShuffledExecutor(seed),
        machine=SimulatedRanks(3),
        mapper=RandomMapper(Mesh.of({"a": 3}), seed),
    ),
}


@pytest.mark.parametrize("kind", EXECUTORS)
def test_values_that_share_bytes_do_not_spoil_each_other(kind: str) -> None:
    for seed in range(60):
        with EXECUTORS[kind](seed) as runtime:
            assert program(runtime, seed) == program(Runtime(), seed), seed


def test_without_the_bytes_in_the_analysis_they_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "storage_requirements", lambda *_: iter(()))
    wrong = 0
    for seed in range(60):
        wrong += program(Runtime(ShuffledExecutor(seed)), seed) != program(Runtime(), seed)
    assert wrong > 10


@pytest.mark.parametrize("dtype", ["float32", torch.float32, torch.bfloat16])
def test_an_arena_is_as_large_as_what_lives_at_once(dtype: Any) -> None:
    memory = Memory("cpu")
    runtime = Runtime(memories=[memory])
    values = [Temporary(f"v{n}", (16, 4), dtype, n, n + 1) for n in range(10)]
    regions = runtime.temporaries("chain", values)
    itemsize = 2 if dtype == torch.bfloat16 else 4
    assert memory.holders == (("chain", 2 * 64 * itemsize),)
    first, _, third, *_ = (runtime.array(r, "value") for r in regions.values())
    first[...] = 3
    assert third[0, 0] == 3  # the same bytes


@pytest.mark.parametrize(
    ("space", "interval"),
    [
        (((0, 0), (4, 8)), (64, 192)),
        (((1, 0), (2, 8)), (96, 128)),
        (((1, 2), (3, 4)), (104, 144)),  # the rest of the rows between them, too
        (((1, 2), (1, 4)), (64, 64)),
    ],
)
def test_bytes_of_a_part(space: Any, interval: tuple[int, int]) -> None:
    found = Storage(0, 64, 4).interval((4, 8), IndexSpace(*space))
    assert (found.lo[0], found.hi[0]) == interval


def test_every_region_is_held_by_its_name() -> None:
    runtime = Runtime(memories=[Memory("cpu", 1000)])
    runtime.region("cache", (8, 4), {"k": "float32", "v": "float32"})
    runtime.region("x", (3,), {"value": "int64"}, {"value": np.zeros(3, np.int64)})
    assert runtime.memories["cpu"].holders == (("cache", 256), ("x", 24))
    with pytest.raises(
        OutOfMemoryError,
        match=r"cpu: big asks for 880 B, but 720 B of 1000 B are left, 160 B too few; "
        r"held: cache 256 B, x 24 B",
    ):
        runtime.region("big", (110,), {"a": "int32", "b": "int32"})
    assert runtime.memories["cpu"].used == 280
    assert runtime.region("small", (1,), {"value": "int8"}).id == 2  # as if nothing had been asked


class Elsewhere(Mapper):
    """Keeps all data in a memory of its own."""

    def memory(self, region: Region) -> str:
        return "far"


def test_a_mapper_chooses_the_memory() -> None:
    runtime = Runtime(mapper=Elsewhere(line(1)), memories=[Memory("far"), Memory("cpu")])
    runtime.region("x", (3,), {"value": "int64"})
    assert runtime.memories["far"].used == 24


class Scattered(Mapper):
    """Keeps every value in a memory of its own."""

    def memory(self, region: Region) -> str:
        return region.name


def test_the_values_of_an_arena_are_in_one_memory() -> None:
    runtime = Runtime(mapper=Scattered(line(1)), memories=[Memory("x"), Memory("y")])
    with pytest.raises(
        MapperError, match="arena grid: a mapper put its values into memories x, y, expected one"
    ):
        grid(runtime)


def test_refuses_values_of_several_libraries() -> None:
    values = [Temporary("a", (1,), torch.int64, 0, 1), Temporary("b", (1,), "int64", 0, 1)]
    with pytest.raises(ArenaError, match="value b: is of int64, expected the array library of a,"):
        Runtime().temporaries("mixed", values)


def test_values_may_be_empty_and_there_may_be_none() -> None:
    runtime = Runtime()
    assert runtime.temporaries("none", []) == {}
    regions = runtime.temporaries("empty", [Temporary("x", (0, 4), "int64", 0, 0)])
    assert runtime.read(regions["x"].part()).shape == (0, 4)


def test_refuses_a_memory_that_is_not_there() -> None:
    runtime = Runtime(InOrderExecutor(), mapper=Elsewhere(line(1)))
    with pytest.raises(MapperError, match="region x: a mapper put it into memory 'far', expected"):
        runtime.region("x", (3,), {"value": "int64"})


def grid(runtime: Runtime) -> tuple[Region, Region]:
    """Two values with the same bytes."""
    values = [Temporary(name, (4, 4), "int64", n, n) for n, name in enumerate("xy")]
    x, y = runtime.temporaries("grid", values).values()
    return x, y


def test_columns_of_a_value_are_written_at_once() -> None:
    for seed in range(20):
        runtime = Runtime(ShuffledExecutor(seed))
        for region in grid(runtime):
            runtime.index_launch(fill, (1, 4), out=equal(region, (1, 4)), number=seed)
            assert (runtime.read(region.part()) == seed).all()


@task(out=WD)
def fail(out: Any) -> None:
    raise RuntimeError("no")


def test_bytes_are_not_poisoned_only_values_are() -> None:
    runtime = Runtime(InOrderExecutor())
    x, y = grid(runtime)
    runtime.launch(fail, out=x.part())
    with pytest.raises(PoisonedError):
        runtime.fence()
    for row in range(4):
        runtime.launch(fill, out=y.part(IndexSpace((row, 1), (row + 1, 2))), number=row)
    column = y.part(IndexSpace((0, 1), (4, 2)))
    total = runtime.region("total", (1,), {"value": "int64"})
    runtime.launch(add_up, x=column, total=total)
    assert runtime.read(total.part())[0] == 6
    with pytest.raises(PoisonedError):
        runtime.read(x.part())


def test_refuses_two_values_with_the_same_bytes_in_one_launch() -> None:
    runtime = Runtime()
    x, y = grid(runtime)
    total = runtime.region("total", (1,), {"value": "int64"})
    said = (
        r"task combine: x \(x.*\) and out \(y\) have the same bytes at different times, "
        "expected lifetimes that both reach this launch"
    )
    with pytest.raises(LaunchError, match=said):
        runtime.launch(combine, x=x, y=total, out=y)
    with pytest.raises(LaunchError, match=said):
        runtime.index_launch(combine, (1, 1), x=equal(x, (1, 1)), y=total, out=y)


def test_replays_see_the_bytes_too() -> None:
    """A trace's edges, also from one replay to the next, are those of an analysed program."""
    for seed in range(30):
        runtime = Runtime(ShuffledExecutor(seed))
        values = [Temporary(f"v{n}", (3,), "int64", n, n + 1) for n in range(4)]
        chain = list(runtime.temporaries("chain", values).values())
        total = runtime.region("total", (1,), {"value": "int64"})

        def body(runtime: Runtime = runtime, chain: Any = chain, total: Any = total) -> None:
            runtime.launch(fill, out=chain[0], number=1)
            for earlier, later in itertools.pairwise(chain):
                runtime.launch(combine, x=earlier, y=earlier, out=later)
            runtime.launch(add_up, x=chain[-1], total=total)

        trace = runtime.trace("chain", body)
        for _ in range(5):
            trace()
        assert trace.stats.replayed
        assert runtime.read(total.part())[0] == 5 * 3 * 9**3
