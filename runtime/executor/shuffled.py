"""Runs operations later, in a random order that keeps their dependences: looks for missing ones."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from specinfer.runtime.dependence import LaunchId
from specinfer.runtime.executor import Failure, Operation
from specinfer.runtime.executor.guard import Guard
from specinfer.runtime.poison import PoisonedData
from specinfer.runtime.ready import ReadyQueue


class ShuffledExecutor:
    """Plays one of the orders that are allowed.

    Args:
        seed: which one.
    """

    is_in_order = False

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._ready = ReadyQueue()
        self._operations: dict[LaunchId, Operation] = {}
        self._runnable: list[LaunchId] = []
        self._finished: list[LaunchId] = []
        self._guard = Guard()

    @property
    def poisoned(self) -> PoisonedData:
        """Data that were never made."""
        return self._guard.poisoned

    def submit(
        self, id: LaunchId, operation: Operation, waits_for: Collection[LaunchId]
    ) -> Sequence[LaunchId]:
        """Keep the operation; sometimes run a few."""
        self._operations[id] = operation
        self._runnable += self._ready.submitted(id, waits_for)
        while self._runnable and self._random.random() < 0.4:
            self._run_one()
        if self._random.random() < 0.5:
            return ()
        finished, self._finished = self._finished, []
        return finished

    def wait(self, ids: Collection[LaunchId] | None) -> None:
        """Run operations until these (default all) have run."""
        while self._ready.unfinished(ids):
            self._run_one()

    def take_failures(self) -> list[Failure]:
        """What raised since the last time."""
        return self._guard.take_failures()

    def close(self) -> None:
        """Forget what has not run: nobody waits for it any more."""
        self._ready = ReadyQueue()
        self._runnable.clear()
        self._operations.clear()

    def _run_one(self) -> None:
        id = self._runnable.pop(self._random.randrange(len(self._runnable)))
        try:
            self._guard.run(id, self._operations.pop(id))
        finally:  # also if it was interrupted
            self._finished.append(id)
            self._runnable += self._ready.finished(id)
