"""Dependences between operations that have run, from what each of them needed.

An executor is told only of operations that have not finished yet, so a serial one is told of none.
What the program itself orders is found here, after it has run: whether more workers could have
helped is a question about the program, not about the executor.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Sequence
from functools import partial

from specinfer.runtime.dependence import Requirement
from specinfer.runtime.privilege import Privilege

MAX_USES = 1024
"""Uses of one field with one privilege that are looked at, the latest: what keeps this linear."""

_Uses = deque[tuple[int, Requirement]]


def find_dependences(
    operations: Iterable[tuple[int, Sequence[Requirement]]],
) -> dict[int, set[int]]:
    """For each operation, those before it that it had to wait for.

    Args:
        operations: number and requirements, in program order.

    >>> from specinfer.runtime.index_space import IndexSpace
    >>> from specinfer.runtime.privilege import R, WD
    >>> needs = [Requirement((0, "x"), IndexSpace((0,), (4,)), held) for held in (WD, R, R, WD)]
    >>> find_dependences((id, [need]) for id, need in enumerate(needs))
    {0: set(), 1: {0}, 2: {0}, 3: {0, 1, 2}}
    """
    found: dict[int, set[int]] = {}
    fields: defaultdict[Hashable, dict[Privilege, _Uses]] = defaultdict(
        partial(defaultdict, partial(deque, maxlen=MAX_USES))
    )
    for id, requirements in operations:
        waits_for = found.setdefault(id, set())
        for requirement in requirements:
            uses_by_privilege = fields[requirement.key]
            for privilege, uses in uses_by_privilege.items():
                if not privilege.commutes_with(requirement.privilege):
                    space = requirement.space
                    waits_for.update(user for user, used in uses if used.space.overlaps(space))
            if requirement.privilege.writes:
                _forget_covered(uses_by_privilege, requirement)
            uses_by_privilege[requirement.privilege].append((id, requirement))
        waits_for.discard(id)
    return found


def _forget_covered(uses_by_privilege: dict[Privilege, _Uses], write: Requirement) -> None:
    """Drop what a write covers: whatever conflicts with it conflicts with the write."""
    for privilege, uses in uses_by_privilege.items():
        kept = [use for use in uses if not write.space.covers(use[1].space)]
        uses_by_privilege[privilege] = deque(kept, maxlen=MAX_USES)
