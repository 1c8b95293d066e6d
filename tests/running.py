"""Running a task program on a runtime, and comparing what comes out with what it means."""

from __future__ import annotations

import operator
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from meaning import FOLDS, Meaning, meaning_of, moved, perform, starting_values
from plans import (
    Area,
    AttachPlan,
    Box,
    GetPlan,
    Gift,
    LaunchPlan,
    PartitionPlan,
    Program,
    ReadPlan,
    RunPlan,
    TaskPlan,
    Through,
)

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import LaunchError
from specinfer.runtime.executor import Executor
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.machine import Machine
from specinfer.runtime.machine.one import OneRank
from specinfer.runtime.mapper import Mapper
from specinfer.runtime.partition import (
    ID,
    Partition,
    Projection,
    blocks,
    by_colour,
    equal,
    restricted,
    shift,
)
from specinfer.runtime.privilege import RW, WD, Privilege, R, Reduce
from specinfer.runtime.region import Region, Subregion
from specinfer.runtime.task import Axis, Division, Task, Variant

PRIVILEGES: dict[str, Privilege] = {
    "R": R,
    "RW": RW,
    "WD": WD,
    "+": Reduce("+"),
    "max": Reduce("max"),
    "min": Reduce("min"),
}
Names = Sequence[str | None]
AXES: dict[str, tuple[dict[str, Names], dict[str, Names], tuple[str, ...]]] = {
    # kind: axes of the arguments in one dimension and in two, and those that are summed over
    "scale": (
        {"a0": ("columns",), "a1": ("columns",)},
        {"a0": ("rows", "columns"), "a1": ("rows", "columns")},
        (),
    ),
    "rowsum": ({}, {"a0": ("rows", "columns"), "a1": ("rows",)}, ("columns",)),
    "fold": ({}, {"a0": ("rows", "columns"), "a1": ("columns",)}, ()),
    "matmul": (
        {},
        {"a0": ("rows", "in"), "a1": ("features", "in"), "a2": ("rows", "features")},
        ("in",),
    ),
    "grains": ({"a0": ("grains*size",), "a1": ("grains",)}, {}, ()),
}


class CounterExample(AssertionError):
    """A program that did not run as its launches one after another would."""


def check(
    program: Program,
    meaning: Meaning,
    executor: Executor | None = None,
    machine: Machine | None = None,
    mapper: Mapper | None = None,
    *,
    traced: bool = False,
) -> None:
    """Run a program and compare everything that can be observed.

    Raises:
        CounterExample: something is not as it should be.
    """
    machine = machine or OneRank()
    with Runtime(executor, machine=machine, mapper=mapper) as runtime:
        run = Run(program, meaning, runtime, machine, traced=traced)
        with _telling(program):
            run.execute()
            run.compare()


@contextmanager
def _telling(program: Program) -> Iterator[None]:
    try:
        yield
    except CounterExample:
        raise
    except Exception as error:
        raise CounterExample(f"{type(error).__name__}: {error}\n{program}") from error


