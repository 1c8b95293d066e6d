"""Tensor parallelism from a mapper: two layers written without communication, divided by rules.

python examples/tensor_parallel.py
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specinfer.runtime.context import Runtime
from specinfer.runtime.executor import Operation
from specinfer.runtime.executor.in_order import InOrderExecutor
from specinfer.runtime.machine import Machine
from specinfer.runtime.machine.one import OneRank
from specinfer.runtime.machine.sim import SimulatedRanks
from specinfer.runtime.mapper.yaml import YamlMapper
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.region import Region
from specinfer.runtime.task import task

Numbers = NDArray[np.int64]
ROWS, HIDDEN, INNER = 4, 6, 8

# A task says what its dimensions count. A launch may be divided along any of these axes; divided
# along `in`, each part writes a summand of the result.
LINEAR = {"x": ("rows", "in"), "w": ("features", "in"), "out": ("rows", "features")}
SAME = ("rows", "features")


@task(x=R, w=R, out=WD, pure=True, axes=LINEAR, sums=["in"])
def linear(x: Numbers, w: Numbers, out: Numbers) -> None:
    """Multiply by weights."""
    out[:] = x @ w.T


@task(x=R, out=WD, pure=True, axes={"x": SAME, "out": SAME})
def relu(x: Numbers, out: Numbers) -> None:
    """Keep what is positive."""
    np.maximum(x, 0, out=out)


@task(x=R, y=R, out=WD, pure=True, axes={"x": SAME, "y": SAME, "out": SAME})
def add(x: Numbers, y: Numbers, out: Numbers) -> None:
    """Add up."""
    np.add(x, y, out=out)


def mlp(runtime: Runtime) -> Numbers:
    """Compute ``x + relu(x @ w1.T) @ w2.T``: the whole program. It knows of no ranks."""

    def region(name: str, *shape: int) -> Region:
        return runtime.region(name, shape, {"value": "int64"})

    def filled(name: str, *shape: int) -> Region:
        values = np.random.default_rng(shape[0]).integers(-4, 5, shape)
        return runtime.region(name, shape, {"value": "int64"}, {"value": values})

    x = filled("x", ROWS, HIDDEN)
    w1, w2 = filled("w1", INNER, HIDDEN), filled("w2", HIDDEN, INNER)
    up, active = region("up", ROWS, INNER), region("active", ROWS, INNER)
    down, out = region("down", ROWS, HIDDEN), region("out", ROWS, HIDDEN)
    runtime.launch(linear, x=x, w=w1, out=up)
    runtime.launch(relu, x=up, out=active)
    runtime.launch(linear, x=active, w=w2, out=down)
    runtime.launch(add, x=x, y=down, out=out)
    result: Numbers = runtime.read(out.part())
    return result


class Telling(InOrderExecutor):
    """Runs each operation when it is issued, and says what moves between ranks."""

    def submit(self, id: int, operation: Operation, waits_for: Collection[int]) -> Sequence[int]:
        """Run one operation."""
        if operation.is_communication:
            print("  moves:", operation)
        return super().submit(id, operation, waits_for)


def show(title: str, machine: Machine, rules: Sequence[dict[str, Any]]) -> None:
    """Run the program as the rules say."""
    print(title)
    mapper = YamlMapper({"mesh": {"tensor": machine.num_ranks}, "launches": rules})
    result = mlp(Runtime(Telling(), machine=machine, mapper=mapper))
    print("  sum of the result:", result.sum(), " first row:", *result[0])


show("one rank", OneRank(), [])

# The rows of w1 over two ranks. What follows is divided as its data lie: `relu`, and the second
# `linear`, of which each rank makes a summand. `add` needs the sum.
features = {"region": "w1", "divide": "features", "over": "tensor"}
show("two ranks, features divided", SimulatedRanks(2), [features])

# `add` by rows: each rank needs the sum of its rows only, and at the end all of them are read.
rows = {"task": "add", "divide": "rows", "over": "tensor"}
show("two ranks, and the rows of add divided", SimulatedRanks(2), [features, rows])

# Prints:
# one rank
#   sum of the result: 455  first row: 14 13 -32 76 -43 -22
# two ranks, features divided
#   moves: all-reduce of down.value
#   sum of the result: 455  first row: 14 13 -32 76 -43 -22
# two ranks, and the rows of add divided
#   moves: reduce-scatter of down.value
#   moves: all-gather of out.value
#   sum of the result: 455  first row: 14 13 -32 76 -43 -22
