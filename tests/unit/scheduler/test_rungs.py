"""What a rung would have given is what it gives."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from specinfer.scheduler.lanes.rungs import Rung, Share, rungs_of, yields
from specinfer.scheduler.lanes.ssm import full_parents
from specinfer.scheduler.late_tree import FlatTree
from specinfer.scheduler.token_tree import TokenTree, merge

SEEDS = pytest.mark.parametrize("seed", range(60))


def random_full(generator: random.Random) -> Rung:
    """What one to three drafters draw."""
    shares: list[Share] = []
    for _ in range(generator.randint(1, 3)):
        widths = tuple(generator.choice([1, 1, 2, 3]) for _ in range(generator.randint(1, 5)))
        shares.append(widths if generator.random() < 0.5 else generator.randint(1, 16))
    return Rung(tuple(shares), generator.randint(4, 9))


def drawn(paths: TokenTree, share: Share, found: FlatTree | None) -> FlatTree:
    """What a drafter draws: the best of all that it knows, or of what n-grams found."""
    if isinstance(share, int):
        assert found is not None
        return FlatTree(found.tokens[: 1 + share], found.parents[: 1 + share])
    parents = full_parents(share) if share else [-1]
    nodes, children = [0], dict.fromkeys(range(len(parents)), 0)
    for parent in parents[1:]:
        nodes.append(paths.children(nodes[parent])[children[parent]])
        children[parent] += 1
    return FlatTree([paths.tokens[node] for node in nodes], parents)


def knowledge(generator: random.Random, depth: int) -> TokenTree:
    """Ranked children of every node that a drafter may come to."""
    tree, frontier = TokenTree(0), [0]
    for _ in range(depth):
        frontier = [
            tree.add(node, token) for node in frontier for token in generator.sample(range(5), 3)
        ]
    return tree


def ngrams(generator: random.Random, nodes: int, deepest: int) -> FlatTree:
    """Nodes in the order in which they are found."""
    tree = TokenTree(0)
    while len(tree) <= nodes:
        parent = generator.choice([len(tree) - 1, generator.randrange(len(tree))])
        if tree.depths[parent] < deepest:
            tree.add(parent, generator.randrange(5))
    return FlatTree(tree.tokens, tree.parents)


@SEEDS
def test_what_a_rung_would_have_given_is_what_it_gives(seed: int) -> None:
    generator = random.Random(seed)
    full = random_full(generator)
    rungs = rungs_of(full)
    known = [knowledge(generator, 5) for _ in full.shares]
    found = [
        ngrams(generator, share, full.deepest) if isinstance(share, int) else None
        for share in full.shares
    ]

    def drafts(rung: Rung) -> list[FlatTree]:
        return [drawn(*each) for each in zip(known, rung.shares, found, strict=True)]

    def union(drafts: Sequence[FlatTree]) -> TokenTree:
        return merge([draft.tree(0) for draft in drafts])

    for at in range(len(rungs)):
        tree = union(drafts(rungs[at]))
        node, accepted = 0, list[int]()
        while children := tree.children(node):
            if generator.random() < 0.15:
                break
            node = generator.choice(children)
            accepted.append(tree.tokens[node])
        given = []
        for rung in rungs[: at + 1]:
            given.append(1 + len(union(drafts(rung)).follow(accepted)))
        assert yields(rungs, at, drafts(rungs[at]), accepted) == given


@SEEDS
def test_each_rung_is_within_the_next(seed: int) -> None:
    full = random_full(random.Random(seed))
    rungs = rungs_of(full)
    assert rungs[-1] == full
    assert rungs[0].nodes == rungs[0].depth == 0
    for below, rung in pairwise(rungs):
        assert below.nodes < rung.nodes
        for less, more in zip(below.shares, rung.shares, strict=True):
            if isinstance(less, tuple) and isinstance(more, tuple):
                assert len(less) <= len(more)
                assert all(a <= b for a, b in zip(less, more, strict=False))
            else:
                assert isinstance(less, int)
                assert isinstance(more, int)
                assert less <= more
