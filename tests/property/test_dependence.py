"""Whatever runs at once, a program means what it means run one launch after another."""

from __future__ import annotations

from hypothesis import given, settings
from strategies import (
    Access,
    Pick,
    Program,
    accesses_conflict,
    check_effects,
    check_order,
    check_threads,
    conflicting_pairs,
    picks,
    programs,
)

from specinfer.runtime.dependence import DependenceAnalyzer
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.launch import Requirement
from specinfer.runtime.privilege import RW, WD, R, Reduce

KV = (0, "k")
ALL_ROWS = IndexSpace((0,), (8,))


@settings(max_examples=300, deadline=None)
@given(program=programs(), pick=picks())
def test_dependences_are_true_conflicts_and_imply_every_conflict(
    program: Program, pick: Pick
) -> None:
    check_order(program, pick, completions=False)


@settings(max_examples=300, deadline=None)
@given(program=programs(), pick=picks())
def test_dependences_stay_right_while_launches_complete(program: Program, pick: Pick) -> None:
    check_order(program, pick, completions=True)


@settings(max_examples=300, deadline=None)
@given(program=programs(), pick=picks())
def test_any_completion_order_is_serially_equivalent(program: Program, pick: Pick) -> None:
    check_effects(program, pick)


@settings(max_examples=100, deadline=None)
@given(program=programs(max_launches=12), pick=picks())
def test_threads_are_serially_equivalent(program: Program, pick: Pick) -> None:
    check_threads(program, pick)


def test_the_oracle_finds_the_conflicts_of_a_program_worked_out_by_hand() -> None:
    left = Access(0, (0, 0), (2, 2), ("a",), "RW")
    right = Access(0, (0, 2), (2, 4), ("a",), "WD")
    middle = Access(0, (0, 1), (1, 3), ("a", "b"), "R")
    nothing = Access(0, (1, 1), (1, 4), ("a", "b"), "RW")
    other_field = Access(0, (0, 0), (2, 4), ("b",), "+")
    program = Program(
        ((2, 4),), (("a", "b"),), ((left,), (right,), (middle,), (nothing,), (other_field,))
    )
    assert conflicting_pairs(program) == {(0, 2), (1, 2), (2, 4)}
    assert not accesses_conflict(other_field, other_field)


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
