"""Token trees: a row of the mask is the path to the root, and merging is the union of paths."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specinfer.scheduler.errors import TreeError
from specinfer.scheduler.token_tree import Proposal, TokenTree, merge

ROOT = 5
Paths = set[tuple[int, ...]]


@st.composite
def trees(draw: st.DrawFn, max_nodes: int = 12, tokens: int = 3) -> TokenTree:
    tree = TokenTree(ROOT)
    for _ in range(draw(st.integers(0, max_nodes))):
        tree.add(draw(st.integers(0, len(tree) - 1)), draw(st.integers(0, tokens - 1)))
    return tree


def path_of(tree: TokenTree, node: int) -> tuple[int, ...]:
    parent = tree.parents[node]
    return (*(path_of(tree, parent) if node else ()), tree.tokens[node])


def paths(tree: TokenTree) -> Paths:
    found = [path_of(tree, node) for node in range(len(tree))]
    assert len(set(found)) == len(found), "a path is there twice"
    return set(found)


def check_union(merge: Callable[[Sequence[TokenTree]], TokenTree], some: list[TokenTree]) -> None:
    """Every path of every tree, once, and who proposed it at which place among its siblings."""
    merged = merge(some)
    assert paths(merged) == set[tuple[int, ...]]().union(*map(paths, some))
    proposed = Counter(
        (path_of(tree, node), drafter, [n for n in siblings(tree, node) if n <= node].index(node))
        for drafter, tree in enumerate(some)
        for node in range(1, len(tree))
    )
    kept = Counter(
        (path_of(merged, node), proposal.drafter, proposal.order)
        for node in range(len(merged))
        for proposal in merged.proposals[node]
    )
    assert kept == proposed


def siblings(tree: TokenTree, node: int) -> list[int]:
    return [n for n in range(len(tree)) if tree.parents[n] == tree.parents[node]]


# One tree


@given(trees(max_nodes=40))
@settings(max_examples=100, deadline=None)
def test_a_row_of_the_mask_is_the_path_to_the_root(tree: TokenTree) -> None:
    for node, row in enumerate(tree.mask):
        above, at = {node}, node
        while at:
            at = tree.parents[at]
            above.add(at)
        assert set(row.nonzero()[0].tolist()) == above
        assert len(above) == tree.depths[node] + 1


@given(trees(max_nodes=40))
@settings(max_examples=100, deadline=None)
def test_what_a_tree_says_of_itself_agrees(tree: TokenTree) -> None:
    assert tree.parents[0] == -1
    for node in range(len(tree)):
        assert node == 0 or 0 <= tree.parents[node] < node
        assert tuple(tree.path(node)) == path_of(tree, node)
        assert tree.children(node) == [n for n in range(1, len(tree)) if tree.parents[n] == node]
        for child in tree.children(node):
            assert tree.child(node, tree.tokens[child]) == child
        assert tree.child(node, 99) is None


@given(trees(), st.lists(st.integers(0, 3), max_size=6))
@settings(max_examples=100, deadline=None)
def test_following_tokens_goes_as_far_as_there_is_such_a_path(
    tree: TokenTree, tokens: list[int]
) -> None:
    nodes = tree.follow(tokens)
    assert [path_of(tree, node) for node in nodes] == [
        (ROOT, *tokens[: i + 1]) for i in range(len(nodes))
    ]
    if len(nodes) < len(tokens):
        assert (ROOT, *tokens[: len(nodes) + 1]) not in paths(tree)


@given(trees(), st.data())
@settings(max_examples=50, deadline=None)
def test_adding_what_is_there_joins_it(tree: TokenTree, data: st.DataObject) -> None:
    before, node = paths(tree), data.draw(st.integers(0, len(tree) - 1))
    for child in tree.children(node):
        assert tree.add(node, tree.tokens[child], proposals=[Proposal(1, 0)]) == child
        assert tree.proposals[child] == [Proposal(1, 0)]
    assert paths(tree) == before


@pytest.mark.parametrize("parent", [-1, 1, 7])
def test_refuses_a_parent_that_is_not_there(parent: int) -> None:
    with pytest.raises(TreeError, match=rf"parent {parent} of token 3: expected a node below 1"):
        TokenTree(ROOT).add(parent, 3)


def test_a_tree_of_thousands_of_nodes_is_no_other() -> None:
    """4,096 nodes: masks of 64 words, and a merge that joins half of them."""
    generator = random.Random(5)
    big = TokenTree(ROOT)
    while len(big) <= 4096:
        big.add(generator.randrange(max(0, len(big) - 99), len(big)), generator.randrange(50))
    mask = big.mask
    assert mask.shape == (4097, 4097)
    assert mask.sum(axis=1).tolist() == [depth + 1 for depth in big.depths]
    for node in generator.sample(range(len(big)), 200):
        (seen,) = mask[node].nonzero()
        assert [big.tokens[n] for n in seen] == big.path(node)
    half = big.restricted(range(1, 2049))
    merged = merge([half, big])
    assert merged.tokens == big.tokens
    assert merged.parents == big.parents
    assert [len(proposals) for proposals in merged.proposals] == [0] + [2] * 2048 + [1] * 2048


# Several trees


@given(st.lists(trees(), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_merging_is_the_union_of_paths_and_keeps_every_proposal(some: list[TokenTree]) -> None:
    check_union(merge, some)


@given(trees(), trees(), trees())
@settings(max_examples=100, deadline=None)
def test_merging_is_idempotent_commutative_and_associative(
    a: TokenTree, b: TokenTree, c: TokenTree
) -> None:
    assert paths(merge([a, a])) == paths(merge([a])) == paths(a)
    assert paths(merge([a, b])) == paths(merge([b, a]))
    assert paths(merge([merge([a, b]), c])) == paths(merge([a, merge([b, c])]))
    assert paths(merge([a, TokenTree(ROOT)])) == paths(a)


def test_the_first_proposer_gives_the_log_probability() -> None:
    one, other = TokenTree(ROOT), TokenTree(ROOT)
    one.add(0, 1, -0.5)
    other.add(other.add(0, 1, -0.25), 2, -3.0)
    assert merge([one, other]).log_probs == [0.0, -0.5, -3.0]


def test_worked_example() -> None:
    """Mars is red / reddish / dark, drafted by two models."""
    words = {5: "is", 0: "red", 1: "-dish", 2: "dark", 3: "and"}
    one, other = TokenTree(ROOT), TokenTree(ROOT)
    one.add(one.add(0, 0), 1)
    other.add(other.add(0, 2), 3)
    other.add(0, 0)
    merged = merge([one, other])
    told = [" ".join(words[token] for token in merged.path(node)) for node in range(len(merged))]
    assert told == ["is", "is red", "is red -dish", "is dark", "is dark and"]
    assert merged.parents == [-1, 0, 1, 0, 3]
    assert merged.proposals[1] == [Proposal(0, 0), Proposal(1, 1)]
    assert merged.mask.astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [1, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize("some", [[], [TokenTree(1), TokenTree(2)]], ids=["none", "two roots"])
def test_refuses_trees_without_one_root(some: list[TokenTree]) -> None:
    with pytest.raises(TreeError, match=r"roots \[.*\]: expected trees with one root"):
        merge(some)


# Bugs planted


def _merge_by(key: Callable[[TokenTree, int], object]) -> Callable[..., TokenTree]:
    """A merge that takes nodes for the same when ``key`` says so."""

    def wrong(some: Sequence[TokenTree]) -> TokenTree:
        merged = TokenTree(some[0].root)
        for drafter, tree in enumerate(some):
            for node in range(1, len(tree)):
                places = {key(merged, n): n for n in range(len(merged))}
                parent = places.get(key(tree, tree.parents[node]), 0)
                order = siblings(tree, node).index(node)
                if key(tree, node) in places:
                    merged.proposals[places[key(tree, node)]].append(Proposal(drafter, order))
                else:
                    merged.add(parent, tree.tokens[node], proposals=[Proposal(drafter, order)])
        return merged

    return wrong


def _merge_that_forgets(some: Sequence[TokenTree]) -> TokenTree:
    merged = merge(some)
    for proposals in merged.proposals:
        del proposals[1:]
    return merged


@pytest.mark.parametrize(
    "wrong",
    [
        _merge_by(lambda tree, node: tree.tokens[node]),
        _merge_by(lambda tree, node: (tree.depths[node], tree.tokens[node])),
        _merge_that_forgets,
        lambda some: merge(some[:1]),
    ],
    ids=["keyed by token", "keyed by depth and token", "one proposal", "first tree only"],
)
def test_finds_a_wrong_merge(wrong: Callable[[Sequence[TokenTree]], TokenTree]) -> None:
    one, other = TokenTree(ROOT), TokenTree(ROOT)
    one.add(one.add(0, 0), 1)
    other.add(0, 0)
    other.add(other.add(0, 2), 1)
    other.add(other.add(3, 0), 0)
    check_union(merge, [one, other])
    check_union(_merge_by(path_of), [one, other])
    with pytest.raises(AssertionError):
        check_union(wrong, [one, other])
