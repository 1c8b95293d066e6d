"""Partitions: subregions by colour, and the projections that choose one for each point.

A partition is *disjoint* if no two of its parts share a point, else *aliased*; it is *complete* if
every point lies in some part. Both are worked out from the rectangles; what a program declares is
checked against that.

Source: Treichler et al., "Language support for dynamic, hierarchical data partitioning" (OOPSLA
2013), of which these are the kinds that need no data.

Parts that are made again in the same way are the same partition: launches are told apart by the
objects that they are given, and a loop may make its partitions where it uses them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from operator import add, index
from typing import Any, cast

from specinfer.runtime.errors import LaunchError
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.region import Region, Subregion

Colour = int | tuple[int, ...]
"""A point of a launch domain, or the name of a part: a number, or one for each dimension."""

PROJECTED = 256
"""Projections that a partition remembers to be seen through: those used last."""


def points(domain: int | Sequence[int]) -> list[Colour]:
    """The points of a launch domain, in order.

    >>> points(3), points((2, 2))
    ([0, 1, 2], [(0, 0), (0, 1), (1, 0), (1, 1)])

    Raises:
        LaunchError: no number of points, or a negative one.
    """
    counts = _numbers(domain, "domain")
    if not counts or min(counts) < 0:
        raise LaunchError(f"domain {domain}: expected 0 or more points along each dimension")
    if len(counts) == 1:
        return list(range(counts[0]))
    return list(product(*map(range, counts)))


@dataclass(frozen=True, slots=True)
class Projection:
    """Which part each point of an index launch uses: a pure function of the point.

    Attributes:
        name: for people.
        colour: of the part, for a point.
    """

    name: str
    colour: Callable[[Any], Colour]

    def __str__(self) -> str:
        return self.name


ID = Projection("ID", lambda point: point)
"""Point p uses part p."""


@cache
def shift(*offsets: int) -> Projection:
    """Point p uses part ``p + offsets``.

    >>> shift(1).colour(3), shift(0, -1).colour((4, 4))
    (4, (4, 3))

    Raises:
        LaunchError: an offset that is no whole number; later, a point of other dimensions.
    """
    steps = _numbers(offsets, "shift by")
    name = f"shift({', '.join(map(str, steps))})"

    def colour(point: Colour) -> Colour:
        at = (point,) if isinstance(point, int) else point
        if len(at) != len(steps):
            raise LaunchError(
                f"{name}: point {point} has {len(at)} dimensions, expected {len(steps)}, one for "
                "each offset"
            )
        if isinstance(point, int):
            return point + steps[0]
        return tuple(map(add, at, steps))

    return Projection(name, colour)


@dataclass(frozen=True, slots=True, eq=False)
class Projected:
    """A partition seen through a projection: an argument of an index launch."""

    partition: Partition
    projection: Projection

    def __str__(self) -> str:
        return f"{self.partition.name}[{self.projection}]"

    def part(self, point: Colour | None) -> Subregion:
        """What a point uses.

        Raises:
            LaunchError: the projection leaves the partition.
        """
        colour = self.projection.colour(point)
        try:
            return self.partition.parts[colour]
        except (KeyError, TypeError):
            raise LaunchError(
                f"{self}: point {point} is sent to colour {colour!r}, which leaves the partition's "
                f"{len(self.partition)} colours {self.partition.described_colours}"
            ) from None


class Partition:
    """Parts of a subregion, by colour.

    Args:
        whole: what is partitioned.
        spaces: the points of each part, by colour.
        name: for people.
        disjoint: what the program says; checked if given.
        complete: likewise.

    Attributes:
        parts: by colour, in the order given.
        is_disjoint: no two parts share a point.
        is_complete: every point lies in some part.

    Raises:
        LaunchError: a part that leaves the whole, or a declaration that is not so.
    """

    __slots__ = ("_projected", "is_complete", "is_disjoint", "name", "parts", "whole")

    def __init__(
        self,
        whole: Region | Subregion,
        spaces: Mapping[Colour, IndexSpace],
        *,
        name: str = "",
        disjoint: bool | None = None,
        complete: bool | None = None,
    ) -> None:
        self.whole = whole.part() if isinstance(whole, Region) else whole
        region = self.whole.region
        self.name = name or f"{self.whole}.parts"
        self.parts: dict[Colour, Subregion] = {}
        for colour, space in spaces.items():
            if len(space.lo) != len(region.shape) or not self.whole.space.covers(space):
                raise LaunchError(
                    f"partition {self.name}: part {colour} is {space}, which leaves "
                    f"{self.whole.space}"
                )
            self.parts[colour] = region.part(space, *self.whole.fields)
        meeting = _meeting(spaces)
        self.is_disjoint = meeting is None
        if disjoint and meeting is not None:
            one, other = meeting
            raise LaunchError(
                f"partition {self.name}: declared disjoint, but parts {one} {spaces[one]} and "
                f"{other} {spaces[other]} share points"
            )
        missing = _missing(self.whole.space, spaces.values())
        self.is_complete = not missing
        if complete and missing:
            raise LaunchError(
                f"partition {self.name}: declared complete, but no part holds {missing[0]}"
            )
        self._projected: OrderedDict[Projection, Projected] = OrderedDict()

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Subregion]:
        return iter(self.parts.values())

    def __getitem__(self, at: Any) -> Any:
        """The part of a colour, or the partition seen through a projection."""
        if isinstance(at, Projection):
            if (projected := self._projected.get(at)) is not None:
                self._projected.move_to_end(at)
                return projected
            projected = self._projected[at] = Projected(self, at)
            if len(self._projected) > PROJECTED:  # functions that are made anew each time
                self._projected.popitem(last=False)
            return projected
        try:
            return self.parts[at]
        except (KeyError, TypeError):
            raise LaunchError(
                f"partition {self.name}: no colour {at!r} in {self.described_colours}"
            ) from None

    def __str__(self) -> str:
        kind = "disjoint" if self.is_disjoint else "aliased"
        extent = "complete" if self.is_complete else "incomplete"
        return f"{self.name} ({len(self)} parts, {kind}, {extent})"

    @property
    def described_colours(self) -> str:
        """First and last colour."""
        colours = list(self.parts)
        return f"{colours[0]}..{colours[-1]}" if colours else "(none)"


def equal(whole: Region | Subregion, counts: int | Sequence[int], *, name: str = "") -> Partition:
    """As equal parts as can be: ``counts`` along each dimension, the longer ones first.

    Dimensions without a count stay whole.

    Raises:
        LaunchError: no counts, a negative one, or more than dimensions.

    >>> line = Region(0, "line", (7,), {"value": "int64"})
    >>> [str(part) for part in equal(line, 3)]
    ['line[0:3]', 'line[3:5]', 'line[5:7]']
    """
    counts = _numbers(counts, f"{_name(whole)}: equal parts:")
    if not counts:
        raise LaunchError(f"{_name(whole)}: equal parts without a count, expected one at least")
    _check_dimension(whole, len(counts) - 1)
    if any(count < 0 for count in counts):
        raise LaunchError(f"{_name(whole)}: {min(counts)} equal parts, expected 0 or more")
    sizes = [
        [extent // count + (i < extent % count) for i in range(count)]
        for extent, count in zip(whole.space.shape, counts, strict=False)
    ]
    return blocks(whole, sizes if len(sizes) > 1 else sizes[0], name=name)


def blocks(
    whole: Region | Subregion, sizes: Sequence[Any], *, name: str = "", dim: int = 0
) -> Partition:
    """Blocks of given sizes along a dimension, or along the first ones: sizes may be 0.

    Args:
        whole: what is partitioned.
        sizes: numbers of points, or a list of them for each of the first dimensions.
        name: for people.
        dim: the dimension that ``sizes`` are along, if they are numbers.

    Raises:
        LaunchError: no sizes, a negative one, or sizes that leave a dimension, or all of them.

    >>> grid = Region(0, "grid", (2, 5), {"value": "int64"})
    >>> [str(part) for part in blocks(grid, (4, 0, 1), dim=1)]
    ['grid[0:2,0:4]', 'grid[0:2,4:4]', 'grid[0:2,4:5]']
    """
    space = whole.space
    where = f"{_name(whole)}: blocks of sizes"
    if all(map(_is_number, _items(sizes, where))):
        by_dim = {dim: _numbers(sizes, where)}
    else:
        by_dim = {d: _numbers(_items(listed, where), where) for d, listed in enumerate(sizes)}
    for d in by_dim:
        _check_dimension(whole, d)
    for d, listed in by_dim.items():
        if any(size < 0 for size in listed):
            raise LaunchError(
                f"{_name(whole)}: blocks of sizes {list(listed)} along dimension {d}, expected "
                "each to be 0 or more"
            )
    ranges = [
        list(_ranges(space.lo[d], by_dim[d])) if d in by_dim else [(space.lo[d], space.hi[d])]
        for d in range(len(space.lo))
    ]
    spaces: dict[Colour, IndexSpace] = {}
    for chosen in product(*(enumerate(options) for options in ranges)):
        colour = tuple(chosen[d][0] for d in by_dim)
        bounds = [pair for _, pair in chosen]
        spaces[colour[0] if len(colour) == 1 else colour] = IndexSpace(
            tuple(low for low, _ in bounds), tuple(high for _, high in bounds)
        )
    return _partition(whole, spaces, name)


def by_colour(
    whole: Region | Subregion,
    colours: Mapping[Colour, IndexSpace],
    *,
    name: str = "",
    disjoint: bool | None = None,
    complete: bool | None = None,
) -> Partition:
    """Any rectangles; whether they are disjoint and complete is found out."""
    return _partition(whole, colours, name, disjoint, complete)


def restricted(
    whole: Region | Subregion,
    domain: int | Sequence[int],
    extent: IndexSpace,
    stride: int | Sequence[int],
    *,
    reach: int | Sequence[int] = 0,
    name: str = "",
) -> Partition:
    """One rectangle, moved by ``stride`` for each colour and cut off at the edges.

    Args:
        whole: what is partitioned.
        domain: how many colours, along each of the first dimensions.
        extent: the rectangle of colour 0.
        stride: how far it moves along each of these dimensions.
        reach: how much it is widened on both sides first: the halo of a stencil.
        name: for people.

    Raises:
        LaunchError: domain, stride and reach of different dimensions, or of more than there are; a
            rectangle that leaves the whole along another dimension.

    >>> line = Region(0, "line", (8,), {"value": "int64"})
    >>> [str(part) for part in restricted(line, 2, IndexSpace((0,), (4,)), 4, reach=1)]
    ['line[0:5]', 'line[3:8]']
    """
    space = whole.space
    counts = _numbers(domain, "domain")
    strides = _numbers(stride, f"{_name(whole)}: restricted parts with stride")
    reaches = _numbers(reach, f"{_name(whole)}: restricted parts with reach")
    if _is_number(reach):
        reaches *= len(strides)
    if not len(counts) == len(strides) == len(reaches) <= len(extent.lo) == len(space.lo):
        raise LaunchError(
            f"{_name(whole)}: restricted parts with domain {domain}, extent {extent}, stride "
            f"{stride} and reach {reach}, expected an extent of {len(space.lo)} dimensions and the "
            "others of as many, or fewer, alike"
        )
    spaces: dict[Colour, IndexSpace] = {}
    for colour in points(domain):
        at = (colour,) if isinstance(colour, int) else colour
        lo, hi = list(extent.lo), list(extent.hi)
        for d, (step, wide) in enumerate(zip(strides, reaches, strict=True)):
            lo[d] = max(space.lo[d], extent.lo[d] + at[d] * step - wide)
            hi[d] = max(lo[d], min(space.hi[d], extent.hi[d] + at[d] * step + wide))
        spaces[colour] = IndexSpace(tuple(lo), tuple(hi))
    return _partition(whole, spaces, name)


def _partition(
    whole: Region | Subregion,
    spaces: Mapping[Colour, IndexSpace],
    name: str,
    disjoint: bool | None = None,
    complete: bool | None = None,
) -> Partition:
    """The partition of these parts: one that was made before, if there is one."""
    whole = whole.part() if isinstance(whole, Region) else whole
    known, key = whole.region.partitions, (whole, tuple(spaces.items()), name, disjoint, complete)
    if (partition := known.get(key)) is None:
        partition = Partition(whole, spaces, name=name, disjoint=disjoint, complete=complete)
        known[key] = partition
    return cast(Partition, partition)


def _name(whole: Region | Subregion) -> str:
    return whole.name if isinstance(whole, Region) else str(whole)


def _numbers(given: Any, where: str) -> tuple[int, ...]:
    """A number, or several, as Python's own: NumPy's integers are as good."""
    try:
        return (index(given),) if _is_number(given) else tuple(map(index, given))
    except TypeError:
        raise LaunchError(
            f"{where} {given!r}, expected a whole number, or one for each dimension"
        ) from None


def _is_number(given: Any) -> bool:
    try:
        index(given)
    except TypeError:
        return False
    return True


def _items(given: Any, where: str) -> Sequence[Any]:
    if _is_number(given) or isinstance(given, str) or not hasattr(given, "__len__"):
        raise LaunchError(f"{where} {given!r}, expected a list of sizes")
    return cast("Sequence[Any]", given)


def _check_dimension(whole: Region | Subregion, dim: int) -> None:
    dimensions = len(whole.space.lo)
    if not 0 <= dim < dimensions:
        raise LaunchError(
            f"{_name(whole)}: parts along dimension {dim}, expected one of its {dimensions}, from 0"
        )


def _ranges(start: int, sizes: Iterable[int]) -> Iterator[tuple[int, int]]:
    for size in sizes:
        yield start, start + size
        start += size


def _meeting(spaces: Mapping[Colour, IndexSpace]) -> tuple[Colour, Colour] | None:
    """Two parts that share a point; parts are looked at in order of their first coordinate."""
    ordered = sorted(spaces.items(), key=lambda item: item[1].lo[0])
    for n, (colour, space) in enumerate(ordered):
        for other, candidate in ordered[n + 1 :]:
            if candidate.lo[0] >= space.hi[0]:
                break
            if space.overlaps(candidate):
                return colour, other
    return None


def _missing(whole: IndexSpace, spaces: Iterable[IndexSpace]) -> list[IndexSpace]:
    rest = [whole] if not whole.is_empty else []
    for space in spaces:
        rest = [piece for old in rest for piece in old.minus(space)]
    return rest
