from __future__ import annotations

import random

import pytest
from tiny_models import random_parents

from specinfer.scheduler.token_tree import TokenTree
from specinfer.scheduler.verifiers import Accepted, follow


def _mars() -> TokenTree:
    """5 -> 7 -> 8, 5 -> 9, as nodes 0, 1, 2, 3."""
    tree = TokenTree(5)
    tree.add(tree.add(0, 7), 8)
    tree.add(0, 9)
    return tree


@pytest.mark.parametrize(
    ("predicted", "accepted"),
    [
        ([7, 8, 4, 1], Accepted([1, 2], [7, 8, 4])),
        ([7, 6, 4, 1], Accepted([1], [7, 6])),
        ([9, 8, 4, 1], Accepted([3], [9, 1])),
        ([6, 8, 4, 1], Accepted([], [6])),
        ([8, 8, 4, 1], Accepted([], [8])),
    ],
    ids=["whole branch", "part of a branch", "other branch", "nothing", "only a grandchild agrees"],
)
def test_worked_example(predicted: list[int], accepted: Accepted) -> None:
    assert follow(_mars(), predicted.__getitem__) == accepted


def test_a_tree_of_one_node_yields_the_models_own_token() -> None:
    assert follow(TokenTree(5), [3].__getitem__) == Accepted([], [3])


@pytest.mark.parametrize("seed", range(50))
def test_accepts_the_longest_path_that_the_model_predicts(seed: int) -> None:
    generator = random.Random(seed)
    tree = TokenTree(0)
    for parent in random_parents(generator, generator.randint(0, 80)):
        tree.add(min(parent + 1, len(tree) - 1), generator.randrange(4))
    predicted = [generator.randrange(4) for _ in range(len(tree))]
    # By brute force: a node is right if its token and those above it were predicted.
    right = [
        node
        for node in range(len(tree))
        if all(
            tree.tokens[n] == predicted[tree.parents[n]]
            for n in range(1, len(tree))
            if tree.mask[node, n]
        )
    ]
    last = max(right, key=lambda node: tree.depths[node])
    accepted = follow(tree, predicted.__getitem__)
    assert accepted.nodes == sorted(set(right) - {0})
    assert accepted.tokens == [*tree.path(last)[1:], predicted[last]]
