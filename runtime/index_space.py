"""Index spaces: rectangles of up to four dimensions, and how two of them meet."""

from __future__ import annotations

from dataclasses import dataclass

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
        for low, high, other_low, other_high in zip(
            self.lo, self.hi, other.lo, other.hi, strict=True
        ):
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
