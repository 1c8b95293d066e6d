"""Temporary values: regions whose memory is shared by liveness.

Each value is a region of its own for programs, mappers and placement. Its memory is a part of one
arena, where values lie that are never needed at the same launch (:mod:`specinfer.runtime.arena`).
That a value may only be written when those that had its bytes before are read is found by the
analysis of dependences, which is told of the bytes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from specinfer.runtime.arena import ArenaError, ArenaPlan, Lifetime, plan
from specinfer.runtime.arrays import bytes_like, itemsize


@dataclass(frozen=True, slots=True)
class Temporary:
    """A value that is made and used up.

    Attributes:
        name: tells it from the others of its arena.
        shape: of its region.
        dtype: of its elements; all of an arena are of one array library.
        first: the launch that makes it, a place in program order.
        last: the last launch that uses it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    first: int
    last: int

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return prod(self.shape) * itemsize(self.dtype)


def plan_temporaries(values: Sequence[Temporary]) -> ArenaPlan:
    """A place in one arena for each value.

    Raises:
        ArenaError: two values of one name, one that ends before it begins, or values of several
            array libraries.
    """
    for value in values:
        if bytes_like(value.dtype) != bytes_like(values[0].dtype):
            raise ArenaError(
                f"value {value.name}: is of {value.dtype}, expected the array library of "
                f"{values[0].name}, {values[0].dtype}"
            )
    return plan(Lifetime(v.name, v.first, v.last, v.num_bytes) for v in values)
