"""Runs operations so that what one raises stops those that depend on it, and no others.

A task that raises leaves its data poisoned (:mod:`specinfer.runtime.poison`). Transfers go on even
with poisoned data, for other ranks take part in them; that there was a failure is told to all ranks
at the end of the iteration.
"""

from __future__ import annotations

import threading

from specinfer.runtime.dependence import LaunchId
from specinfer.runtime.executor import Failure, Operation
from specinfer.runtime.poison import PoisonedData


class Guard:
    """What has failed, and what that poisons.

    Attributes:
        poisoned: data that were never made.
    """

    def __init__(self) -> None:
        self.poisoned = PoisonedData()
        self._failures: list[Failure] = []
        self._lock = threading.Lock()

    def run(self, id: LaunchId, operation: Operation) -> None:
        """Run an operation, unless what it reads is poisoned; keep what it raises.

        What is no failure of the task - an interrupt - is kept and raised again.
        """
        if self.poisoned:
            with self._lock:
                is_poisoned = self.poisoned.spreads(operation.requirements) is not None
            if is_poisoned and not operation.is_communication:
                return
        try:
            operation.run()
        except BaseException as error:
            self.fail(id, operation, error)
            if operation.is_communication or not isinstance(error, Exception):
                raise

    def fail(self, id: LaunchId, operation: Operation, error: BaseException) -> None:
        """Take in that an operation raised."""
        failure = Failure(id, operation.as_of_now(), error)
        with self._lock:
            self._failures.append(failure)
            self.poisoned.add(operation.requirements, failure.story)

    def take_failures(self) -> list[Failure]:
        """What raised since the last time."""
        with self._lock:
            failures, self._failures = self._failures, []
        return failures
