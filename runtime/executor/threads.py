"""Runs launches that do not depend on each other at once, on a few threads."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack

from specinfer.runtime.dependence import LaunchId
from specinfer.runtime.launch import Launch
from specinfer.runtime.ready import ReadyQueue


class ThreadedExecutor:
    """A pool of workers fed by the dependences.

    Args:
        workers: number of threads.
        start_worker: called once on each thread; a caller sets its arrays' threads to one there.

    Reductions with one operator may run in any order, but not at the same moment: each takes the
    locks of the fields that it folds into.

    After a task has raised, launches not yet started are dropped, and the next :meth:`wait` raises.
    """

    def __init__(self, workers: int = 2, start_worker: Callable[[], object] = lambda: None) -> None:
        self._ready = ReadyQueue()
        self._launches: dict[LaunchId, Launch] = {}
        self._runnable: deque[LaunchId] = deque()
        self._unreported: list[LaunchId] = []
        self._folding: defaultdict[tuple[int, str], threading.Lock] = defaultdict(threading.Lock)
        self._error: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, args=(start_worker,), name=f"worker {i}")
            for i in range(workers)
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def submit(
        self, id: LaunchId, launch: Launch, waits_for: Collection[LaunchId]
    ) -> Sequence[LaunchId]:
        """Queue the launch behind its dependences."""
        with self._changed:
            if self._error is None:
                self._launches[id] = launch
            self._runnable += self._ready.submitted(id, waits_for)
            self._changed.notify_all()
            finished, self._unreported = self._unreported, []
        return finished

    def wait(self, ids: Collection[LaunchId] | None) -> None:
        """Return when these launches (default all) have finished; raise what a task raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._ready.unfinished(ids))
            error, self._error = self._error, None
        if error is not None:
            raise error

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
                launch = self._launches.pop(id, None)
                locks = [] if launch is None else self._locks(launch)
            error = None if launch is None else _run(id, launch, locks)
            with self._changed:
                if error is not None:
                    self._error = self._error or error
                    self._launches.clear()  # what is not there when its turn comes is dropped
                self._unreported.append(id)
                self._runnable += self._ready.finished(id)
                self._changed.notify_all()

    def _locks(self, launch: Launch) -> list[threading.Lock]:
        """Those of the fields that a launch reduces to, in an order that all launches keep."""
        keys = {r.key for r in launch.requirements if r.privilege.op is not None}
        return [self._folding[key] for key in sorted(keys)]


def _run(id: LaunchId, launch: Launch, locks: Sequence[threading.Lock]) -> BaseException | None:
    try:
        with ExitStack() as held:
            for lock in locks:
                held.enter_context(lock)
            launch.run()
    except BaseException as error:  # a worker that died would leave the program waiting
        error.add_note(f"raised by launch {id}: {launch}")
        return error
    return None
