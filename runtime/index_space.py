"""Index spaces: rectangles of up to four dimensions, and how two of them meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from specinfer.runtime.errors import LaunchError

MAX_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class IndexSpace:
    """The points ``lo <= p < hi`` of a grid.

    >>> rows = IndexSpace((0, 0), (4, 8))
    >>> rows.shape, rows.overlaps(IndexSpace((4, 0), (6, 8)))
    ((4, 8), False)
    >>> rows.covers(IndexSpace((1, 2), (3, 4)))
    True
    """

    lo: tuple[int, ...]
    hi: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.lo) != len(self.hi) or not 1 <= len(self.lo) <= MAX_DIMENSIONS:
            raise LaunchError(
                f"index space {self.lo}..{self.hi}: expected 1 to {MAX_DIMENSIONS} dimensions"
            )
        if any(not 0 <= low <= high for low, high in zip(self.lo, self.hi, strict=True)):
            raise LaunchError(f"index space {self.lo}..{self.hi}: expected 0 <= lo <= hi")

    @property
    def shape(self) -> tuple[int, ...]:
        """Points along each dimension."""
        return tuple(high - low for low, high in zip(self.lo, self.hi, strict=True))

    @property
    def is_empty(self) -> bool:
        """Whether there is no point in it."""
        return any(low == high for low, high in zip(self.lo, self.hi, strict=True))

    def overlaps(self, other: IndexSpace) -> bool:
        """Whether some point lies in both."""
        for low, high, other_low, other_high in zip(self.lo, self.hi, other.lo, other.hi):  # noqa: B905  (hot)
            if low >= other_high or other_low >= high or low == high or other_low == other_high:
                return False
        return True

    def covers(self, other: IndexSpace) -> bool:
        """Whether every point of ``other`` lies in this one."""
        return other.is_empty or all(
            low <= other_low and other_high <= high
            for low, high, other_low, other_high in zip(
                self.lo, self.hi, other.lo, other.hi, strict=True
            )
        )

    @property
    def slices(self) -> tuple[slice, ...]:
        """Selects these points from an array over the whole grid."""
        return tuple(slice(low, high) for low, high in zip(self.lo, self.hi, strict=True))

    @property
    def volume(self) -> int:
        """How many points there are."""
        return prod(self.shape)

    def intersection(self, other: IndexSpace) -> IndexSpace:
        """The points in both, possibly none.

        >>> IndexSpace((0, 0), (4, 8)).intersection(IndexSpace((2, 6), (6, 9)))
        IndexSpace(lo=(2, 6), hi=(4, 8))
        """
        lo = tuple(map(max, self.lo, other.lo))
        return IndexSpace(lo, tuple(map(max, lo, map(min, self.hi, other.hi))))

    def hull(self, other: IndexSpace) -> IndexSpace:
        """The smallest rectangle with the points of both.

        >>> print(IndexSpace((0, 0), (2, 1)).hull(IndexSpace((4, 0), (5, 3))))
        [0:5,0:3]
        """
        if self.is_empty or other.is_empty:
            return other if self.is_empty else self
        return IndexSpace(tuple(map(min, self.lo, other.lo)), tuple(map(max, self.hi, other.hi)))

    def minus(self, other: IndexSpace) -> list[IndexSpace]:
        """The points that are not in ``other``, as disjoint rectangles.

        >>> IndexSpace((0,), (8,)).minus(IndexSpace((2,), (5,)))
        [IndexSpace(lo=(0,), hi=(2,)), IndexSpace(lo=(5,), hi=(8,))]
        """
        if not self.overlaps(other):
            return [] if self.is_empty else [self]
        rest = []
        lo, hi = list(self.lo), list(self.hi)
        for dim, (low, high) in enumerate(zip(other.lo, other.hi, strict=True)):
            if lo[dim] < low:
                rest.append(IndexSpace(tuple(lo), (*hi[:dim], low, *hi[dim + 1 :])))
                lo[dim] = low
            if high < hi[dim]:
                rest.append(IndexSpace((*lo[:dim], high, *lo[dim + 1 :]), tuple(hi)))
                hi[dim] = high
        return rest

    def along(self, dim: int, low: int, high: int) -> IndexSpace:
        """The same points, but ``low`` to ``high`` along one dimension.

        >>> IndexSpace((0, 0), (4, 8)).along(1, 2, 3)
        IndexSpace(lo=(0, 2), hi=(4, 3))
        """
        return IndexSpace(
            (*self.lo[:dim], low, *self.lo[dim + 1 :]),
            (*self.hi[:dim], high, *self.hi[dim + 1 :]),
        )

    def __str__(self) -> str:
        bounds = zip(self.lo, self.hi, strict=True)
        return "[" + ",".join(f"{low}:{high}" for low, high in bounds) + "]"


def whole(shape: Sequence[int]) -> IndexSpace:
    """The index space of an array of this shape."""
    return IndexSpace((0,) * len(shape), tuple(shape))


ONE = whole((1,))
"""A single point."""
