"""Executors carry out operations; the seam between deciding and acting.

``serial`` is the oracle: it runs each operation as it is issued. ``in_order`` does the same on one
rank of many. ``threads`` runs operations without dependences between them at once. ``shuffled``
runs them later, in a random order that keeps their dependences. ``record`` runs nothing and keeps
the task graph to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from specinfer.runtime.dependence import LaunchId, Requirement

if TYPE_CHECKING:  # it imports this module
    from specinfer.runtime.poison import PoisonedData


class Operation(Protocol):
    """Something to be run: a call of a task, or a transfer between ranks."""

    @property
    def requirements(self) -> Sequence[Requirement]:
        """What it does to memory."""
        ...

    @property
    def is_communication(self) -> bool:
        """Whether other ranks take part: it runs whatever happened before."""
        ...

    def run(self) -> Any:
        """Do it."""
        ...

    def bound(self) -> Callable[[], Any]:
        """The same as a plain function, for replays."""
        ...

    def as_of_now(self) -> Operation:
        """The same with the present values of a trace's parameters, to be run later."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """An operation that raised.

    Attributes:
        id: its number.
        operation: it.
        error: what it raised.
    """

    id: LaunchId
    operation: Operation
    error: BaseException

    @property
    def story(self) -> str:
        """Which operation it was, and what it raised."""
        return f"{self.operation} raised {type(self.error).__name__}: {self.error}"


class Executor(Protocol):
    """Runs operations in any order that keeps their dependences."""

    @property
    def is_in_order(self) -> bool:
        """Whether every operation has run when ``submit`` returns: dependences are not needed."""
        ...

    @property
    def poisoned(self) -> PoisonedData:
        """Data that were never made, because a task raised."""
        ...

    def submit(
        self, id: LaunchId, operation: Operation, waits_for: Collection[LaunchId]
    ) -> Sequence[LaunchId]:
        """Take an operation that may run once all of ``waits_for`` have.

        Returns:
            The operations that have finished and were not reported before.
        """
        ...

    def wait(self, ids: Collection[LaunchId] | None) -> None:
        """Return when these operations (default all) have finished, or were skipped."""
        ...

    def take_failures(self) -> list[Failure]:
        """What raised since the last time this was asked."""
        ...

    def close(self) -> None:
        """Stop, and give back threads or other resources."""
        ...


def plain_calls(operations: Sequence[Operation]) -> tuple[Callable[[], Any], ...]:
    """Operations as plain functions, one each."""
    return tuple(operation.bound() for operation in operations)


class ReplayingExecutor(Executor, Protocol):
    """Runs operations in order, and recorded ones all at once: the seam for a CUDA graph."""

    def prepare(self, operations: Sequence[Operation]) -> Sequence[Callable[[], Any]]:
        """What :meth:`replay` calls for recorded operations; they have run before."""
        ...

    def replay(
        self,
        base: LaunchId,
        calls: Sequence[Callable[[], Any]],
        operations: Sequence[Operation],
    ) -> None:
        """Run recorded operations in order.

        Args:
            base: number of the first one.
            calls: the operations as :meth:`prepare` made them.
            operations: the same.
        """
        ...
