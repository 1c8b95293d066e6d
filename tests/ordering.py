"""Dependences, judged by brute force."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from meaning import Use, conflict, meaning_of, uses
from plans import LaunchPlan, Program, RunPlan, parts_of, points
from running import CounterExample, Run
from strategies import Pick

from specinfer.runtime.context import Runtime
from specinfer.runtime.dependence import DependenceAnalyzer, LaunchId, Requirement
from specinfer.runtime.executor import Operation
from specinfer.runtime.executor.record import RecordingExecutor
from specinfer.runtime.machine.one import OneRank


class _Collecting(RecordingExecutor):
    """Runs nothing, and keeps what operations require."""

    def __init__(self) -> None:
        super().__init__()
        self.requirements: list[Sequence[Requirement]] = []

    def submit(
        self, id: LaunchId, operation: Operation, waits_for: Collection[LaunchId]
    ) -> Sequence[LaunchId]:
        self.requirements.append(operation.requirements)
        return ()


def requirements_of(program: Program) -> list[Sequence[Requirement]]:
    """What each point of each launch requires, as the runtime says."""
    launches = tuple(s for s in program.steps if isinstance(s, LaunchPlan | RunPlan))
    program, executor = replace(program, steps=launches), _Collecting()
    with Runtime(executor) as runtime:
        Run(program, meaning_of(program), runtime, OneRank(), traced=False).execute()
    return executor.requirements


def uses_of(program: Program) -> list[list[Use]]:
    """What each point of each launch uses, futures among it, as the program says."""
    parts = [parts_of(partition) for partition in program.partitions]
    legal = meaning_of(program).legal
    found: list[list[Use]] = []
    latest: dict[int, int] = {}  # the last time that a launch was issued, by its number
    for issued, launch in enumerate(program.launches):
        if not legal[launch.number]:
            continue
        by_point = uses(parts, program.partitions, launch)
        assert by_point is not None
        colours = [None] if launch.domain is None else points(launch.domain)
        for colour, own in zip(colours, by_point, strict=True):
            given = [*launch.gifts, *([launch.predicate] if launch.predicate else ())]
            taken: list[Use] = []
            for gift in given:
                is_map = gift.colour is None and _domain(program, gift.slot) is not None
                at = colour if is_map else gift.colour
                taken.append((-1, str(latest[gift.slot]), frozenset([(at,)]), "R"))
            if launch.task.returns:
                taken.append((-1, str(issued), frozenset([(colour,)]), "WD"))
            found.append([*own, *taken])
        latest[launch.number] = issued
    return found


def _domain(program: Program, number: int) -> tuple[int, ...] | None:
    return next(launch.domain for launch in program.launches if launch.number == number)


def check_order(program: Program, pick: Pick, *, completions: bool) -> None:
    """Check each dependence found, and each implied, against the conflicts found by brute force.

    Args:
        program: what is launched.
        pick: decides when launches complete.
        completions: whether they do so before all are launched.

    Raises:
        CounterExample: a dependence too many, or too few.
    """
    used, required = uses_of(program), requirements_of(program)
    if len(used) != len(required):
        raise CounterExample(f"{len(required)} operations, expected {len(used)}: {program}")
    analyzer = DependenceAnalyzer()
    before: list[set[int]] = []  # by launch: those that have surely finished when it starts
    waits: list[set[int]] = []
    completed: set[int] = set()
    for number, requirements in enumerate(required):
        found = analyzer.launch(number, requirements)
        before.append(completed.union(found, *(before[earlier] for earlier in found)))
        waits.append(found)
        conflicts = {e for e in range(number) if conflict(used[e], used[number])}
        if needless := found - conflicts:
            raise CounterExample(f"{number} waits for {needless} without conflict: {program}")
        if done := found & completed:
            raise CounterExample(f"{number} waits for {done}, long done: {program}")
        if missing := conflicts - before[number]:
            raise CounterExample(f"{number} does not wait for {missing}: {program}")
        while completions and pick(0, 2):
            may = [i for i in range(number + 1) if i not in completed and waits[i] <= completed]
            if not may:
                break
            finished = may[pick(0, len(may) - 1)]
            completed.add(finished)
            analyzer.complete(finished)
