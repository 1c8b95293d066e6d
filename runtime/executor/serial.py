"""Runs each operation as it is issued, in program order: the meaning of every program."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from operator import length_hint
from typing import Any

from specinfer.runtime.dependence import LaunchId
from specinfer.runtime.errors import PoisonedError
from specinfer.runtime.executor import Failure, Operation, plain_calls
from specinfer.runtime.poison import PoisonedData


class SerialExecutor:
    """The oracle that every other executor must agree with: what raises, raises at its launch."""

    is_in_order = True

    def __init__(self) -> None:
        self.poisoned = PoisonedData()

    def submit(
        self, id: LaunchId, operation: Operation, waits_for: Collection[LaunchId]
    ) -> Sequence[LaunchId]:
        """Run the operation now.

        Raises:
            PoisonedError: it reads what an earlier one should have made, but raised.
        """
        if self.poisoned and (cause := self.poisoned.spreads(operation.requirements)):
            raise PoisonedError(f"{operation.as_of_now()} reads what was never made: {cause}")
        try:
            operation.run()
        except BaseException as error:
            self._fail(id, operation, error)
            raise
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
        if self.poisoned:
            for id, operation in enumerate(operations, start=base):
                self.submit(id, operation, ())
            return
        remaining = iter(calls)
        try:
            for call in remaining:
                call()
        except BaseException as error:
            at = len(calls) - length_hint(remaining) - 1
            self._fail(base + at, operations[at], error)
            raise

    def _fail(self, id: LaunchId, operation: Operation, error: BaseException) -> None:
        failure = Failure(id, operation.as_of_now(), error)
        self.poisoned.add(operation.requirements, failure.story)
        error.add_note(f"raised by {failure.operation}")

    def wait(self, ids: Collection[LaunchId] | None) -> None:
        """Return at once: everything submitted has run."""

    def take_failures(self) -> list[Failure]:
        """None: they were raised."""
        return []

    def close(self) -> None:
        """Do nothing."""
