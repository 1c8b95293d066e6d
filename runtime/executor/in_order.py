"""Runs each operation as it is issued, on one rank of many: a failure must not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from operator import length_hint
from typing import Any

from specinfer.runtime.dependence import LaunchId
from specinfer.runtime.executor import Failure, Operation, plain_calls
from specinfer.runtime.executor.guard import Guard
from specinfer.runtime.poison import PoisonedData


class InOrderExecutor:
    """One rank's operations, one after another."""

    is_in_order = True

    def __init__(self) -> None:
        self._guard = Guard()

    @property
    def poisoned(self) -> PoisonedData:
        """Data that were never made."""
        return self._guard.poisoned

    def submit(
        self, id: LaunchId, operation: Operation, waits_for: Collection[LaunchId]
    ) -> Sequence[LaunchId]:
        """Run the operation now, unless what it reads is poisoned."""
        self._guard.run(id, operation)
        return (id,)

    def prepare(self, operations: Sequence[Operation]) -> Sequence[Callable[[], Any]]:
        """A plain function for each."""
        return plain_calls(operations)

    def replay(
        self,
        base: LaunchId,
        calls: Sequence[Callable[[], Any]],
        operations: Sequence[Operation],
    ) -> None:
        """Run recorded operations."""
        done = 0
        if not self.poisoned:
            remaining = iter(calls)
            try:
                for call in remaining:
                    call()
                return
            except Exception as error:
                done = len(calls) - length_hint(remaining)
                operation = operations[done - 1]
                if operation.is_communication:
                    raise
                self._guard.fail(base + done - 1, operation, error)
        for id, operation in enumerate(operations[done:], start=base + done):
            self._guard.run(id, operation)

    def wait(self, ids: Collection[LaunchId] | None) -> None:
        """Return at once: everything submitted has run."""

    def take_failures(self) -> list[Failure]:
        """What raised since the last time."""
        return self._guard.take_failures()

    def close(self) -> None:
        """Do nothing."""
