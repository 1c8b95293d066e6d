"""Regions: named index spaces with typed fields, and the parts of them that launches name.

A region says what data there is, not where: memory is attached to each of its fields, and tasks
see only the arrays of the subregions that their launch named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from specinfer.runtime.errors import LaunchError
from specinfer.runtime.index_space import IndexSpace


class Array(Protocol):
    """Memory of one field: NumPy, torch and CuPy arrays all are."""

    @property
    def shape(self) -> Any:
        """Points along each dimension."""
        ...

    def __getitem__(self, index: Any, /) -> Any: ...


class Region:
    """An index space times typed fields.

    Made by :meth:`specinfer.runtime.context.Runtime.region`, which numbers regions in order of
    creation: the same program gives the same numbers in every process.

    Attributes:
        id: number of the region in its runtime.
        name: for people.
        space: all of its points, from the origin.
        fields: names, with the type of their elements (whatever the memory understands).
    """

    __slots__ = ("_arrays", "fields", "id", "name", "space")

    def __init__(self, id: int, name: str, shape: tuple[int, ...], fields: Mapping[str, Any]):
        if not fields:
            raise LaunchError(f"region {name}: expected at least one field")
        self.id = id
        self.name = name
        self.space = IndexSpace((0,) * len(shape), shape)
        self.fields = dict(fields)
        self._arrays: dict[str, Array] = {}

    def __repr__(self) -> str:
        return f"Region({self.name!r}, {self.space.shape}, {list(self.fields)})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Points along each dimension."""
        return self.space.hi

    def attach(self, field: str, array: Array) -> None:
        """Make ``array`` the memory of ``field``.

        Raises:
            LaunchError: no such field, or an array of another shape.
        """
        if field not in self.fields:
            raise LaunchError(f"region {self.name}: no field {field!r} in {list(self.fields)}")
        if tuple(array.shape) != self.shape:
            raise LaunchError(
                f"region {self.name}.{field}: attached {tuple(array.shape)}, expected {self.shape}"
            )
        self._arrays[field] = array

    def array(self, field: str) -> Array:
        """The whole memory of ``field``."""
        try:
            return self._arrays[field]
        except KeyError:
            raise LaunchError(f"region {self.name}.{field}: no memory attached") from None

    def part(self, space: IndexSpace | None = None, *fields: str) -> Subregion:
        """The points of ``space`` (default all), of ``fields`` (default all)."""
        return Subregion(self, space or self.space, fields or tuple(self.fields))

    def rows(self, start: int, stop: int) -> Subregion:
        """Points ``start`` to ``stop`` of the first dimension, all of the others."""
        return self.part(IndexSpace((start, *self.space.lo[1:]), (stop, *self.space.hi[1:])))


@dataclass(frozen=True, slots=True)
class Subregion:
    """Some points and fields of a region: what one argument of a launch names."""

    region: Region
    space: IndexSpace
    fields: tuple[str, ...]

    def __post_init__(self) -> None:
        if unknown := set(self.fields) - set(self.region.fields):
            raise LaunchError(
                f"region {self.region.name}: no field {min(unknown)!r}, expected one of "
                f"{list(self.region.fields)}"
            )
        if len(self.space.lo) != len(self.region.shape) or not self.region.space.covers(self.space):
            raise LaunchError(
                f"region {self.region.name}: {self.space.lo}..{self.space.hi} leaves its index "
                f"space {self.region.shape}"
            )

    def __str__(self) -> str:
        inside = "" if self.space == self.region.space else f"[{_bounds(self.space)}]"
        fields = "" if len(self.region.fields) == 1 else "." + ",".join(self.fields)
        return f"{self.region.name}{inside}{fields}"

    def view(self, field: str) -> Any:
        """The memory of one field at these points, not copied."""
        array = self.region.array(field)
        return array if self.space == self.region.space else array[self.space.slices]


def _bounds(space: IndexSpace) -> str:
    return ",".join(f"{low}:{high}" for low, high in zip(space.lo, space.hi, strict=True))
