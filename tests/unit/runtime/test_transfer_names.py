"""What transfers are called, and which of them are communication."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from specinfer.runtime.context import Runtime
from specinfer.runtime.dependence import LaunchId
from specinfer.runtime.executor import Operation
from specinfer.runtime.executor.in_order import InOrderExecutor
from specinfer.runtime.machine.sim import SimulatedRanks
from specinfer.runtime.partition import equal
from specinfer.runtime.privilege import R, Reduce
from specinfer.runtime.task import task


class Listing(InOrderExecutor):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool]] = []

    def submit(
        self, id: LaunchId, operation: Operation, waits_for: Collection[LaunchId]
    ) -> Sequence[LaunchId]:
        self.seen.append((str(operation), operation.is_communication))
        return super().submit(id, operation, waits_for)


@task(x=R, total=Reduce("+"))
def add_up(x: NDArray[np.int64], total: NDArray[np.int64]) -> None:
    total += x.sum()


def test_a_transfer_names_its_region_and_a_reset_moves_nothing() -> None:
    executor = Listing()
    runtime = Runtime(executor, machine=SimulatedRanks(2))
    x = runtime.region("x", (4,), {"value": "int64"}, {"value": np.arange(4)})
    total = runtime.region("total", (1,), {"value": "int64"})
    runtime.index_launch(add_up, 2, x=equal(x, 2), total=total)
    assert runtime.read(total.part()) == [6]
    transfers = [
        (name, moves) for name, moves in executor.seen if " of " in name and "read" not in name
    ]
    assert transfers == [
        ("reset of total.value", False),
        ("reset of total.value", False),
        ("all-reduce of total.value", True),
    ]
