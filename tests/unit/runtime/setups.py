"""What tests of the runtime share: runtimes of every kind, and an executor that lists moves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import pytest

from specinfer.runtime.context import Runtime
from specinfer.runtime.dependence import LaunchId
from specinfer.runtime.executor import Executor, Operation
from specinfer.runtime.executor.in_order import InOrderExecutor
from specinfer.runtime.executor.shuffled import ShuffledExecutor
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.machine.sim import SimulatedRanks
from specinfer.runtime.mapper import Mapper

MAKERS: Mapping[str, Callable[[], Runtime]] = {
    "serial": Runtime,
    "threads": lambda: Runtime(ThreadedExecutor(2)),
    "shuffled": lambda: Runtime(ShuffledExecutor(1)),
    "sim": lambda: Runtime(machine=SimulatedRanks(2)),
    "shuffled sim": lambda: Runtime(ShuffledExecutor(2), machine=SimulatedRanks(3)),
}
"""Every way to run a program in one process."""

everywhere = pytest.mark.parametrize("kind", MAKERS)
later = pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "serial"])
"""Those that tell of failures at the next wait."""


class Listing(InOrderExecutor):
    """Runs in order, and lists the operations that move data: those that came since last asked."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[str] = []

    def submit(
        self, id: LaunchId, operation: Operation, waits_for: Collection[LaunchId]
    ) -> Sequence[LaunchId]:
        if operation.is_communication:
            self._seen.append(str(operation))
        return super().submit(id, operation, waits_for)

    def moved(self) -> list[str]:
        """What moved since the last time."""
        seen, self._seen = self._seen, []
        return seen


def on_ranks(
    num_ranks: int, executor: Executor | None = None, mapper: Mapper | None = None
) -> Runtime:
    """A runtime on simulated ranks."""
    return Runtime(executor, machine=SimulatedRanks(num_ranks), mapper=mapper)
