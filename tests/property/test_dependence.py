"""Dependences found are true conflicts, and all conflicts are implied by those found."""

from __future__ import annotations

import random

from hypothesis import given, settings
from meaning import conflict, is_legal, uses
from ordering import check_order, uses_of
from plans import Area, LaunchPlan, PartitionPlan, Program, RegionPlan, TaskPlan, Through, parts_of
from strategies import Pick, picks, programs, random_program

from specinfer.runtime.dependence import DependenceAnalyzer, Requirement
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.privilege import RW, WD, R, Reduce

KV = (0, "k")
ALL_ROWS = IndexSpace((0,), (8,))


@settings(max_examples=100, deadline=None)
@given(program=programs(), pick=picks())
def test_dependences_are_true_conflicts_and_imply_every_conflict(
    program: Program, pick: Pick
) -> None:
    check_order(program, pick, completions=False)


@settings(max_examples=100, deadline=None)
@given(program=programs(), pick=picks())
def test_dependences_stay_right_while_launches_complete(program: Program, pick: Pick) -> None:
    check_order(program, pick, completions=True)


def test_dependences_of_many_programs() -> None:
    for seed in range(1000):
        check_order(random_program(seed), random.Random(seed).randint, completions=seed % 2 == 0)


def test_the_oracle_finds_the_conflicts_of_a_program_worked_out_by_hand() -> None:
    accesses = (
        (Area(0, ((0, 0), (2, 2)), ("a",)), "RW"),  # left
        (Area(0, ((0, 2), (2, 4)), ("a",)), "WD"),  # right
        (Area(0, ((0, 1), (1, 3)), ("a", "b")), "R"),  # middle
        (Area(0, ((1, 1), (1, 4)), ("a", "b")), "RW"),  # nothing
        (Area(0, ((0, 0), (2, 4)), ("b",)), "+"),  # the other field
    )
    launches = tuple(
        LaunchPlan(number, TaskPlan("mix", (mode,), is_pure=True, returns=False), (area,))
        for number, (area, mode) in enumerate(accesses)
    )
    program = Program((RegionPlan((2, 4), ("a", "b"), (True, True)),), (), (), launches)
    used = uses_of(program)
    found = {(i, j) for j in range(5) for i in range(j) if conflict(used[i], used[j])}
    assert found == {(0, 2), (1, 2), (2, 4)}
    assert not conflict(used[4], used[4])


def test_the_oracle_knows_which_index_launches_are_allowed() -> None:
    halo = PartitionPlan(0, ("a",), ((0,), (6,)), "restricted", ((2,), ((0,), (3,)), (3,), 1))
    halves = PartitionPlan(0, ("a",), ((0,), (6,)), "equal", (2,))
    partitions = (halo, halves)
    parts = [parts_of(partition) for partition in partitions]
    assert parts == [
        {0: ((0,), (4,)), 1: ((2,), (6,))},
        {0: ((0,), (3,)), 1: ((3,), (6,))},
    ]

    def launch(mode: str, partition: int, projection: str = "ID", *data: int) -> LaunchPlan:
        task = TaskPlan("mix", (mode,), is_pure=True, returns=False)
        return LaunchPlan(0, task, (Through(partition, projection, data),), (2,))

    allowed = {
        (mode, partition): is_legal(parts, partitions, launch(mode, partition))
        for mode in ("R", "WD", "+")
        for partition in (0, 1)
    }
    assert [where for where, is_allowed in allowed.items() if not is_allowed] == [("WD", 0)]
    assert uses(parts, partitions, launch("R", 1, "shift", 1)) is None


def test_points_of_one_disjoint_partition_are_compared_with_their_own_part_only() -> None:
    analyzer, partition = DependenceAnalyzer(), object()
    rows = [IndexSpace((row,), (row + 1,)) for row in range(8)]
    for id, row in enumerate(rows):
        assert analyzer.launch(id, [Requirement(KV, row, WD, partition)]) == set()
    for id, row in enumerate(rows):
        assert analyzer.launch(id + 8, [Requirement(KV, row, RW, partition)]) == {id}
    # Others meet them all.
    assert analyzer.launch(16, [Requirement(KV, ALL_ROWS, R)]) == set(range(8, 16))
    assert analyzer.launch(17, [Requirement(KV, rows[3], WD, object())]) == {11, 16}
    assert analyzer.launch(18, [Requirement(KV, rows[3], RW, partition)]) == {16, 17}


def test_a_write_stands_for_the_uses_that_it_covers() -> None:
    analyzer = DependenceAnalyzer()
    assert analyzer.launch(0, [Requirement(KV, ALL_ROWS, WD)]) == set()
    assert analyzer.launch(1, [Requirement(KV, IndexSpace((0,), (4,)), R)]) == {0}
    assert analyzer.launch(2, [Requirement(KV, ALL_ROWS, RW)]) == {0, 1}
    assert analyzer.launch(3, [Requirement(KV, ALL_ROWS, R)]) == {2}


def test_a_write_of_a_part_leaves_the_rest_to_be_waited_for() -> None:
    analyzer = DependenceAnalyzer()
    analyzer.launch(0, [Requirement(KV, ALL_ROWS, WD)])
    assert analyzer.launch(1, [Requirement(KV, IndexSpace((0,), (4,)), WD)]) == {0}
    assert analyzer.launch(2, [Requirement(KV, ALL_ROWS, R)]) == {0, 1}


def test_a_reduction_does_not_stand_for_the_reader_before_it() -> None:
    analyzer = DependenceAnalyzer()
    analyzer.launch(0, [Requirement(KV, ALL_ROWS, R)])
    assert analyzer.launch(1, [Requirement(KV, ALL_ROWS, Reduce("+"))]) == {0}
    assert analyzer.launch(2, [Requirement(KV, ALL_ROWS, Reduce("+"))]) == {0}
    assert analyzer.launch(3, [Requirement(KV, ALL_ROWS, Reduce("max"))]) == {0, 1, 2}


def test_every_argument_of_a_launch_is_remembered() -> None:
    analyzer = DependenceAnalyzer()
    top, bottom = IndexSpace((0,), (4,)), IndexSpace((4,), (8,))
    analyzer.launch(0, [Requirement(KV, top, R), Requirement(KV, bottom, R)])
    assert analyzer.launch(1, [Requirement(KV, top, WD)]) == {0}
    assert analyzer.launch(2, [Requirement(KV, bottom, WD)]) == {0}
