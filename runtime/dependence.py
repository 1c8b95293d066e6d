"""Dependence analysis: which earlier launches must finish before a launch may start.

Launches are told in program order. For each key - a field of a region - the analyzer keeps the uses
that a later launch could still conflict with: a write takes the place of the uses that it covers,
since whatever conflicts with them conflicts with the write. Each dependence found is therefore a
true conflict, and every conflict is implied by a chain of those found.

Uses through one disjoint partition are kept part by part: a point of an index launch is compared
with the uses of its own part, not with those of all the others.

Plain values in and out; it owns no memory, thread or clock.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.privilege import Privilege

LaunchId = int
_Use = tuple[LaunchId, IndexSpace, Privilege]


@dataclass(frozen=True, slots=True)
class Requirement:
    """That a launch uses one field of some points of a region, and how.

    Attributes:
        key: what the uses that may conflict have in common, such as (region, field).
        space: the points.
        privilege: what the task may do to them.
        partition: a disjoint partition that ``space`` is a part of, if there is one.
        is_data: whether ``space`` is what is used; else it may be more, for the order alone.
        is_certain: whether it is used for sure; else the launch has a predicate, and might not run.
    """

    key: Hashable
    space: IndexSpace
    privilege: Privilege
    partition: object = None
    is_data: bool = True
    is_certain: bool = True

    def conflicts_with(self, other: Requirement) -> bool:
        """Whether two launches with these requirements must keep their order."""
        return (
            self.key == other.key
            and not self.privilege.commutes_with(other.privilege)
            and self.space.overlaps(other.space)
        )


@dataclass(slots=True)
class _Uses:
    """Of one key: those of any points, and those of the parts of one disjoint partition."""

    general: list[_Use] = field(default_factory=list)
    partition: object = None
    by_part: dict[IndexSpace, list[_Use]] = field(default_factory=dict)

    def near(self, requirement: Requirement) -> list[list[_Use]]:
        """The lists with every use that may meet the requirement; the last takes its own use."""
        partition = requirement.partition
        if partition is None or (self.by_part and partition is not self.partition):
            if self.by_part:
                self.general += (use for uses in self.by_part.values() for use in uses)
                self.by_part = {}
            return [self.general]
        self.partition = partition
        own = self.by_part.setdefault(requirement.space, [])
        return [self.general, own] if self.general else [own]


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

    _uses: dict[Hashable, _Uses] = field(default_factory=dict)
    _live: set[LaunchId] = field(default_factory=set)

    def launch(self, id: LaunchId, requirements: Sequence[Requirement]) -> set[LaunchId]:
        """Take in the next launch and return those that must finish before it."""
        waits_for: set[LaunchId] = set()
        live = self._live
        if not live:  # nothing runs: no dependence, and nothing before this launch counts
            self._uses.clear()
        live.add(id)  # first: the uses of this very launch are kept, argument by argument
        for requirement in requirements:
            space, privilege = requirement.space, requirement.privilege
            writes = privilege.writes
            uses = self._uses.get(requirement.key)
            if uses is None:
                uses = self._uses[requirement.key] = _Uses()
            near = uses.near(requirement)
            for known in near:
                kept: list[_Use] = []
                for use in known:
                    user, used, held = use
                    if user not in live:
                        continue
                    # Uses of this very launch stay: two arguments may reduce to the same points.
                    if user == id:
                        kept.append(use)
                        continue
                    if (writes or not held.commutes_with(privilege)) and (
                        (used is space and not space.is_empty) or used.overlaps(space)
                    ):
                        waits_for.add(user)
                    if not (writes and (used is space or space.covers(used))):
                        kept.append(use)
                known[:] = kept
            near[-1].append((id, space, privilege))
        return waits_for

    def complete(self, id: LaunchId) -> None:
        """Forget a launch that has finished: nothing needs to wait for it any more."""
        self._live.discard(id)
