"""Random task programs, and what they mean: by brute force, and by running them.

A program is plain data. The first half of this file makes programs and says what they mean; it
decides with sets of points and plain loops over NumPy arrays, and shares no code with what it
judges. The second half tells the runtime to run a program, and complains with a
:class:`CounterExample` when it does so in another way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from specinfer.runtime import launch as runtime_launch
from specinfer.runtime.context import Runtime
from specinfer.runtime.dependence import DependenceAnalyzer
from specinfer.runtime.errors import LaunchError
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.launch import Launch
from specinfer.runtime.privilege import RW, WD, Privilege, R, Reduce
from specinfer.runtime.ready import ReadyQueue
from specinfer.runtime.region import Region, Subregion
from specinfer.runtime.task import Task, Variant

Pick = Callable[[int, int], int]
"""Chooses an integer between two, both included: at random, or as hypothesis likes."""

Memory = dict[tuple[int, str], NDArray[np.int64]]
Seen = dict[int, list[bytes]]

MODES = ("R", "RW", "WD", "+", "max")
SHAPES = ((4,), (6,), (3, 3), (2, 4))
FIELDS = (("a",), ("a", "b"))


@dataclass(frozen=True, slots=True)
class Access:
    """One region argument of a launch: fields of the points ``lo <= p < hi``, and the use."""

    region: int
    lo: tuple[int, ...]
    hi: tuple[int, ...]
    fields: tuple[str, ...]
    mode: str

    def touches(self) -> Iterator[tuple[Any, ...]]:
        """Every region, field and point of this access, one by one."""
        ranges = [range(low, high) for low, high in zip(self.lo, self.hi, strict=True)]
        for field, point in product(self.fields, product(*ranges)):
            yield self.region, field, point


@dataclass(frozen=True, slots=True)
class Program:
    """Regions, and launches in program order, each a tuple of accesses."""

    shapes: tuple[tuple[int, ...], ...]
    fields: tuple[tuple[str, ...], ...]
    launches: tuple[tuple[Access, ...], ...]


class CounterExample(AssertionError):
    """A program that did not run as its launches one after another would."""


# Programs


def make_program(pick: Pick, max_launches: int = 9) -> Program:
    """A program of a few small regions, with accesses that often meet."""
    shapes = tuple(SHAPES[pick(0, len(SHAPES) - 1)] for _ in range(pick(1, 2)))
    fields = tuple(FIELDS[pick(0, len(FIELDS) - 1)] for _ in shapes)
    launches: list[tuple[Access, ...]] = []
    for _ in range(pick(2, max_launches)):
        accesses: list[Access] = []
        for _ in range(pick(1, 3)):
            access = _make_access(pick, shapes, fields)
            if not any(accesses_conflict(access, other) for other in accesses):
                accesses.append(access)
        launches.append(tuple(accesses))
    return Program(shapes, fields, tuple(launches))


def _make_access(
    pick: Pick, shapes: Sequence[tuple[int, ...]], fields: Sequence[tuple[str, ...]]
) -> Access:
    region = pick(0, len(shapes) - 1)
    bounds = [sorted((pick(0, size), pick(0, size))) for size in shapes[region]]
    names = fields[region]
    chosen = names if pick(0, 1) else (names[pick(0, len(names) - 1)],)
    lo, hi = tuple(low for low, _ in bounds), tuple(high for _, high in bounds)
    return Access(region, lo, hi, chosen, MODES[pick(0, len(MODES) - 1)])


@st.composite
def programs(draw: st.DrawFn, max_launches: int = 9) -> Program:
    """Programs for hypothesis, which makes a failing one small."""
    return make_program(lambda low, high: draw(st.integers(low, high)), max_launches)


def picks() -> st.SearchStrategy[Pick]:
    """Choices made while a program runs."""
    return st.randoms(use_true_random=False).map(lambda generator: generator.randint)


def random_program(generator: random.Random, max_launches: int = 9) -> Program:
    """The same programs without hypothesis: many times faster, for a fixed seed."""
    return make_program(generator.randint, max_launches)


# What they mean


def accesses_conflict(one: Access, other: Access) -> bool:
    """Whether two accesses meet at a point in a way that makes their order matter."""
    if one.mode == other.mode and one.mode in ("R", "+", "max"):
        return False
    return not set(one.touches()).isdisjoint(other.touches())


def conflicting_pairs(program: Program) -> set[tuple[int, int]]:
    """Every two launches, the earlier first, that must keep their order."""
    return {
        (earlier, later)
        for later in range(len(program.launches))
        for earlier in range(later)
        if any(
            accesses_conflict(one, other)
            for one in program.launches[earlier]
            for other in program.launches[later]
        )
    }


def initial_memory(program: Program) -> Memory:
    """Arrays for all fields, no two elements alike."""
    return {
        (region, field): np.arange(np.prod(shape), dtype=np.int64).reshape(shape) + 50 * number
        for region, (shape, fields) in enumerate(zip(program.shapes, program.fields, strict=True))
        for number, field in enumerate(fields)
    }


def run_plainly(program: Program) -> tuple[Memory, Seen]:
    """The launches one after another: what is left in memory, and what each launch saw."""
    memory = initial_memory(program)
    seen = {}
    for number, accesses in enumerate(program.launches):
        seen[number] = apply_launch(
            number,
            [
                (access.mode, memory[access.region, field][_slices(access)])
                for access in accesses
                for field in access.fields
            ],
        )
    return memory, seen


def _slices(access: Access) -> tuple[slice, ...]:
    return tuple(slice(low, high) for low, high in zip(access.lo, access.hi, strict=True))


def apply_launch(number: int, views: Sequence[tuple[str, NDArray[np.int64]]]) -> list[bytes]:
    """What a launch does to its arrays: all that it writes depends on all that it reads.

    Returns:
        What it saw of each array that it may read.
    """
    seen = [view.tobytes() for mode, view in views if mode in ("R", "RW")]
    digest = sum(int(view.sum()) for mode, view in views if mode in ("R", "RW")) % 97
    for mode, view in views:
        if mode == "RW":
            view *= 3
            view += digest + number
        elif mode == "WD":
            view[...] = digest + 100 * number
        elif mode == "+":
            view += digest + number + 1
        elif mode == "max":
            np.maximum(view, digest + 60 * number, out=view)
    return seen


# What the runtime makes of them

PRIVILEGES: dict[str, Privilege] = {
    "R": R,
    "RW": RW,
    "WD": WD,
    "+": Reduce("+"),
    "max": Reduce("max"),
}


def _regions(program: Program, memory: Memory) -> list[Region]:
    regions = []
    for id, (shape, fields) in enumerate(zip(program.shapes, program.fields, strict=True)):
        regions.append(Region(id, f"r{id}", shape, dict.fromkeys(fields, "int64")))
        for field in fields:
            regions[id].attach(field, memory[id, field])
    return regions


def _part(regions: Sequence[Region], access: Access) -> Subregion:
    return regions[access.region].part(IndexSpace(access.lo, access.hi), *access.fields)


def _bind(
    number: int,
    accesses: Sequence[Access],
    regions: Sequence[Region],
    seen: Seen,
    delay_seconds: float = 0.0,
) -> Launch:
    names = tuple(f"argument{i}" for i in range(len(accesses)))

    def body(*values: Any) -> None:
        time.sleep(delay_seconds)
        seen[number] = apply_launch(
            number,
            [
                (access.mode, value if len(access.fields) == 1 else getattr(value, field))
                for access, value in zip(accesses, values, strict=True)
                for field in access.fields
            ],
        )

    privileges = {
        name: PRIVILEGES[access.mode] for name, access in zip(names, accesses, strict=True)
    }
    task = Task(f"task{number}", privileges, names, {"cpu": Variant(body)})
    parts = [_part(regions, access) for access in accesses]
    try:
        return runtime_launch.bind(task, dict(zip(names, parts, strict=True)))
    except LaunchError as error:
        raise CounterExample(f"launch {number} is refused: {accesses}") from error


def check_order(program: Program, pick: Pick, *, completions: bool) -> None:
    """Check each dependence found, and each implied, against the conflicts found by brute force.

    Args:
        program: what is launched.
        pick: decides when launches complete.
        completions: whether they do so before all are launched.
    """
    regions, seen = _regions(program, initial_memory(program)), Seen()
    analyzer, conflicts = DependenceAnalyzer(), conflicting_pairs(program)
    before: list[set[int]] = []  # by launch: those that have surely finished when it starts
    waits: list[set[int]] = []
    completed: set[int] = set()
    for number, accesses in enumerate(program.launches):
        found = analyzer.launch(number, _bind(number, accesses, regions, seen).requirements)
        before.append(completed.union(found, *(before[earlier] for earlier in found)))
        waits.append(found)
        for earlier in sorted(found):
            if (earlier, number) not in conflicts:
                raise CounterExample(f"{number} waits for {earlier} without conflict: {program}")
            if earlier in completed:
                raise CounterExample(f"{number} waits for {earlier}, long done: {program}")
        for earlier in range(number):
            if (earlier, number) in conflicts and earlier not in before[number]:
                raise CounterExample(f"{number} does not wait for {earlier}: {program}")
        while completions and pick(0, 2):
            may = [i for i in range(number + 1) if i not in completed and waits[i] <= completed]
            if not may:
                break
            finished = may[pick(0, len(may) - 1)]
            completed.add(finished)
            analyzer.complete(finished)


def check_effects(program: Program, pick: Pick) -> None:
    """Run the program in an order that its dependences allow, and look at its effects."""
    memory, seen = initial_memory(program), Seen()
    regions = _regions(program, memory)
    analyzer, queue = DependenceAnalyzer(), ReadyQueue()
    launches: list[Launch] = []
    runnable: list[int] = []
    unreported: list[int] = []
    while runnable or len(launches) < len(program.launches):
        number = len(launches)
        if number < len(program.launches) and (not runnable or pick(0, 2)):
            while unreported and pick(0, 3):
                analyzer.complete(unreported.pop(0))
            launches.append(_bind(number, program.launches[number], regions, seen))
            waits_for = analyzer.launch(number, launches[number].requirements)
            runnable += queue.submitted(number, waits_for)
        else:
            running = runnable.pop(pick(0, len(runnable) - 1))
            launches[running].run()
            runnable += queue.finished(running)
            unreported.append(running)
    if queue.unfinished():
        raise CounterExample(f"some launches never became ready: {program}")
    _compare(program, memory, seen)


def check_threads(program: Program, pick: Pick) -> None:
    """Run the program on a few threads, each launch for a random time; look at its effects.

    A launch that only reads one field of one region becomes, by chance, a read by the program.
    """
    memory, seen = initial_memory(program), Seen()
    regions = _regions(program, memory)
    with Runtime(ThreadedExecutor(workers=pick(2, 4))) as runtime:
        for number, accesses in enumerate(program.launches):
            reads_only = len(accesses) == 1 and accesses[0].mode == "R"
            if reads_only and len(accesses[0].fields) == 1 and pick(0, 1):
                seen[number] = [runtime.read(_part(regions, accesses[0])).tobytes()]
            else:
                delay_seconds = pick(0, 3) * 1e-4
                runtime.issue(_bind(number, accesses, regions, seen, delay_seconds))
        runtime.fence()
    _compare(program, memory, seen)


def _compare(program: Program, memory: Memory, seen: Seen) -> None:
    expected_memory, expected_seen = run_plainly(program)
    for number, saw in expected_seen.items():
        if seen.get(number) != saw:
            raise CounterExample(f"launch {number} saw other values: {program}")
    for (region, field), array in expected_memory.items():
        if not np.array_equal(memory[region, field], array):
            raise CounterExample(f"region {region}.{field} ends with other values: {program}")
