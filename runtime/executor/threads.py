"""Runs operations that do not depend on each other at once, on a few threads."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import ExitStack, suppress

from specinfer.runtime.dependence import LaunchId
from specinfer.runtime.errors import ConfigError
from specinfer.runtime.executor import Failure, Operation
from specinfer.runtime.executor.guard import Guard
from specinfer.runtime.poison import PoisonedData
from specinfer.runtime.ready import ReadyQueue


class ThreadedExecutor:
    """A pool of workers fed by the dependences.

    Args:
        workers: number of threads.
        start_worker: called once on each thread; a caller sets its arrays' threads to one there.

    Reductions with one operator may run in any order, but not at the same moment: each takes the
    locks of the fields that it folds into.

    A task that raises stops those that depend on it, and no others.

    Raises:
        ConfigError: fewer than one worker.
    """

    is_in_order = False

    def __init__(self, workers: int = 2, start_worker: Callable[[], object] = lambda: None) -> None:
        if workers < 1:
            raise ConfigError(f"executor of threads: {workers} workers, expected 1 or more")
        self._ready = ReadyQueue()
        self._operations: dict[LaunchId, Operation] = {}
        self._runnable: deque[LaunchId] = deque()
        self._unreported: list[LaunchId] = []
        self._folding: defaultdict[Hashable, threading.Lock] = defaultdict(threading.Lock)
        self._guard = Guard()
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, args=(start_worker,), name=f"worker {i}")
            for i in range(workers)
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    @property
    def poisoned(self) -> PoisonedData:
        """Data that were never made."""
        return self._guard.poisoned

    def submit(
        self, id: LaunchId, operation: Operation, waits_for: Collection[LaunchId]
    ) -> Sequence[LaunchId]:
        """Queue the operation behind its dependences."""
        with self._changed:
            self._operations[id] = operation
            self._runnable += self._ready.submitted(id, waits_for)
            self._changed.notify_all()
            finished, self._unreported = self._unreported, []
        return finished

    def wait(self, ids: Collection[LaunchId] | None) -> None:
        """Return when these operations (default all) have finished, or were skipped."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._ready.unfinished(ids))

    def take_failures(self) -> list[Failure]:
        """What raised since the last time."""
        return self._guard.take_failures()

    def close(self) -> None:
        """Let the workers finish what runs, then stop them; the rest is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self, start_worker: Callable[[], object]) -> None:
        start_worker()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._runnable or self._closed)
                if self._closed:
                    return
                id = self._runnable.popleft()
                operation = self._operations.pop(id)
                locks = self._locks(operation)
            with ExitStack() as held:
                for lock in locks:
                    held.enter_context(lock)
                # A worker that died would leave the program waiting; what was raised is kept.
                with suppress(BaseException):
                    self._guard.run(id, operation)
            with self._changed:
                self._unreported.append(id)
                self._runnable += self._ready.finished(id)
                self._changed.notify_all()

    def _locks(self, operation: Operation) -> list[threading.Lock]:
        """Those of the fields that are reduced to, in an order that all operations keep."""
        keys = {r.key for r in operation.requirements if r.privilege.op is not None}
        return [self._folding[key] for key in sorted(keys, key=repr)]
