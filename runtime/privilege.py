"""Privileges: what a task may do to the fields of a region.

Two tasks may run at the same time when their privileges on every field that they share commute.
The rules are Legion's (Bauer et al., SC 2012): readers commute with readers, and reductions with
reductions of the same operator.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Privilege:
    """What a task may do to a field.

    Attributes:
        name: ``R``, ``RW``, ``WD`` or ``Reduce``.
        reads: the task sees what was there before.
        writes: the task may change it, alone.
        op: the commutative operator of a reduction.

    >>> R.commutes_with(R), R.commutes_with(RW), WD.commutes_with(WD)
    (True, False, False)
    >>> Reduce("+").commutes_with(Reduce("+")), Reduce("+").commutes_with(Reduce("max"))
    (True, False)
    """

    name: str
    reads: bool
    writes: bool
    op: str | None = None

    def __str__(self) -> str:
        return f"{self.name}({self.op})" if self.op else self.name

    def commutes_with(self, other: Privilege) -> bool:
        """Whether two tasks holding these privileges on one field may run in either order."""
        return not self.writes and (self is other or self == other)


R = Privilege("R", reads=True, writes=False)
RW = Privilege("RW", reads=True, writes=True)
WD = Privilege("WD", reads=False, writes=True)
"""Write-discard: every point is written, none is read first."""


def Reduce(op: str) -> Privilege:
    """The privilege to fold values into a field with the commutative operator ``op``."""
    return Privilege("Reduce", reads=False, writes=False, op=op)
