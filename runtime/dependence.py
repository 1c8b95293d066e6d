"""Dependence analysis: which earlier launches must finish before a launch may start.

Launches are told in program order. For each (region, field) the analyzer keeps the uses that a
later launch could still conflict with: a write takes the place of the uses that it covers, since
whatever conflicts with them conflicts with the write. Each dependence found is therefore a true
conflict, and every conflict is implied by a chain of those found.

Plain values in and out; it owns no memory, thread or clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.launch import Requirement
from specinfer.runtime.privilege import Privilege

LaunchId = int
_Use = tuple[LaunchId, IndexSpace, Privilege]


@dataclass(slots=True)
class DependenceAnalyzer:
    """Finds the dependences of launches, told in program order.

    >>> from specinfer.runtime.privilege import R, WD
    >>> analyzer, kv, all_rows = DependenceAnalyzer(), (0, "k"), IndexSpace((0,), (4,))
    >>> analyzer.launch(0, [Requirement(kv, all_rows, WD)])
    set()
    >>> analyzer.launch(1, [Requirement(kv, IndexSpace((0,), (2,)), R)])
    {0}
    >>> analyzer.complete(0)
    >>> analyzer.launch(2, [Requirement(kv, all_rows, R)])
    set()
    """

    _uses: dict[tuple[int, str], list[_Use]] = field(default_factory=dict)
    _live: set[LaunchId] = field(default_factory=set)

    def launch(self, id: LaunchId, requirements: Sequence[Requirement]) -> set[LaunchId]:
        """Take in the next launch and return those that must finish before it."""
        waits_for: set[LaunchId] = set()
        live = self._live
        live.add(id)  # first: the uses of this very launch are kept, argument by argument
        if len(live) == 1:  # nothing runs: no dependence, and no use but this launch's counts
            for requirement in requirements:
                use = (id, requirement.space, requirement.privilege)
                uses = self._uses.get(requirement.key)
                if uses and uses[0][0] == id:
                    uses.append(use)
                else:
                    self._uses[requirement.key] = [use]
            return waits_for
        for requirement in requirements:
            space, privilege = requirement.space, requirement.privilege
            kept: list[_Use] = []
            for use in self._uses.get(requirement.key, ()):
                user, used, held = use
                if user not in live:
                    continue
                if user != id and not held.commutes_with(privilege) and used.overlaps(space):
                    waits_for.add(user)
                # Uses of this very launch stay: two arguments may reduce to the same points.
                if user == id or not (privilege.writes and space.covers(used)):
                    kept.append(use)
            kept.append((id, space, privilege))
            self._uses[requirement.key] = kept
        return waits_for

    def complete(self, id: LaunchId) -> None:
        """Forget a launch that has finished: nothing needs to wait for it any more."""
        self._live.discard(id)
