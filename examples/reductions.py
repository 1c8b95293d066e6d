"""Reductions: many points add to one total. Nothing moves between ranks until it is read.

python examples/reductions.py
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from specinfer.runtime.context import Runtime
from specinfer.runtime.executor import Operation
from specinfer.runtime.executor.in_order import InOrderExecutor
from specinfer.runtime.machine.sim import SimulatedRanks
from specinfer.runtime.partition import equal
from specinfer.runtime.privilege import R, Reduce
from specinfer.runtime.task import task


class Telling(InOrderExecutor):
    """Runs each operation when it is issued, and says what moves between ranks."""

    def submit(self, id: int, operation: Operation, waits_for: Collection[int]) -> Sequence[int]:
        """Run one operation."""
        if operation.is_communication:
            print("  moves:", operation)
        return super().submit(id, operation, waits_for)


@task(x=R, total=Reduce("+"))
def add_up(x: NDArray[np.int64], total: NDArray[np.int64]) -> None:
    """Fold what is in ``x`` into the total, which is never read here."""
    total += x.sum()


# Four ranks in this process, each with a memory of its own.
runtime = Runtime(Telling(), machine=SimulatedRanks(4))
x = runtime.region("x", (8,), {"value": "int64"}, {"value": np.arange(8)})
total = runtime.region("total", (1,), {"value": "int64"})

print("three launches of four points; each rank adds to a part of its own")
for _ in range(3):
    runtime.index_launch(add_up, 4, x=equal(x, 4), total=total)

print("read")
print("total:", *runtime.read(total.part()), "= 3 *", sum(range(8)))

print("read again: every rank has it by now")
print("total:", *runtime.read(total.part()))

# Prints:
# three launches of four points; each rank adds to a part of its own
# read
#   moves: all-reduce of total.value
# total: 84 = 3 * 28
# read again: every rank has it by now
# total: 84
