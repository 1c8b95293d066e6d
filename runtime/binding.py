"""Bindings: a task with its region arguments, checked once; what launches of it have in common.

A binding is made for the first launch of a task with these regions and used by all later ones. Its
*points* are what an index launch does for each point of its domain; a single launch has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import gcd
from numbers import Integral
from typing import Any

from specinfer.runtime.dependence import Requirement
from specinfer.runtime.errors import LaunchError
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.partition import ID, Colour, Partition, Projected
from specinfer.runtime.region import FieldKey, Region, Subregion
from specinfer.runtime.sharding import Block, Sharded
from specinfer.runtime.task import Task


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """What one point of a launch uses.

    Attributes:
        colour: in the launch domain; None for a single launch.
        parts: by region parameter.
        requirements: one for each region argument and field.
    """

    colour: Colour | None
    parts: Mapping[str, Subregion]
    requirements: tuple[Requirement, ...]


@dataclass(frozen=True, slots=True)
class Units:
    """How many of what an axis counts there are, and what one of them is in each dimension.

    Attributes:
        axis: its name.
        count: of units.
        sizes: elements of one unit, by (parameter, dimension).
    """

    axis: str
    count: int
    sizes: Mapping[tuple[str, int], int]

    def blocks_of(self, parameter: str, sharding: Sharded) -> tuple[Block, ...] | None:
        """A sharding of one argument, counted in units; None if it cuts through one."""
        size = self.sizes[parameter, sharding.dim]
        start = sharding.blocks[0][0]
        bounds = [(low - start, high - start) for low, high in sharding.blocks]
        if any(low % size or high % size for low, high in bounds):
            return None
        return tuple((low // size, high // size) for low, high in bounds)


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """A task with its region arguments.

    Attributes:
        task: what to run.
        regions: subregions, or partitions seen through projections, by parameter.
        points: what it uses, point by point.
        keys: every field that it uses.
        fixed: values of the parameters that say how many elements a unit of an axis takes.
        is_index: whether this is an index launch.
    """

    task: Task
    regions: Mapping[str, Subregion | Projected]
    points: tuple[Point, ...]
    keys: tuple[FieldKey, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    is_index: bool = False

    def __str__(self) -> str:
        privileges = self.task.privileges
        described = ", ".join(f"{name}={privileges[name]} {r}" for name, r in self.regions.items())
        return f"{self.task.name}({described})"

    def units(self, axis: str) -> Units:
        """How an axis of the task lies in these arguments.

        Raises:
            LaunchError: dimensions of the axis that do not fit each other.
        """
        (point,) = self.points
        elements: dict[tuple[str, int], tuple[int, int]] = {}
        for name, dims in self.task.division.axes.items():
            for d, dim in enumerate(dims):
                if dim and dim.name == axis:
                    granule = int(self.fixed[dim.granule]) if dim.granule else 1
                    elements[name, d] = (point.parts[name].space.shape[d], granule)
        if not elements:
            known = ", ".join(self.task.division.names) or "none"
            raise LaunchError(f"task {self.task.name}: no axis {axis!r} to divide; has {known}")
        count = 0
        for extent, granule in elements.values():
            count = gcd(count, extent // granule)
        for (name, d), (extent, granule) in elements.items():
            if extent % granule or (count and extent % count):
                raise LaunchError(
                    f"task {self.task.name}: dimension {d} of {name} has {extent} points, expected "
                    f"a multiple of {granule if extent % granule else count} along axis {axis}"
                )
        sizes = {
            at: extent // count if count else granule for at, (extent, granule) in elements.items()
        }
        return Units(axis, count, sizes)


def bind_single(task: Task, arguments: Mapping[str, Any]) -> Binding:
    """Check a single launch.

    Raises:
        LaunchError: an argument of the wrong kind, or two arguments that overlap with privileges
            that do not commute.
    """
    regions: dict[str, Subregion] = {}
    for name in task.privileges:
        value = arguments[name]
        if isinstance(value, Region):
            value = value.part()
        if not isinstance(value, Subregion):
            raise LaunchError(
                f"task {task.name}: argument {name} is {type(value).__name__}, expected a subregion"
            )
        dims = task.division.axes.get(name)
        if dims is not None and len(dims) != len(value.space.lo):
            raise LaunchError(
                f"task {task.name}: argument {name}, {value}, has {len(value.space.lo)} dimensions,"
                f" expected {len(dims)}, as its axes say"
            )
        regions[name] = value
    point = _point(task, None, regions, regions)
    return Binding(task, regions, (point,), _keys((point,)), _fixed(task, arguments))


def bind_index(task: Task, domain: Sequence[Colour], arguments: Mapping[str, Any]) -> Binding:
    """Check an index launch: a partition is seen through ``ID`` unless told otherwise.

    Raises:
        LaunchError: as for a single launch, at any point; two points that overlap with privileges
            that do not commute; a projection that leaves its partition.
    """
    regions: dict[str, Subregion | Projected] = {}
    for name in task.privileges:
        value = arguments[name]
        if isinstance(value, Partition):
            value = value[ID]
        elif isinstance(value, Region):
            value = value.part()
        if not isinstance(value, Subregion | Projected):
            raise LaunchError(
                f"task {task.name}: argument {name} is {type(value).__name__}, expected a partition"
                " or a subregion"
            )
        regions[name] = value
    points = tuple(
        _point(
            task,
            colour,
            regions,
            {n: r.part(colour) if isinstance(r, Projected) else r for n, r in regions.items()},
        )
        for colour in domain
    )
    _check_points(task, regions, points)
    return Binding(task, regions, points, _keys(points), _fixed(task, arguments), is_index=True)


def _point(
    task: Task,
    colour: Colour | None,
    regions: Mapping[str, Subregion | Projected],
    parts: Mapping[str, Subregion],
) -> Point:
    named: list[tuple[str, Requirement]] = []
    for name, part in parts.items():
        projected = regions[name]
        partition = projected.partition if isinstance(projected, Projected) else None
        if partition is not None and not partition.is_disjoint:
            partition = None
        named += [
            (name, Requirement(key, part.space, task.privileges[name], partition))
            for key in part.keys
        ]
    for i, (name, one) in enumerate(named):
        for other_name, other in named[:i]:
            if one.conflicts_with(other):
                at = "" if colour is None else f" at point {colour}"
                raise LaunchError(
                    f"task {task.name}: {other_name} ({other.privilege} {parts[other_name]}) "
                    f"and {name} ({one.privilege} {parts[name]}) overlap in one launch{at}"
                )
    for one_name, other_name in combinations(parts, 2):
        if parts[one_name].region.shares_bytes(parts[other_name].region):
            raise LaunchError(
                f"task {task.name}: {one_name} ({parts[one_name]}) and {other_name} "
                f"({parts[other_name]}) have the same bytes at different times, expected lifetimes "
                "that both reach this launch"
            )
    named += storage_requirements(task, parts, {name: part.space for name, part in parts.items()})
    return Point(colour, dict(parts), tuple(requirement for _, requirement in named))


def _check_points(
    task: Task, regions: Mapping[str, Subregion | Projected], points: Sequence[Point]
) -> None:
    """Points of one launch run at once: they must not conflict."""
    # Through one disjoint partition, points with different parts cannot meet. What they do to bytes
    # is not compared: columns lie among each other.
    users: dict[FieldKey, list[tuple[Point, Requirement]]] = {key: [] for key in _keys(points)}
    for point in points:
        for requirement in point.requirements:
            if requirement.key in users:
                users[requirement.key].append((point, requirement))
    for uses in users.values():
        if all(not requirement.privilege.writes for _, requirement in uses) and (
            len({requirement.privilege for _, requirement in uses}) == 1
        ):
            continue
        ordered = sorted(uses, key=lambda use: use[1].space.lo[0])
        for i, (point, one) in enumerate(ordered):
            for other_point, other in ordered[i + 1 :]:
                if other.space.lo[0] >= one.space.hi[0]:
                    break
                if point is not other_point and one.conflicts_with(other):
                    raise LaunchError(
                        f"task {task.name}: points {point.colour} ({one.privilege} {one.space}) "
                        f"and {other_point.colour} ({other.privilege} {other.space}) of one launch "
                        f"overlap in {_name_of(regions, one)}"
                    )


def _name_of(regions: Mapping[str, Subregion | Projected], requirement: Requirement) -> str:
    for name, region in regions.items():
        part = region.partition.whole if isinstance(region, Projected) else region
        if requirement.key in part.keys:
            return f"argument {name}, {region}"
    return str(requirement.key)


def _keys(points: Sequence[Point]) -> tuple[FieldKey, ...]:
    keys = (key for point in points for part in point.parts.values() for key in part.keys)
    return tuple(dict.fromkeys(keys))


def storage_requirements(
    task: Task, parts: Mapping[str, Subregion], spaces: Mapping[str, IndexSpace]
) -> Iterator[tuple[str, Requirement]]:
    """What arguments do to bytes that other regions have at other times, by parameter.

    Such a region is dead before another takes its bytes, and nobody says so but its last use.
    """
    for name, part in parts.items():
        storage = part.region.storage
        if storage is not None:
            interval = storage.interval(part.region.shape, spaces[name])
            yield name, Requirement(storage.key, interval, task.privileges[name], is_data=False)


def _fixed(task: Task, arguments: Mapping[str, Any]) -> dict[str, Any]:
    axes = (axis for dims in task.division.axes.values() for axis in dims if axis)
    granules = {axis.granule: arguments[axis.granule] for axis in axes if axis.granule}
    for name, value in granules.items():
        if not isinstance(value, Integral) or value < 1:
            raise LaunchError(
                f"task {task.name}: argument {name} is {value!r}, expected a number, 1 or more, "
                "that is known at the launch: an axis counts in it"
            )
    return granules


def narrowed(space: IndexSpace, units: Units, parameter: str, block: Block) -> IndexSpace:
    """The points of one argument that belong to a block of units."""
    for (name, dim), size in units.sizes.items():
        if name == parameter:
            low = space.lo[dim] + block[0] * size
            space = space.along(dim, low, space.lo[dim] + block[1] * size)
    return space
