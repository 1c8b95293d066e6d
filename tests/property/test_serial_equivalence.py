"""The law of the runtime: a program means what its launches mean one after another.

Whatever runs it - one thread or several, one rank or four, in one process or under MPI - wherever a
mapper puts its launches, and whether its loops are traced or not: all memory, all futures, and all
that its tasks saw are the same, bit by bit.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meaning import meaning_of
from mpi_start import run_on_ranks
from plans import (
    Area,
    LaunchPlan,
    PartitionPlan,
    Program,
    RegionPlan,
    RunPlan,
    TaskPlan,
    Through,
)
from random_mapper import RandomMapper
from running import CounterExample, check
from shrinking import check_programs, shrunk
from strategies import programs, random_program

from specinfer.runtime.executor.shuffled import ShuffledExecutor
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.machine.sim import SimulatedRanks

SEEDS = st.integers(0, 2**16)


def check_on_simulated_ranks(
    program: Program, num_ranks: int, seed: int, *, is_mapped: bool, traced: bool
) -> None:
    check(
        program,
        meaning_of(program),
        ShuffledExecutor(seed),
        SimulatedRanks(num_ranks),
        RandomMapper(num_ranks, seed) if is_mapped else None,
        traced=traced,
    )


@pytest.mark.parametrize("start", [0, 500])
def test_many_programs_one_after_another_and_shuffled(start: int) -> None:
    def check_both(program: Program, seed: int) -> None:
        meaning = meaning_of(program)
        check(program, meaning, traced=seed % 2 == 0)
        check(program, meaning, ShuffledExecutor(seed), traced=seed % 3 > 0)

    check_programs(range(start, start + 500), check_both)


def test_many_programs_on_threads() -> None:
    def check_threads(program: Program, seed: int) -> None:
        executor = ThreadedExecutor(workers=2 + seed % 3)
        check(program, meaning_of(program), executor, traced=seed % 3 > 0)

    check_programs(range(1000, 1400), check_threads)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_many_programs_on_simulated_ranks(num_ranks: int) -> None:
    def check_ranks(program: Program, seed: int) -> None:
        is_mapped, traced = seed % 4 > 0, seed % 3 > 0
        check_on_simulated_ranks(program, num_ranks, seed, is_mapped=is_mapped, traced=traced)

    check_programs(range(2000, 2600), check_ranks)


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_many_programs_under_mpi(num_ranks: int) -> None:
    count = 300
    output = run_on_ranks(num_ranks, "mpi_programs.py", 3000, count)
    assert f"{count} programs on {num_ranks} ranks" in output


@settings(max_examples=60, deadline=None)
@given(program=programs(), seed=SEEDS, traced=st.booleans())
def test_any_order_that_dependences_allow_is_right(
    program: Program, seed: int, traced: bool
) -> None:
    check(program, meaning_of(program), ShuffledExecutor(seed), traced=traced)


@settings(max_examples=40, deadline=None)
@given(program=programs(), workers=st.integers(2, 4), traced=st.booleans())
def test_threads_are_right(program: Program, workers: int, traced: bool) -> None:
    check(program, meaning_of(program), ThreadedExecutor(workers), traced=traced)


@settings(max_examples=100, deadline=None)
@given(
    program=programs(),
    num_ranks=st.integers(1, 4),
    seed=SEEDS,
    is_mapped=st.booleans(),
    traced=st.booleans(),
)
def test_ranks_are_right_wherever_launches_are_put(
    program: Program, num_ranks: int, seed: int, is_mapped: bool, traced: bool
) -> None:
    check_on_simulated_ranks(program, num_ranks, seed, is_mapped=is_mapped, traced=traced)


def test_programs_have_everything_in_them() -> None:
    found: Counter[str] = Counter()
    for seed in range(300):
        program = random_program(seed)
        meaning = meaning_of(program)
        found.update(type(step).__name__ for step in program.steps)
        found.update(partition.kind for partition in program.partitions)
        for launch in program.launches:
            found[launch.task.kind] += 1
            found["index" if launch.domain else "single"] += 1
            found["legal" if meaning.legal[launch.number] else "illegal"] += 1
            found["pure" if launch.task.is_pure else "impure"] += 1
            found["gift"] += len(launch.gifts)
            found["predicate"] += launch.predicate is not None
            for argument in launch.arguments:
                found[argument.projection if isinstance(argument, Through) else "area"] += 1
            found.update(launch.task.modes)
        seen = {number for number, _, _ in meaning.seen}
        found["skipped"] += sum(
            launch.number not in seen and meaning.legal[launch.number]
            for launch in program.launches
        )
    rare = {what: count for what, count in found.items() if count < 30}
    assert not rare
    assert len(found) == 34


def test_what_programs_mean_worked_out_by_hand() -> None:
    """A region of two rows; its top is increased twice, each half of its bottom once."""
    region = RegionPlan((2, 2), ("a",), (True,))
    halves = PartitionPlan(0, ("a",), ((1, 0), (2, 2)), "blocks", ((1, 1), 1))
    scaled = TaskPlan("scale", ("R", "+"), is_pure=True, returns=False)
    filled = TaskPlan("mix", ("WD",), is_pure=True, returns=True)
    top, bottom = (Area(0, ((row, 0), (row + 1, 2)), ("a",)) for row in range(2))
    program = Program(
        (region,),
        (halves,),
        ((LaunchPlan(1, scaled, (bottom, top)),),),
        (
            RunPlan(0, (1, 2)),
            LaunchPlan(2, filled, (Through(0, "ID"),), (2,)),
            LaunchPlan(3, filled, (Through(0, "shift", (1,)),), (2,)),
            LaunchPlan(4, filled, (Through(0, "table", ((0, 1), (1, 1))),), (2,)),
        ),
    )
    meaning = meaning_of(program)
    # 0 and 1, plus twice 2 and 3, plus 7 + 13 + 1 and 7 + 26 + 1: what each launch adds.
    top_row = [0 + 2 * 2 + 21 + 34, 1 + 2 * 3 + 21 + 34]
    # The digest of a point is 7 for each number of the launch, plus 5 for each number of the point.
    assert meaning.memory[0, "a"].tolist() == [top_row, [14, 19]]
    assert meaning.legal == {1: True, 2: True, 3: False, 4: False}
    check(program, meaning)


def test_a_failing_program_is_made_small() -> None:
    def fails(program: Program) -> bool:
        return any(launch.task.kind == "matmul" for launch in program.launches)

    seed = next(seed for seed in range(100) if fails(random_program(seed)))
    small = shrunk(random_program(seed), fails)
    assert [launch.task.kind for launch in small.launches] == ["matmul"]
    assert len(small.steps) == 1


def test_a_wrong_meaning_is_found() -> None:
    generator = random.Random(0)
    for seed in range(50):
        program = random_program(seed)
        meaning = meaning_of(program)
        name = generator.choice(sorted(meaning.memory))
        meaning.memory[name].flat[0] += 1
        with pytest.raises(CounterExample, match="ends with"):
            check(program, meaning)