class Run:
    """A program while it runs: its regions, tasks and traces, and what came out so far."""

    def __init__(
        self,
        program: Program,
        meaning: Meaning,
        runtime: Runtime,
        machine: Machine,
        *,
        traced: bool,
    ) -> None:
        self.program = program
        self.meaning = meaning
        self.runtime = runtime
        self.machine = machine
        self.traced = traced
        self.seen: defaultdict[tuple[int, int, Any], list[list[bytes]]] = defaultdict(list)
        self.observed: list[Any] = []
        self.futures: dict[int, Any] = {}
        self.tasks: dict[tuple[TaskPlan, int], Task] = {}
        self.projections: dict[tuple[str, tuple[Any, ...]], Projection] = {}
        self.lock = threading.Lock()
        self.regions: list[Region] = []
        for number, plan in enumerate(program.regions):
            arrays = {
                name: starting_values(number, name, plan)
                for name, attached in zip(plan.fields, plan.attached, strict=True)
                if attached
            }
            fields = dict.fromkeys(plan.fields, "int64")
            self.regions.append(runtime.region(f"r{number}", plan.shape, fields, arrays))
        self.partitions = [self.partition(plan) for plan in program.partitions]
        self.blocks: list[Callable[..., dict[int, Any]]] = []
        for number, launches in enumerate(program.blocks):
            self.blocks.append(self.block(f"block{number}", launches))

    # What the plans stand for

    def block(self, name: str, launches: Sequence[LaunchPlan]) -> Callable[..., dict[int, Any]]:
        def body(parameter: Any) -> dict[int, Any]:
            own: dict[int, Any] = {}
            for launch in launches:
                self.launch(launch, parameter, own)
            return own

        if not self.traced:
            return lambda *, parameter: body(parameter)
        return self.runtime.trace(name, body)

    def part(self, area: Area) -> Subregion:
        return self.regions[area.region].part(IndexSpace(*area.box), *area.fields)

    def partition(self, plan: PartitionPlan) -> Partition:
        whole = self.regions[plan.region].part(IndexSpace(*plan.box), *plan.fields)
        match plan.kind:
            case "equal":
                return equal(whole, plan.data)
            case "blocks":
                sizes, dim = plan.data
                return blocks(whole, sizes, dim=dim)
            case "restricted":
                domain, extent, strides, reach = plan.data
                return restricted(whole, domain, IndexSpace(*extent), strides, reach=reach)
        return by_colour(whole, {colour: IndexSpace(*box) for colour, box in plan.data})

    def projection(self, name: str, data: tuple[Any, ...]) -> Projection:
        key = (name, data)
        if key not in self.projections:
            if name == "ID":
                made = ID
            elif name == "shift":
                made = shift(*data)
            elif name == "move":
                made = Projection("move", lambda point: moved(point, data))
            else:
                made = Projection("table", dict(data).__getitem__)
            self.projections[key] = made
        return self.projections[key]

    def argument(self, argument: Area | Through) -> Any:
        if isinstance(argument, Area):
            return self.part(argument)
        partition = self.partitions[argument.partition]
        projection = self.projection(argument.projection, argument.data)
        return partition if projection is ID else partition[projection]

    def task(self, plan: TaskPlan, dims: int) -> Task:
        if (plan, dims) not in self.tasks:
            self.tasks[plan, dims] = self.make_task(plan, dims)
        return self.tasks[plan, dims]

    def make_task(self, plan: TaskPlan, dims: int) -> Task:
        names = tuple(f"a{n}" for n in range(len(plan.modes)))

        def body(*values: Any) -> int | None:
            arrays = [_arrays(value) for value in values[: len(names)]]
            number, parameter, point, at, size, *gifts = values[len(names) :]
            seen, value = perform(plan, number, parameter, at, gifts, size, arrays)
            with self.lock:
                self.seen[number, parameter, point].append(seen)
            return value

        division = Division()
        if plan.kind in AXES:
            *axes, sums = AXES[plan.kind]
            parsed = {
                name: tuple(Axis.parse(dim) if dim else None for dim in dims)
                for name, dims in axes[dims - 1].items()
            }
            division = Division(parsed, frozenset(sums))
        return Task(
            plan.kind,
            dict(zip(names, map(PRIVILEGES.__getitem__, plan.modes), strict=True)),
            (*names, "number", "parameter", "point", "at", "size", "gift0", "gift1"),
            {"cpu": Variant(body)},
            division,
            is_pure=plan.is_pure,
            returns=plan.returns,
        )

    # Steps

    def execute(self) -> None:
        for step in self.program.steps:
            match step:
                case LaunchPlan():
                    self.launch(step, 0, self.futures)
                case RunPlan(block, parameters):
                    for parameter in parameters:
                        self.futures.update(self.blocks[block](parameter=parameter))
                case ReadPlan(area):
                    self.observed.append(self.read(area).tolist())
                case GetPlan(slot, None):
                    self.observed.append(self.futures[slot].get())
                case GetPlan(slot, fold) if fold is not None:
                    op = operator.add if fold == "add" else FOLDS[fold]
                    self.observed.append(self.futures[slot].reduce(op))
                case AttachPlan(region, name, values):
                    if values is None:
                        array = self.runtime.detach(self.regions[region], name)
                        self.observed.append(array.tolist())
                    else:
                        plan = self.program.regions[region]
                        array = starting_values(region, name, plan, values)
                        self.runtime.attach(self.regions[region], name, array)

    def launch(self, plan: LaunchPlan, parameter: Any, own: dict[int, Any]) -> None:
        """Issue a launch that is allowed; see that another is refused."""
        try:
            own[plan.number] = self.issue(plan, parameter, own)
        except LaunchError as error:
            if self.meaning.legal[plan.number]:
                raise CounterExample(f"refused: {plan}: {error}\n{self.program}") from error
        else:
            if not self.meaning.legal[plan.number]:
                raise CounterExample(f"not refused: {plan}\n{self.program}")

    def issue(self, plan: LaunchPlan, parameter: Any, own: dict[int, Any]) -> Any:
        arguments = {f"a{n}": self.argument(a) for n, a in enumerate(plan.arguments)}
        gifts = [self.gift(gift, own) for gift in plan.gifts]
        predicate = None if plan.predicate is None else self.gift(plan.predicate, own)
        first = plan.arguments[0]
        box: Box = first.box if isinstance(first, Area) else self.program.partitions[0].box
        task = self.task(plan.task, len(box[0]))
        values = {
            "number": plan.number,
            "parameter": parameter,
            "point": None,
            "at": None,
            "size": plan.size,
            **{f"gift{n}": gifts[n] if n < len(gifts) else 0 for n in range(2)},
        }
        extra: dict[str, Any] = {"predicate": predicate, "otherwise": plan.otherwise}
        if not plan.task.returns:
            extra["otherwise"] = None
        if plan.domain is None:
            return self.runtime.launch(task, **extra, **arguments, **values)
        values["point"] = ID
        values["at"] = self.projection("move", (plan.offset,) * len(plan.domain))
        domain = plan.domain[0] if len(plan.domain) == 1 else plan.domain
        return self.runtime.index_launch(task, domain, **extra, **arguments, **values)

    def gift(self, gift: Gift, own: dict[int, Any]) -> Any:
        found = own[gift.slot] if gift.slot in own else self.futures[gift.slot]
        return found if gift.colour is None else found[gift.colour]

    def read(self, area: Area) -> Any:
        """What the program reads; the same must lie on all ranks of this process."""
        array = np.array(self.runtime.read(self.part(area)))
        inside = IndexSpace(*area.box).slices
        for rank in self.machine.ranks:
            other = self.machine.instances(rank).main((area.region, area.fields[0]))[inside]
            if not np.array_equal(array, other):
                raise CounterExample(f"rank {rank} has other values of {area}\n{self.program}")
        return array

    # What came out

    def compare(self) -> None:
        for (region, name), expected in self.meaning.memory.items():
            shape = self.program.regions[region].shape
            found = self.read(Area(region, ((0,) * len(shape), shape), (name,)))
            if not np.array_equal(found, expected):
                raise CounterExample(
                    f"region {region}.{name} ends with {found.tolist()}, expected "
                    f"{expected.tolist()}\n{self.program}"
                )
        self.runtime.fence()
        for found, expected in zip(self.observed, self.meaning.observed, strict=True):
            if found != expected:
                raise CounterExample(f"observed {found}, expected {expected}\n{self.program}")
        self.compare_seen()

    def compare_seen(self) -> None:
        everywhere: defaultdict[tuple[int, int, Any], list[list[bytes]]] = defaultdict(list)
        for seen in self.machine.gather_values(dict(self.seen)):
            for launch, sights in seen.items():
                everywhere[launch] += sights
        is_pure = {plan.number: plan.task.is_pure for plan in self.program.launches}
        for launch, saw in self.meaning.seen.items():
            sights = everywhere.pop(launch, [])
            if any(sight != saw for sight in sights):
                raise CounterExample(f"launch {launch} saw other values\n{self.program}")
            if not is_pure[launch[0]] and len(sights) != 1:
                raise CounterExample(f"launch {launch} ran {len(sights)} times\n{self.program}")
            if not sights and saw:
                raise CounterExample(f"launch {launch} never ran\n{self.program}")
        if everywhere:
            raise CounterExample(f"{list(everywhere)} should not have run\n{self.program}")


def _arrays(value: Any) -> list[Any]:
    return list(vars(value).values()) if isinstance(value, SimpleNamespace) else [value]


def check_meaning(program: Program, **how: Any) -> None:
    """The same as :func:`check`, for a single way to run."""
    check(program, meaning_of(program), **how)
