"""What programs of the tests over MPI share: a machine, tasks, and a way to tell what happened."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import SpecInferError
from specinfer.runtime.machine.mpi import MPIRanks
from specinfer.runtime.mapper import Mapper
from specinfer.runtime.partition import equal
from specinfer.runtime.privilege import RW, WD, R, Reduce
from specinfer.runtime.region import Region
from specinfer.runtime.task import task

PATIENCE_SECONDS = 1.0


@task(x=RW, pure=True)
def scale(x: Any, factor: Any) -> None:
    """Nothing that would need its factor to be a number."""


@task(x=RW)
def bump(x: Any, by: int) -> int:
    x += by
    return int(x[0])


@task(x=RW)
def fail(x: Any, where: int | None) -> int:
    if where is not None and int(x[0]) == where:
        raise ValueError(f"no {where} please")
    return int(x[0])


@task(x=WD, pure=True)
def fill(x: Any, value: int) -> None:
    x[:] = value


@task(x=R, y=WD, pure=True)
def copy(x: Any, y: Any) -> None:
    y[:] = x


@task(x=R, total=Reduce("+"), pure=True)
def add_up(x: Any, total: Any) -> None:
    total += x.sum()


class Program:
    """A runtime with a few regions of 0, 1, 2, 3; part n of x and y is on rank n // 2."""

    def __init__(self, mapper: Callable[[MPIRanks], Mapper] | None = None) -> None:
        machine = MPIRanks(patience_seconds=PATIENCE_SECONDS)
        self.rank = machine.rank
        self.runtime = Runtime(machine=machine, mapper=mapper and mapper(machine))
        self.x, self.y = self.region("x"), self.region("y")
        self.total = self.runtime.region("total", (1,), {"value": "int64"})
        self.xs, self.ys = equal(self.x, 4), equal(self.y, 4)

    def region(self, name: str, size: int = 4) -> Region:
        values = {"value": np.arange(size)}
        return self.runtime.region(name, (size,), {"value": "int64"}, values)

    def say(self, *words: Any) -> None:
        """One line, that of no other rank in it."""
        sys.stdout.write(" ".join(map(str, (f"{self.rank}:", *words))) + "\n")
        sys.stdout.flush()

    def attempt(self, what: str, action: Callable[[], Any]) -> None:
        """Do something, and say what came of it."""
        try:
            self.say(what, "gives", action())
        except SpecInferError as error:
            self.say(what, "raises", f"{type(error).__name__}: {error}")

    def read(self, region: Region) -> list[int]:
        values: list[int] = self.runtime.read(region.part()).tolist()
        return values
