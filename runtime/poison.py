"""Poison: data that were never made, because a task raised, and what depends on them.

Poison spreads along requirements: who reads it, is skipped and poisons what it would have written;
who overwrites it without reading (``WD``), clears it - unless a predicate decides whether it does:
what counts is known from the launches alone, the same on every rank.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from specinfer.runtime.dependence import Requirement
from specinfer.runtime.index_space import IndexSpace


@dataclass(slots=True)
class PoisonedData:
    """The poisoned points of every key, with the cause.

    >>> from specinfer.runtime.privilege import R, WD
    >>> line, part = IndexSpace((0,), (4,)), IndexSpace((1,), (2,))
    >>> poisoned = PoisonedData()
    >>> poisoned.add([Requirement("x", part, WD)], "task fill raised")
    >>> poisoned.spreads([Requirement("x", line, R), Requirement("y", line, WD)])
    'task fill raised'
    >>> poisoned.spreads([Requirement("y", line, WD)]), poisoned.cause_in("y", line)
    (None, None)
    """

    spaces: dict[Hashable, list[tuple[IndexSpace, str]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.spaces)

    def cause_in(self, key: Hashable, space: IndexSpace) -> str | None:
        """Why some of these points are poisoned, if they are."""
        for poisoned, cause in self.spaces.get(key, ()):
            if poisoned.overlaps(space):
                return cause
        return None

    def add(self, requirements: Iterable[Requirement], cause: str) -> None:
        """Poison what a launch would have written."""
        for requirement in requirements:
            privilege = requirement.privilege
            if requirement.is_data and (privilege.writes or privilege.op):
                self.spaces.setdefault(requirement.key, []).append((requirement.space, cause))

    def spreads(self, requirements: Sequence[Requirement]) -> str | None:
        """Why a launch must not run, if it reads poison; takes in what it writes, or does not."""
        for requirement in requirements:
            if requirement.privilege.reads:
                cause = self.cause_in(requirement.key, requirement.space)
                if cause is not None:
                    self.add(requirements, cause)
                    return cause
        for requirement in requirements:
            is_overwritten = requirement.privilege.writes and requirement.is_certain
            if is_overwritten and requirement.key in self.spaces:
                self._clear(requirement.key, requirement.space)
        return None

    def _clear(self, key: Hashable, space: IndexSpace) -> None:
        rest = [(piece, cause) for old, cause in self.spaces[key] for piece in old.minus(space)]
        if rest:
            self.spaces[key] = rest
        else:
            del self.spaces[key]
