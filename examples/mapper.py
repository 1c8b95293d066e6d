"""A mapper of your own: it decides where tasks run, and cannot change what they compute.

python examples/mapper.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

from specinfer.runtime.binding import Binding
from specinfer.runtime.context import Runtime
from specinfer.runtime.executor.in_order import InOrderExecutor
from specinfer.runtime.machine.sim import SimulatedRanks
from specinfer.runtime.mapper import Divided, Mapper, On, Shardings, Where
from specinfer.runtime.mesh import line
from specinfer.runtime.privilege import RW, R
from specinfer.runtime.task import task

RANKS = 3


@task(x=RW, pure=True, axes={"x": ("rows",)})
def square(x: Any) -> None:
    """Square every element."""
    x *= x


@task(x=R)
def show(x: Any) -> None:
    """Print what there is; not pure, so it runs on one rank."""
    print("  together", *x)


class Greedy(Mapper):
    """Gives the last rank as much as it can carry."""

    def place(self, launch: Binding, shardings: Shardings) -> Where:
        """Uneven blocks of rows; what cannot be divided runs on the last rank."""
        if "rows" not in launch.task.division.names:
            return On(RANKS - 1)
        rows = launch.units("rows").count
        return Divided({"ranks": ("rows", ((0, 1), (1, 1), (1, rows)))})


for mapper in (Mapper(line(RANKS)), Greedy(line(RANKS))):
    machine = SimulatedRanks(RANKS)
    runtime = Runtime(InOrderExecutor(), machine=machine, mapper=mapper)
    x = runtime.region("x", (6,), {"value": "int64"}, {"value": np.arange(2, 8)})
    runtime.launch(square, x=x)
    print(type(mapper).__name__)
    for rank in range(RANKS):  # a look into the memories: what a rank did not compute is old
        print(f"  rank {rank} has", *machine.instances(rank).main((x.id, "value")))
    runtime.launch(show, x=x)

# Prints:
# Mapper
#   rank 0 has 4 9 16 25 36 49
#   rank 1 has 4 9 16 25 36 49
#   rank 2 has 4 9 16 25 36 49
#   together 4 9 16 25 36 49
# Greedy
#   rank 0 has 4 3 4 5 6 7
#   rank 1 has 2 3 4 5 6 7
#   rank 2 has 2 9 16 25 36 49
#   together 4 9 16 25 36 49
