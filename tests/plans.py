"""Task programs as plain data, and where the parts of their partitions lie.

What such a program means is said in ``tests/meaning.py``, how it is run in ``tests/running.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise, product
from typing import Any

Corner = tuple[int, ...]
Box = tuple[Corner, Corner]
"""The points ``lo <= p < hi``."""
Colour = int | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RegionPlan:
    """A region; fields that are attached start as different numbers, the others as zeros."""

    shape: tuple[int, ...]
    fields: tuple[str, ...]
    attached: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class PartitionPlan:
    """Parts of a box of a region, made by a function of the runtime of that name.

    Attributes:
        data: its arguments: counts of ``equal``; sizes and dimension of ``blocks``; domain,
            extent, strides and reach of ``restricted``; (colour, box) pairs of ``by_colour``.
    """

    region: int
    fields: tuple[str, ...]
    box: Box
    kind: str
    data: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Area:
    """An argument: the points of a box of a region."""

    region: int
    box: Box
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Through:
    """An argument: for each point the part of a partition that a projection chooses.

    Attributes:
        projection: ``ID``; ``shift``, by ``data``; ``table``, of (point, colour) pairs.
    """

    partition: int
    projection: str
    data: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """What a launch runs.

    Attributes:
        kind: see ``meaning.perform``.
        modes: what it does to each argument.
        is_pure: every rank may run it for itself.
        returns: it gives a value.
    """

    kind: str
    modes: tuple[str, ...]
    is_pure: bool
    returns: bool


@dataclass(frozen=True, slots=True)
class Gift:
    """The future of an earlier launch; of one of its points, if ``colour`` is given."""

    slot: int
    colour: Colour | None = None


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """A launch.

    Attributes:
        number: of the launch; its future is kept under this number.
        domain: of an index launch.
        offset: its points are told their colour, moved by this.
        size: elements of a grain.
    """

    number: int
    task: TaskPlan
    arguments: tuple[Area | Through, ...]
    domain: tuple[int, ...] | None = None
    offset: int = 0
    size: int = 1
    gifts: tuple[Gift, ...] = ()
    predicate: Gift | None = None
    otherwise: int = 0


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """The program looks at the memory of one field."""

    area: Area


@dataclass(frozen=True, slots=True)
class GetPlan:
    """The program asks for a future, or folds those of all points with an operator."""

    slot: int
    fold: str | None = None


@dataclass(frozen=True, slots=True)
class AttachPlan:
    """The program gives a field other memory, or takes it back."""

    region: int
    field: str
    values: int | None


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A block is run once for every one of these parameters."""

    block: int
    parameters: tuple[int, ...]


Step = LaunchPlan | ReadPlan | GetPlan | AttachPlan | RunPlan


@dataclass(frozen=True, slots=True)
class Program:
    """Regions, partitions, blocks of launches that are repeated, and what is done in order."""

    regions: tuple[RegionPlan, ...]
    partitions: tuple[PartitionPlan, ...]
    blocks: tuple[tuple[LaunchPlan, ...], ...]
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        lines = [f"region {i}: {region}" for i, region in enumerate(self.regions)]
        lines += [f"partition {i}: {partition}" for i, partition in enumerate(self.partitions)]
        for i, block in enumerate(self.blocks):
            lines += [f"block {i}:", *(f"  {launch}" for launch in block)]
        return "\n".join([*lines, "steps:", *(f"  {step}" for step in self.steps)])

    @property
    def launches(self) -> list[LaunchPlan]:
        """All launches, in order, with their repetitions."""
        found: list[LaunchPlan] = []
        for step in self.steps:
            if isinstance(step, LaunchPlan):
                found.append(step)
            elif isinstance(step, RunPlan):
                found += self.blocks[step.block] * len(step.parameters)
        return found


def points(domain: tuple[int, ...]) -> list[Colour]:
    """The points of a launch domain, in order."""
    if len(domain) == 1:
        return list(range(domain[0]))
    return list(product(*map(range, domain)))


def parts_of(plan: PartitionPlan) -> dict[Colour, Box]:
    """The parts of a partition, worked out without the runtime."""
    lo, hi = plan.box
    ranges: dict[int, list[tuple[int, int]]] = {}
    match plan.kind:
        case "by_colour":
            return dict(plan.data)
        case "equal":
            for d, count in enumerate(plan.data):
                small, more = divmod(hi[d] - lo[d], count)
                ranges[d] = _ranges(lo[d], [small + 1] * more + [small] * (count - more))
        case "blocks":
            sizes, dim = plan.data
            by_dim = {dim: sizes} if _is_flat(sizes) else dict(enumerate(sizes))
            ranges = {d: _ranges(lo[d], by_dim[d]) for d in by_dim}
        case "restricted":
            domain, extent, strides, reach = plan.data
            for d, count in enumerate(domain):
                starts = [extent[0][d] + i * strides[d] - reach for i in range(count)]
                ends = [extent[1][d] + i * strides[d] + reach for i in range(count)]
                ranges[d] = [
                    (max(lo[d], low), max(max(lo[d], low), min(hi[d], high)))
                    for low, high in zip(starts, ends, strict=True)
                ]
    found: dict[Colour, Box] = {}
    for colour in product(*(range(len(ranges[d])) for d in ranges)):
        low, high = list(lo), list(hi)
        for d, at in zip(ranges, colour, strict=True):
            low[d], high[d] = ranges[d][at]
        found[colour[0] if len(colour) == 1 else colour] = tuple(low), tuple(high)
    return found


def _is_flat(sizes: tuple[Any, ...]) -> bool:
    return not isinstance(sizes[0], tuple)


def _ranges(start: int, sizes: Any) -> list[tuple[int, int]]:
    ends = list(accumulate(sizes, initial=start))
    return list(pairwise(ends))
