"""Counts of trees that are never made are those of the trees."""

from __future__ import annotations

import random

import pytest
from lane_cases import random_tree

from specinfer.scheduler.late_tree import FlatTree, LateTree, Tally
from specinfer.scheduler.token_tree import merge


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_those_of_the_union(seed: int) -> None:
    generator = random.Random(seed)
    number = generator.randint(1, 3)
    drafts = [FlatTree(*random_tree(generator, 20, 3)) for _ in range(number)]
    union = merge([draft.tree(0) for draft in drafts])
    late = LateTree(0, drafts, len(union) - 1)
    assert late.tree == union
    for node in range(len(union)):
        tokens = union.path(node)[1:]
        assert late.tally(tokens) == Tally.of(union, union.follow(tokens))


def test_nobody_guesses() -> None:
    assert LateTree(5, [], 0).tally([]) == Tally.of(LateTree(5, [], 0).tree, [])
