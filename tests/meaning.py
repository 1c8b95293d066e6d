"""What a task program means: its launches one after another, on NumPy arrays and sets of points.

It shares no code with the runtime that it judges. Only :func:`perform`, which is what tasks do, is
called by both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
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
    TaskPlan,
    Through,
    parts_of,
    points,
)

Numbers = NDArray[np.int64]
Parts = Sequence[Mapping[Colour, Box]]
"""The parts of every partition."""
Cells = frozenset[tuple[Any, ...]]
Use = tuple[int, str, Cells, str]
"""Region, field, points and mode."""

COMMUTING = ("R", "+", "max", "min")
FOLDS: dict[str, Callable[[int, int], int]] = {"add": lambda a, b: a + b, "max": max}


# What is allowed


@cache
def cells(box: Box) -> Cells:
    """The points of a box, one by one."""
    return frozenset(product(*(range(low, high) for low, high in zip(*box, strict=True))))


def boxes(
    parts: Parts, partitions: Sequence[PartitionPlan], argument: Area | Through, point: Any
) -> tuple[int, tuple[str, ...], Box] | None:
    """Region, fields and points of an argument at a point; None: there is no such part."""
    if isinstance(argument, Area):
        return argument.region, argument.fields, argument.box
    plan = partitions[argument.partition]
    box = parts[argument.partition].get(projected(argument, point))
    return None if box is None else (plan.region, plan.fields, box)


def projected(argument: Through, point: Any) -> Any:
    """The colour that a projection chooses for a point."""
    if argument.projection == "table":
        return dict(argument.data)[point]
    if argument.projection == "shift":
        return moved(point, argument.data)
    return point


def moved(point: Any, offsets: Sequence[int]) -> Any:
    """A point, moved."""
    if isinstance(point, int):
        return point + offsets[0]
    return tuple(at + offset for at, offset in zip(point, offsets, strict=True))


def uses(
    parts: Parts, partitions: Sequence[PartitionPlan], launch: LaunchPlan
) -> list[list[Use]] | None:
    """For every point of a launch, all that it uses; None: a projection leaves its partition."""
    found = []
    for point in [None] if launch.domain is None else points(launch.domain):
        own: list[Use] = []
        for argument, mode in zip(launch.arguments, launch.task.modes, strict=True):
            box = boxes(parts, partitions, argument, point)
            if box is None:
                return None
            own += ((box[0], name, cells(box[2]), mode) for name in box[1])
        found.append(own)
    return found


def conflict(one: Sequence[Use], other: Sequence[Use]) -> bool:
    """Whether two launches meet at a point in a way that makes their order matter."""
    return any(
        a[:2] == b[:2] and not (a[3] == b[3] and a[3] in COMMUTING) and not a[2].isdisjoint(b[2])
        for a in one
        for b in other
    )


def is_legal(parts: Parts, partitions: Sequence[PartitionPlan], launch: LaunchPlan) -> bool:
    """Whether neither two arguments nor two points of a launch conflict."""
    found = uses(parts, partitions, launch)
    if found is None:
        return False
    for n, own in enumerate(found):
        if any(conflict([use], own[i + 1 :]) for i, use in enumerate(own)):
            return False
        if any(conflict(own, other) for other in found[n + 1 :]):
            return False
    return True


# What tasks do


def perform(
    task: TaskPlan,
    number: int,
    parameter: int,
    at: Any,
    gifts: Sequence[int],
    size: int,
    arguments: Sequence[Sequence[Numbers]],
) -> tuple[list[bytes], int | None]:
    """What a task does to its arrays: all that it writes depends on all that it is given.

    Args:
        task: which one.
        number: of the launch.
        parameter: of the run of its block.
        at: the point of an index launch, moved.
        gifts: values of futures.
        size: elements of a grain.
        arguments: for each one, the array of every field.

    Returns:
        What it saw of each array that it may read, and the value that it gives.
    """
    given = number * 7 + parameter * 13 + sum(gifts) * 3
    if task.kind != "mix":
        _perform_divisible(task, given % 50 + 1, size, [arrays[0] for arrays in arguments])
        return [], None
    named = [(m, a) for m, arrays in zip(task.modes, arguments, strict=True) for a in arrays]
    seen = [array.tobytes() for mode, array in named if mode in ("R", "RW")]
    total = sum(int(array.sum()) for mode, array in named if mode in ("R", "RW"))
    if at is not None:
        given += at * 5 if isinstance(at, int) else sum(a * (5 + d) for d, a in enumerate(at))
    digest = (total + given) % 101
    for mode, array in named:
        if mode == "R":
            continue
        ramp = np.arange(array.size).reshape(array.shape)
        match mode:
            case "RW":
                array[...] = (array * 3 + digest + ramp) % 211
            case "WD":
                array[...] = ramp + digest
            case "+":
                array += ramp + digest + 1
            case "max":
                np.maximum(array, ramp + 3 * digest, out=array)
            case "min":
                np.minimum(array, 200 - 3 * digest - ramp, out=array)
    return seen, (0 if digest % 3 == 0 else digest) if task.returns else None


def _perform_divisible(task: TaskPlan, by: int, size: int, arrays: Sequence[Numbers]) -> None:
    *given, out = arrays
    x = given[0]
    mode = task.modes[-1]
    match task.kind, mode:
        case "scale", "WD":
            out[...] = (x * 2 + by) % 1009
        case "scale", "RW":
            out[...] = (out * 3 + x + by) % 1009
        case "scale", "+":
            out += x + by
        case "scale", "max":
            np.maximum(out, x + by, out=out)
        case "rowsum", _:
            out[...] = x.sum(1) * by
        case "matmul", _:
            out[...] = x @ given[1].T * by
        case "grains", _:
            out[...] = (x.reshape(len(out), size) * np.arange(by, by + size)).sum(1)
        case "fold", "+":
            out += x.sum(0) * by
        case "fold", "max":
            np.maximum(out, x.max(0, initial=-by) if len(x) else out, out=out)
        case "fold", "min":
            np.minimum(out, x.min(0, initial=by) if len(x) else out, out=out)
        case "fold", "WD":
            out[...] = x.sum(0) * by
        case "fold", "RW":
            out[...] = (out * 3 + x.sum(0) * by) % 1009
        case _:
            raise AssertionError(f"no such task: {task}")


# What programs mean


def starting_values(region: int, field: str, plan: RegionPlan, salt: int = 0) -> Numbers:
    """Values to attach: no two alike."""
    count = int(np.prod(plan.shape))
    start = 50 * plan.fields.index(field) + 17 * region + salt
    return np.arange(start, start + count, dtype=np.int64).reshape(plan.shape)


@dataclass(slots=True)
class Meaning:
    """What comes out of a program.

    Attributes:
        memory: by region and field.
        seen: what each point of each launch saw, by (number, parameter, point); those that did not
            run are missing.
        observed: what the program was told, in order.
        legal: by number of a launch.
    """

    memory: dict[tuple[int, str], Numbers] = field(default_factory=dict)
    seen: dict[tuple[int, int, Any], list[bytes]] = field(default_factory=dict)
    observed: list[Any] = field(default_factory=list)
    legal: dict[int, bool] = field(default_factory=dict)


def meaning_of(program: Program) -> Meaning:
    """Run the launches one after another."""
    return _Interpreter(program).run()


class _Interpreter:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.meaning = Meaning()
        self.parts = [parts_of(partition) for partition in program.partitions]
        self.futures: dict[int, Any] = {}
        for number, region in enumerate(program.regions):
            for name, attached in zip(region.fields, region.attached, strict=True):
                values = starting_values(number, name, region)
                self.meaning.memory[number, name] = values if attached else values * 0

    def run(self) -> Meaning:
        memory, observed = self.meaning.memory, self.meaning.observed
        for step in self.program.steps:
            match step:
                case LaunchPlan():
                    self.launch(step, 0)
                case RunPlan(block, parameters):
                    for parameter in parameters:
                        for launch in self.program.blocks[block]:
                            self.launch(launch, parameter)
                case ReadPlan(area):
                    observed.append(self.array(area.region, area.fields[0], area.box).tolist())
                case GetPlan(slot, None):
                    observed.append(self.futures[slot])
                case GetPlan(slot, fold) if fold is not None:
                    observed.append(reduce(FOLDS[fold], self.futures[slot].values()))
                case AttachPlan(region, name, values):
                    plan = self.program.regions[region]
                    if values is None:
                        observed.append(memory[region, name].tolist())
                        memory[region, name] = np.zeros(plan.shape, np.int64)
                    else:
                        memory[region, name] = starting_values(region, name, plan, values)
        return self.meaning

    def launch(self, launch: LaunchPlan, parameter: int) -> None:
        if launch.number not in self.meaning.legal:
            legal = is_legal(self.parts, self.program.partitions, launch)
            self.meaning.legal[launch.number] = legal
        if not self.meaning.legal[launch.number]:
            return
        values = {point: self.at(launch, parameter, point) for point in self.points(launch)}
        self.futures[launch.number] = values[None] if launch.domain is None else values

    def points(self, launch: LaunchPlan) -> list[Any]:
        return [None] if launch.domain is None else points(launch.domain)

    def at(self, launch: LaunchPlan, parameter: int, point: Any) -> int | None:
        if launch.predicate is not None and not self.value(launch.predicate, None):
            return launch.otherwise if launch.task.returns else None
        arguments = [list(self.arrays(argument, point)) for argument in launch.arguments]
        gifts = [self.value(gift, point) for gift in launch.gifts]
        at = None if point is None else moved(point, (launch.offset,) * len(launch.domain or ()))
        seen, value = perform(
            launch.task, launch.number, parameter, at, gifts, launch.size, arguments
        )
        self.meaning.seen[launch.number, parameter, point] = seen
        return value

    def arrays(self, argument: Area | Through, point: Any) -> Iterator[Numbers]:
        found = boxes(self.parts, self.program.partitions, argument, point)
        assert found is not None
        for name in found[1]:
            yield self.array(found[0], name, found[2])

    def array(self, region: int, name: str, box: Box) -> Numbers:
        inside = tuple(slice(low, high) for low, high in zip(*box, strict=True))
        return self.meaning.memory[region, name][inside]

    def value(self, gift: Gift, point: Any) -> int:
        value = self.futures[gift.slot]
        if gift.colour is not None:
            value = value[gift.colour]
        elif isinstance(value, dict):
            value = value[point]
        assert isinstance(value, int)
        return value
