"""Random task programs.

A program is made by :func:`make_program` from a function that chooses numbers: ``random.randint``
for many programs in little time, or hypothesis, which then makes a failing one small. All choices
are made here; whoever runs a program has none left.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from meaning import is_legal
from plans import (
    Area,
    AttachPlan,
    Box,
    Colour,
    GetPlan,
    Gift,
    LaunchPlan,
    PartitionPlan,
    Program,
    ReadPlan,
    RegionPlan,
    RunPlan,
    Step,
    TaskPlan,
    Through,
    parts_of,
    points,
)

Pick = Callable[[int, int], int]
"""Chooses an integer between two, both included: at random, or as hypothesis likes."""

Slots = dict[int, list[Colour] | None]
"""Launches whose futures may be given to others, with their points."""

MODES = ("R", "RW", "WD", "+", "max", "min")
SHAPES = ((4,), (3, 4), (6,), (4, 4), (2, 3))
FIELDS = (("a",), ("a", "b"))


@dataclass(frozen=True, slots=True)
class Size:
    """How much there may be in a program."""

    steps: int = 9
    block: int = 4
    repetitions: int = 5


SMALL = Size(steps=6, block=2, repetitions=4)


def programs(size: Size = SMALL) -> st.SearchStrategy[Program]:
    """Programs for hypothesis, which makes a failing one small."""

    @st.composite
    def draw_program(draw: st.DrawFn) -> Program:
        return make_program(lambda low, high: draw(st.integers(low, high)), size)

    return draw_program()


def picks() -> st.SearchStrategy[Pick]:
    """Choices made while a program runs."""
    return st.randoms(use_true_random=False).map(lambda generator: generator.randint)


def random_program(seed: int, size: Size | None = None) -> Program:
    """The same programs without hypothesis: many times faster."""
    return make_program(random.Random(seed).randint, size or Size())


def make_program(pick: Pick, size: Size) -> Program:
    """A program of a few small regions, with launches that often meet."""
    return _Maker(pick, size).program()


class _Maker:
    def __init__(self, pick: Pick, size: Size) -> None:
        self.pick = pick
        self.size = size
        self.regions: list[RegionPlan] = []
        self.partitions: list[PartitionPlan] = []
        self.colours: list[list[Colour]] = []
        self.blocks: list[tuple[LaunchPlan, ...]] = []
        self.number = 0
        self.slots: Slots = {}
        self.launched: list[LaunchPlan] = []
        self.parameter = 0
        self.result: Area | None = None

    def chance(self, one_in: int) -> bool:
        """Rarely true; false is the simpler answer."""
        return self.pick(0, one_in - 1) == one_in - 1

    def choose(self, options: Any) -> Any:
        return options[self.pick(0, len(options) - 1)]

    def program(self) -> Program:
        for _ in range(self.pick(1, 3)):
            fields = self.choose(FIELDS)
            attached = tuple(not self.chance(5) for _ in fields)
            self.regions.append(RegionPlan(self.choose(SHAPES), fields, attached))
        for _ in range(self.pick(0, 3)):
            partition = self.partition()
            self.partitions.append(partition)
            self.colours.append(list(parts_of(partition)))
        steps: list[Step] = []
        for _ in range(self.pick(1, self.size.steps)):
            match self.pick(0, 11):
                case 0 | 1 | 2 | 3 | 4 | 5:
                    steps.append(self.keep(self.launch(self.slots)))
                case 6 | 7 | 8:
                    steps.append(self.run())
                case 9:
                    steps.append(ReadPlan(self.area(one_field=True)))
                case 10:
                    if self.slots:
                        slot = self.choose(list(self.slots))
                        is_map = self.slots[slot] is not None
                        fold = self.choose((None, "add", "max")) if is_map else None
                        steps.append(GetPlan(slot, fold))
                case _:
                    region = self.pick(0, len(self.regions) - 1)
                    field = self.choose(self.regions[region].fields)
                    values = self.choose((3, None))
                    if self.chance(2):
                        steps.append(AttachPlan(region, field, values))
        return Program(
            tuple(self.regions), tuple(self.partitions), tuple(self.blocks), tuple(steps)
        )

    # Places

    def box(self, outer: Box) -> Box:
        bounds = [sorted((self.pick(a, b), self.pick(a, b))) for a, b in zip(*outer, strict=True)]
        if self.chance(3):  # all of it
            return outer
        return tuple(low for low, _ in bounds), tuple(high for _, high in bounds)

    def area(self, *, one_field: bool = False) -> Area:
        number = self.pick(0, len(self.regions) - 1)
        region = self.regions[number]
        fields = region.fields
        if one_field or self.chance(2):
            fields = (self.choose(fields),)
        return Area(number, self.box(((0,) * len(region.shape), region.shape)), fields)

    def partition(self) -> PartitionPlan:
        number = self.pick(0, len(self.regions) - 1)
        region = self.regions[number]
        fields = (self.choose(region.fields),) if self.chance(2) else region.fields
        box: Box = ((0,) * len(region.shape), region.shape)
        if self.chance(4):
            box = self.box(box)
        shape = [high - low for low, high in zip(*box, strict=True)]
        dims = self.pick(1, len(shape))
        kind = self.choose(("equal", "blocks", "restricted", "by_colour"))
        data: tuple[Any, ...]
        if kind == "equal":
            data = tuple(self.pick(1, 4 if dims == 1 else 2) for _ in range(dims))
        elif kind == "blocks":
            dim = self.pick(0, len(shape) - 1)
            sizes = [self.sizes(extent) for extent in shape]
            data = (sizes[dim], dim) if dims == 1 else (tuple(sizes[:dims]), 0)
        elif kind == "restricted":
            domain = tuple(self.pick(1, 4 if dims == 1 else 2) for _ in range(dims))
            strides = tuple(max(1, shape[d] // domain[d]) for d in range(dims))
            hi = tuple(
                low + min(extent, strides[d]) if d < dims else low + extent
                for d, (low, extent) in enumerate(zip(box[0], shape, strict=True))
            )
            data = (domain, (box[0], hi), strides, self.pick(0, 1))
        else:
            colours = points((self.pick(1, 4),) if dims == 1 else (2, self.pick(1, 2)))
            data = tuple((colour, self.box(box)) for colour in colours)
        return PartitionPlan(number, fields, box, kind, data)

    def sizes(self, extent: int) -> tuple[int, ...]:
        """Numbers of points that together are at most so many."""
        cuts = sorted(self.pick(0, extent) for _ in range(self.pick(1, 4)))
        return tuple(high - low for low, high in zip([0, *cuts], cuts, strict=False))

    # Launches

    def is_legal(self, launch: LaunchPlan) -> bool:
        return is_legal(
            [parts_of(partition) for partition in self.partitions], self.partitions, launch
        )

    def futures(self, launch: LaunchPlan) -> Slots:
        """The future of a launch, if it can be given to others."""
        if not launch.task.returns or not self.is_legal(launch):
            return {}
        return {launch.number: None if launch.domain is None else points(launch.domain)}

    def keep(self, launch: LaunchPlan) -> LaunchPlan:
        self.launched.append(launch)
        self.slots.update(self.futures(launch))
        return launch

    def run(self) -> RunPlan:
        if self.blocks and not self.chance(3):
            block = self.pick(0, len(self.blocks) - 1)
        else:
            # A future from before a block must be the same in all of its runs.
            once = {launch.number for launch in self.launched}
            slots = {slot: domain for slot, domain in self.slots.items() if slot in once}
            launches = []
            for _ in range(self.pick(1, self.size.block)):
                launch = self.launch(slots)
                launches.append(launch)
                slots.update(self.futures(launch))
            self.blocks.append(tuple(launches))
            block = len(self.blocks) - 1
        for launch in self.blocks[block]:
            self.slots.update(self.futures(launch))
        count = self.pick(1, self.size.repetitions)
        self.parameter += count
        return RunPlan(block, tuple(range(self.parameter - count + 1, self.parameter + 1)))

    def launch(self, slots: Slots) -> LaunchPlan:
        self.number += 1
        again = self.launched and self.chance(5)
        if again:  # the same task with the same regions and other values
            old = self.choose(self.launched)
            task, arguments, domain = old.task, old.arguments, old.domain
            size = old.size
        else:
            task, arguments, domain, size = self.what()
        colours = None if domain is None else points(domain)
        gifts = tuple(self.gift(slots, colours) for _ in range(self.pick(0, 2)) if slots)
        predicate = self.gift(slots, None) if slots and self.chance(5) else None
        return LaunchPlan(
            self.number,
            task,
            arguments,
            domain,
            self.pick(0, 2),
            size,
            gifts,
            predicate,
            self.pick(0, 3),
        )

    def gift(self, slots: Slots, wanted: list[Colour] | None) -> Gift:
        """A future; all those of a launch, if there is one for each of these points."""
        slot = self.choose(list(slots))
        known = slots[slot]
        if known is None or (wanted is not None and set(wanted) <= set(known)):
            return Gift(slot)
        return Gift(slot, self.choose(known))

    def what(
        self,
    ) -> tuple[TaskPlan, tuple[Area | Through, ...], tuple[int, ...] | None, int]:
        """A task and its arguments; mostly such that the launch is allowed."""
        kind = self.pick(0, 9)
        found = None
        for _ in range(4):
            found = (
                self.mixed()
                if kind < 4
                else self.indexed()
                if kind < 8 and self.partitions
                else self.divisible()
            )
            if self.is_legal(LaunchPlan(0, *found[:3])) or self.chance(8):
                return found
        assert found is not None
        return found

    def mixed(self) -> tuple[TaskPlan, tuple[Area | Through, ...], None, int]:
        arguments = tuple(self.area() for _ in range(self.pick(1, 3)))
        modes = tuple(self.choose(MODES) for _ in arguments)
        task = TaskPlan("mix", modes, not self.chance(2), bool(self.pick(0, 1)))
        return task, arguments, None, 1

    def indexed(self) -> tuple[TaskPlan, tuple[Area | Through, ...], tuple[int, ...], int]:
        first = self.pick(0, len(self.partitions) - 1)
        known = self.colours[first]
        domain: tuple[int, ...]
        if not known or isinstance(known[0], int):
            domain = (len(known),)
        else:
            domain = tuple(max(c[d] for c in known) + 1 for d in range(len(known[0])))  # type: ignore[index]
        if self.chance(6):
            domain = (self.pick(1, 3), *domain[1:])
        wanted = points(domain)
        arguments: list[Area | Through] = []
        for n in range(self.pick(1, 3)):
            if n and self.chance(4):
                arguments.append(self.area())
                continue
            partition = first if n == 0 else self.pick(0, len(self.partitions) - 1)
            arguments.append(self.through(partition, wanted))
        modes = tuple(self.choose(MODES) for _ in arguments)
        task = TaskPlan("mix", modes, not self.chance(2), bool(self.pick(0, 1)))
        return task, tuple(arguments), domain, 1

    def through(self, partition: int, wanted: list[Colour]) -> Through:
        known = self.colours[partition]
        if set(wanted) <= set(known) and not self.chance(3):
            return Through(partition, "ID")
        if self.chance(3):
            dims = 1 if not wanted or isinstance(wanted[0], int) else len(wanted[0])
            return Through(partition, "shift", tuple(self.pick(0, 2) - 1 for _ in range(dims)))
        if not known:
            return Through(partition, "ID")
        if self.chance(2):  # each point its own part, in another order
            start = self.pick(0, len(known) - 1)
            pairs = ((p, known[(start + n) % len(known)]) for n, p in enumerate(wanted))
        else:
            pairs = ((p, self.choose(known)) for p in wanted)
        return Through(partition, "table", tuple(pairs))

    def divisible(self) -> tuple[TaskPlan, tuple[Area | Through, ...], None, int]:
        """A task that declares axes, and arguments of fitting shapes as far as there are any."""
        kind = self.choose(("scale", "rowsum", "fold", "matmul", "grains"))
        wide = [n for n, region in enumerate(self.regions) if len(region.shape) == 2]
        size = 1
        modes: tuple[str, ...]
        if kind == "scale":
            x = self.one_field(self.pick(0, len(self.regions) - 1))
            if self.result is not None and self.chance(2):
                x = self.result  # of the last task that could be divided
            shape = _shape(x)
            modes, out = ("R", self.choose(("WD", "RW", "+", "max"))), self.fitting(shape)
            arguments: tuple[Area | Through | None, ...] = (x, out)
        elif kind == "grains" or not wide:
            kind, size, modes = "grains", self.pick(1, 2), ("R", "WD")
            count = self.pick(0, 4 // size)
            out = self.fitting((count,))
            arguments = (self.fitting((count * size,)), out)
        else:
            x = self.one_field(self.choose(wide))
            rows, columns = _shape(x)
            if kind == "rowsum":
                modes, out = ("R", "WD"), self.fitting((rows,))
                arguments = (x, out)
            elif kind == "fold":
                modes = ("R", self.choose(("+", "max", "min", "WD", "RW")))
                out = self.fitting((columns,))
                arguments = (x, out)
            else:
                features = self.pick(1, 3)
                w, out = self.fitting((features, columns)), self.fitting((rows, features))
                modes, arguments = ("R", "R", "WD"), (x, w, out)
        fitting = tuple(argument for argument in arguments if argument is not None)
        if len(fitting) < len(arguments):
            return self.mixed()
        self.result = out
        return TaskPlan(kind, modes, not self.chance(5), False), fitting, None, size

    def one_field(self, region: int) -> Area:
        plan = self.regions[region]
        return Area(
            region,
            self.box(((0,) * len(plan.shape), plan.shape)),
            (self.choose(plan.fields),),
        )

    def fitting(self, shape: tuple[int, ...]) -> Area | None:
        """A box of this shape somewhere."""
        large = [
            n
            for n, region in enumerate(self.regions)
            if len(region.shape) == len(shape)
            and all(a >= b for a, b in zip(region.shape, shape, strict=True))
        ]
        if not large:
            return None
        region = large[-1 - self.pick(0, len(large) - 1)]
        plan = self.regions[region]
        lo = tuple(self.pick(0, a - b) for a, b in zip(plan.shape, shape, strict=True))
        hi = tuple(low + extent for low, extent in zip(lo, shape, strict=True))
        return Area(region, (lo, hi), (self.choose(plan.fields),))


def _shape(area: Area) -> tuple[int, ...]:
    return tuple(high - low for low, high in zip(*area.box, strict=True))
