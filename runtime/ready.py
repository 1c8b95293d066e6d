"""Which launches may run now, as a state machine on plain values.

Told that a launch was submitted or has finished, it answers with the launches that this made ready.
An executor carries that out; a test can play every order of completion.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from specinfer.runtime.dependence import LaunchId


@dataclass(slots=True)
class ReadyQueue:
    """Counts down the dependences of submitted launches.

    >>> ready = ReadyQueue()
    >>> ready.submitted(0, ()), ready.submitted(1, {0}), ready.submitted(2, {0})
    ([0], [], [])
    >>> ready.finished(0)
    [1, 2]
    """

    _waits_for: dict[LaunchId, int] = field(default_factory=dict)
    _dependents: dict[LaunchId, list[LaunchId]] = field(default_factory=dict)

    def submitted(self, id: LaunchId, waits_for: Collection[LaunchId]) -> list[LaunchId]:
        """Take in a launch; dependences on launches that have finished count for nothing."""
        unfinished = [earlier for earlier in waits_for if earlier in self._dependents]
        self._dependents[id] = []
        if not unfinished:
            return [id]
        self._waits_for[id] = len(unfinished)
        for earlier in unfinished:
            self._dependents[earlier].append(id)
        return []

    def finished(self, id: LaunchId) -> list[LaunchId]:
        """Take in that a launch has run; return those that waited for it last."""
        ready = []
        for dependent in self._dependents.pop(id):
            self._waits_for[dependent] -= 1
            if self._waits_for[dependent] == 0:
                del self._waits_for[dependent]
                ready.append(dependent)
        return ready

    def unfinished(self, ids: Collection[LaunchId] | None = None) -> bool:
        """Whether one of these launches (default any) has yet to finish."""
        if ids is None:
            return bool(self._dependents)
        return any(id in self._dependents for id in ids)
