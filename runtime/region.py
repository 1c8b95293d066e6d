"""Regions: named index spaces with typed fields, and the parts of them that launches name.

A region says what data there is, not where. Memory is attached to its fields, or made for them when
a task first wants it; tasks see only the arrays of the subregions that their launch named.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from operator import index
from typing import Any, Protocol

from specinfer.runtime.arrays import imported, is_of_type, layout
from specinfer.runtime.errors import LaunchError
from specinfer.runtime.index_space import MAX_DIMENSIONS, IndexSpace, whole

FieldKey = tuple[int, str]
"""Number of a region, and one of its fields."""


class Array(Protocol):
    """Memory of one field: NumPy, torch and CuPy arrays all are."""

    @property
    def shape(self) -> Any:
        """Points along each dimension."""
        ...

    @property
    def dtype(self) -> Any:
        """Type of an element."""
        ...

    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes that the memory of a region shares with other regions, at other times.

    Attributes:
        arena: number of the arena.
        offset: of the region's first element, in bytes.
        itemsize: bytes of an element.
    """

    arena: int
    offset: int
    itemsize: int

    @property
    def key(self) -> tuple[str, int]:
        """What dependences on the arena's bytes are looked up by."""
        return ("arena", self.arena)

    def interval(self, shape: tuple[int, ...], space: IndexSpace) -> IndexSpace:
        """The bytes from the first to the last element of some points; rows lie together.

        >>> Storage(0, 64, 4).interval((4, 8), IndexSpace((1, 2), (3, 4)))
        IndexSpace(lo=(104,), hi=(144,))
        """
        if space.is_empty:
            return IndexSpace((self.offset,), (self.offset,))
        first = last = 0
        for extent, low, high in zip(shape, space.lo, space.hi, strict=True):
            first, last = first * extent + low, last * extent + high - 1
        start = self.offset + first * self.itemsize
        return IndexSpace((start,), (self.offset + (last + 1) * self.itemsize,))


class Region:
    """An index space times typed fields.

    Made by :meth:`specinfer.runtime.context.Runtime.region`, which numbers regions in order of
    creation: the same program gives the same numbers in every process.

    Attributes:
        id: number of the region in its runtime.
        name: for people.
        space: all of its points, from the origin.
        fields: names, with the type of their elements (whatever the memory understands).
        partitions: made of it so far, by what they are made of.
        storage: bytes that it shares with other regions, if it does.
    """

    __slots__ = ("_by_rows", "_parts", "fields", "id", "name", "partitions", "space", "storage")

    def __init__(self, id: int, name: str, shape: tuple[int, ...], fields: Mapping[str, Any]):
        if not fields or not isinstance(fields, Mapping):
            raise LaunchError(
                f"region {name}: expected at least one field, by name with its type, got {fields!r}"
            )
        self.id = id
        self.name = name
        try:
            self.space = whole(tuple(map(index, shape)))
        except (LaunchError, TypeError):
            raise LaunchError(
                f"region {name}: shape {shape!r}, expected 1 to {MAX_DIMENSIONS} dimensions of 0 "
                "or more points"
            ) from None
        self.fields = dict(fields)
        self.partitions: dict[Hashable, Any] = {}
        self.storage: Storage | None = None
        self._parts: dict[tuple[IndexSpace, tuple[str, ...]], Subregion] = {}
        self._by_rows: dict[tuple[int, int], Subregion] = {}  # models ask for these all the time

    def __repr__(self) -> str:
        return f"Region({self.name!r}, {self.space.shape}, {list(self.fields)})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Points along each dimension."""
        return self.space.hi

    def shares_bytes(self, other: Region) -> bool:
        """Whether some of its memory is the other's at another time."""
        one, two = self.storage, other.storage
        if self is other or one is None or two is None or one.arena != two.arena:
            return False
        mine, theirs = (r.interval(s.shape, s.space) for r, s in ((one, self), (two, other)))
        return mine.overlaps(theirs)

    def check(self, field: str, array: Any) -> Array:
        """The array, fit to be the memory of ``field``.

        Raises:
            LaunchError: no such field, no array, an array of another shape or type, or one that
                could not be written element by element.
        """
        self.part(None, field)  # refuses unknown ones
        try:
            taken: Array = imported(array)
        except (AttributeError, TypeError):
            raise LaunchError(
                f"region {self.name}.{field}: attached {type(array).__name__}, expected an array, "
                "or an object with DLPack"
            ) from None
        if tuple(taken.shape) != self.shape:
            raise LaunchError(
                f"region {self.name}.{field}: attached {tuple(taken.shape)}, expected {self.shape}"
            )
        if not is_of_type(taken, self.fields[field]):
            raise LaunchError(
                f"region {self.name}.{field}: attached an array of {taken.dtype}, expected "
                f"{self.fields[field]}, as the field was declared"
            )
        lies = layout(taken)
        if lies is not None and lies.is_repeated:
            raise LaunchError(
                f"region {self.name}.{field}: attached an array with several elements in the same "
                "bytes (broadcast?), expected a place for each; copy it"
            )
        if lies is not None and not lies.is_writable:
            raise LaunchError(
                f"region {self.name}.{field}: attached an array that is read-only, expected one "
                "that tasks and transfers can write; copy it"
            )
        return taken

    def part(self, space: IndexSpace | None = None, *fields: str) -> Subregion:
        """The points of ``space`` (default all), of ``fields`` (default all).

        The same points and fields are the same object, however often they are asked for.
        """
        key = (space or self.space, fields or tuple(self.fields))
        if (part := self._parts.get(key)) is None:
            part = self._parts[key] = Subregion(self, *key)
        return part

    def rows(self, start: int, stop: int) -> Subregion:
        """Points ``start`` to ``stop`` of the first dimension, all of the others."""
        if (part := self._by_rows.get((start, stop))) is None:
            part = self._by_rows[start, stop] = self.part(self.space.along(0, start, stop))
        return part


class Subregion:
    """Some points and fields of a region: what one argument of a launch names.

    Made by :meth:`Region.part`; two of them are equal if they are the same object.
    """

    __slots__ = ("fields", "region", "space")

    def __init__(self, region: Region, space: IndexSpace, fields: tuple[str, ...]) -> None:
        if unknown := set(fields) - set(region.fields):
            raise LaunchError(
                f"region {region.name}: no field {min(unknown)!r}, expected one of "
                f"{list(region.fields)}"
            )
        if len(space.lo) != len(region.shape) or not region.space.covers(space):
            raise LaunchError(
                f"region {region.name}: {space} leaves its index space {region.shape}"
            )
        self.region = region
        self.space = space
        self.fields = fields

    def __str__(self) -> str:
        inside = "" if self.space == self.region.space else str(self.space)
        fields = "" if len(self.region.fields) == 1 else "." + ",".join(self.fields)
        return f"{self.region.name}{inside}{fields}"

    __repr__ = __str__

    @property
    def keys(self) -> list[FieldKey]:
        """What the state of each of its fields is looked up by."""
        return [(self.region.id, field) for field in self.fields]
