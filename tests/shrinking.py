"""Makes a failing program smaller, where hypothesis did not make it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from meaning import meaning_of
from plans import LaunchPlan, Program, RunPlan
from running import CounterExample
from strategies import random_program

Check = Callable[[Program, int], None]


def check_programs(seeds: range, check: Check) -> None:
    """Check a program for each seed.

    Raises:
        CounterExample: a small program that fails as that of a seed does.
    """
    for seed in seeds:
        program = random_program(seed)
        try:
            check(program, seed)
        except CounterExample:
            small = shrunk(program, lambda smaller, seed=seed: _fails(smaller, seed, check))  # type: ignore[misc]
            print(f"The program of seed {seed}, made smaller:\n{small}")
            check(small, seed)
            raise


def shrunk(program: Program, fails: Callable[[Program], bool]) -> Program:
    """The program with all left out that it can fail without."""
    found = True
    while found:
        found = False
        for smaller in _smaller(program):
            if fails(smaller):
                program, found = smaller, True
                break
    return program


def _fails(program: Program, seed: int, check: Check) -> bool:
    try:
        meaning_of(program)
    except KeyError:  # a future of a launch that is gone
        return False
    try:
        check(program, seed)
    except CounterExample:
        return True
    return False


def _smaller(program: Program) -> Iterator[Program]:
    steps = program.steps
    for i, step in enumerate(steps):
        yield replace(program, steps=(*steps[:i], *steps[i + 1 :]))
        if isinstance(step, RunPlan) and len(step.parameters) > 1:
            fewer = RunPlan(step.block, step.parameters[:-1])
            yield replace(program, steps=(*steps[:i], fewer, *steps[i + 1 :]))
        if isinstance(step, LaunchPlan):
            for launch in _simpler(step):
                yield replace(program, steps=(*steps[:i], launch, *steps[i + 1 :]))
    for i, block in enumerate(program.blocks):
        for j, launch in enumerate(block):
            for instead in ((), *((simpler,) for simpler in _simpler(launch))):
                less = (*block[:j], *instead, *block[j + 1 :])
                yield replace(program, blocks=(*program.blocks[:i], less, *program.blocks[i + 1 :]))


def _simpler(launch: LaunchPlan) -> Iterator[LaunchPlan]:
    if launch.gifts:
        yield replace(launch, gifts=launch.gifts[1:])
    if launch.predicate is not None:
        yield replace(launch, predicate=None)
    if launch.task.kind == "mix" and len(launch.arguments) > 1:
        for i in range(len(launch.arguments)):
            modes = (*launch.task.modes[:i], *launch.task.modes[i + 1 :])
            rest = (*launch.arguments[:i], *launch.arguments[i + 1 :])
            yield replace(launch, task=replace(launch.task, modes=modes), arguments=rest)
