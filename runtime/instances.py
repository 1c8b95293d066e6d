"""Instances: the memory that one rank has of fields, and the parts of reductions it still keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specinfer.runtime.arrays import values, zeros
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.reduction import reduction
from specinfer.runtime.region import FieldKey, Region


class Instances:
    """The arrays of one rank.

    Args:
        rank: whose.
        regions: all regions, by number.
        copies: whether attached arrays are copied: several ranks in one process.
    """

    def __init__(self, rank: int, regions: Mapping[int, Region], *, copies: bool = False) -> None:
        self.rank = rank
        self._regions = regions
        self._copies = copies
        self._main: dict[FieldKey, Any] = {}
        self._partial: dict[FieldKey, Any] = {}

    def attach(self, key: FieldKey, array: Any) -> None:
        """Take over an array as the memory of a field."""
        self._main[key] = _copied(array) if self._copies else array
        self._partial.pop(key, None)

    def detach(self, key: FieldKey) -> Any:
        """Give the array of a field back."""
        array = self.main(key)
        del self._main[key]
        self._partial.pop(key, None)
        return array

    def main(self, key: FieldKey) -> Any:
        """The array of a field; zeros, if none was attached."""
        array = self._main.get(key)
        if array is None:
            region = self._regions[key[0]]
            array = self._main[key] = zeros(region.shape, region.fields[key[1]])
        return array

    def partial(self, key: FieldKey) -> Any:
        """This rank's part of a reduction to a field."""
        array = self._partial.get(key)
        if array is None:
            array = self._partial[key] = _zeros_like(self.main(key))
        return array

    def view(self, key: FieldKey, space: IndexSpace, *, is_partial: bool = False) -> Any:
        """The memory of these points, not copied."""
        array = self.partial(key) if is_partial else self.main(key)
        return array if space == self._regions[key[0]].space else array[space.slices]

    def reset(self, key: FieldKey, space: IndexSpace, op: str) -> None:
        """Start a part of a reduction from the neutral element."""
        part = self.view(key, space, is_partial=True)
        part[...] = reduction(op).identity(values(part).dtype)


def _copied(array: Any) -> Any:
    return array.clone() if hasattr(array, "clone") else array.copy()


def _zeros_like(array: Any) -> Any:
    return zeros(tuple(array.shape), array.dtype)
