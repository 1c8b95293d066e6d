from __future__ import annotations

import random
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specinfer.scheduler.tree_budget import Offer, Some, best_nodes, plan


def random_tree(generator: random.Random, nodes: int) -> tuple[list[int], list[float]]:
    """Parents and survival of each node, the root's first."""
    parents, survivals = [-1], [1.0]
    for node in range(nodes):
        parents.append(generator.randrange(node + 1))
        survivals.append(survivals[parents[-1]] * generator.choice([0.2, 0.5, 0.9, 1.0]))
    return parents, survivals


def trees_of(parents: list[int], most: int) -> list[tuple[int, ...]]:
    """All sets of at most so many nodes that hold what is above each of them."""
    nodes = range(1, len(parents))
    return [
        chosen
        for count in range(min(most, len(nodes)) + 1)
        for chosen in combinations(nodes, count)
        if all(parents[node] in (0, *chosen) for node in chosen)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_no_other_trees_yield_more_tokens_in_the_time(seed: int) -> None:
    generator = random.Random(seed)
    trees = [
        random_tree(generator, generator.randint(0, 5)) for _ in range(generator.randint(1, 3))
    ]
    most = [generator.randint(0, 6) for _ in trees]
    times = sorted(generator.uniform(1, 4) for _ in range(20))

    def rate(chosen: tuple[tuple[int, ...], ...] | list[list[int]]) -> float:
        tokens = sum(
            1 + sum(survivals[node] for node in nodes)
            for nodes, (_, survivals) in zip(chosen, trees, strict=True)
        )
        return tokens / times[sum(map(len, chosen))]

    found = best_nodes([survivals for _, survivals in trees], most, times.__getitem__)
    choices = [trees_of(parents, n) for (parents, _), n in zip(trees, most, strict=True)]
    assert all(tuple(c) in choice for c, choice in zip(found, choices, strict=True))
    assert rate(found) == pytest.approx(max(rate(chosen) for chosen in product(*choices)))


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 30), st.sampled_from([0.0, 0.3, 0.5, 1.0])), max_size=12),
        min_size=1,
        max_size=4,
    ),
    st.floats(0, 2),
    st.integers(0, 9),
)
def test_what_is_chosen_holds_what_is_above_it(
    drawn: list[list[tuple[int, float]]], slope: float, most: int
) -> None:
    trees, parents = [], []
    for nodes in drawn:
        above, survivals = [-1], [1.0]
        for parent, survival in nodes:
            above.append(parent % len(above))
            survivals.append(survivals[above[-1]] * survival)
        trees.append(survivals)
        parents.append(above)
    found = best_nodes(trees, [most] * len(trees), lambda nodes: 1 + slope * nodes)
    for chosen, above in zip(found, parents, strict=True):
        assert chosen == sorted(set(chosen))
        assert len(chosen) <= most
        assert all(above[node] in (0, *chosen) for node in chosen)


def test_only_sizes_that_may_be_are_chosen() -> None:
    survivals = [[1.0, 0.9, 0.8, 0.7, 0.6, 0.5]]
    for allowed in ({2}, {4}, {3, 4}):
        found = best_nodes(survivals, [5], lambda nodes: 1 + (nodes > 4), allowed.__contains__)
        assert len(found[0]) == max(allowed)


def test_more_requests_get_fewer_nodes_each_and_at_last_none() -> None:
    """A pass is free up to 32 rows, and dear behind them."""

    def time(rows: int) -> float:
        return 1 + 0.05 * max(0, rows - 32)

    chain = [0.8**depth for depth in range(9)]
    sizes = []
    for requests in (1, 4, 8, 16, 32, 64):
        found = best_nodes([chain] * requests, [8] * requests, lambda n, r=requests: time(r + n))  # type: ignore[misc]
        sizes.append(sum(map(len, found)) / requests)
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (8, 0)


# Before drafting


def chain(acceptance: float, depth: int, per_level: float) -> Offer:
    return Offer(
        [[Some(acceptance**level, 1.0)] for level in range(1, depth + 1)],
        [per_level * level for level in range(1, depth + 1)],
    )


def rate_of(
    offers: list[Offer], depths: tuple[int, ...], requests: int, slope: float, room: int
) -> float:
    drafting = sum(o.seconds[d - 1] for o, d in zip(offers, depths, strict=True) if d)
    kinds = [
        k for o, d in zip(offers, depths, strict=True) for level in o.levels[:d] for k in level
    ]
    survivals = sorted((k.survival for k in kinds for _ in range(requests)), reverse=True)[:room]
    return max(
        (requests + sum(survivals[:n])) / (drafting + 1 + slope * n)
        for n in range(len(survivals) + 1)
    )


@pytest.mark.parametrize("seed", range(40))
def test_no_other_depth_of_one_drafter_is_better(seed: int) -> None:
    generator = random.Random(seed)
    offer = chain(generator.random(), 6, generator.choice([0.01, 0.1, 0.5]))
    requests, slope = generator.randint(1, 5), generator.choice([0.0, 0.05, 0.5])
    room = generator.choice([3, 100])
    found = plan([offer], requests, lambda nodes: 1 + slope * nodes, room)
    best = max(rate_of([offer], (depth,), requests, slope, room) for depth in range(7))
    assert found.rate == pytest.approx(best)
    assert rate_of([offer], found.depths, requests, slope, room) == pytest.approx(best)
    assert found.nodes <= room


@pytest.mark.parametrize("seed", range(40))
def test_no_change_of_one_of_two_drafters_is_better(seed: int) -> None:
    generator = random.Random(seed)
    offers = [chain(generator.random(), 4, generator.choice([0.01, 0.1, 0.5])) for _ in range(2)]
    found = plan(offers, 1, lambda nodes: 1 + 0.05 * nodes, 100)
    first, second = found.depths
    others = [*((d, second) for d in range(5)), *((first, d) for d in range(5))]
    best = max(rate_of(offers, depths, 1, 0.05, 100) for depths in others)
    assert found.rate == pytest.approx(best)


def test_a_drafter_that_is_never_right_or_too_slow_is_not_asked() -> None:
    def time(nodes: int) -> float:
        return 1 + 0.1 * nodes

    assert plan([chain(0.0, 4, 0.01)], 1, time, 99).depths == (0,)
    assert plan([chain(0.9, 4, 1.0)], 1, time, 99).depths == (0,)
    assert plan([chain(0.9, 4, 1.0), chain(0.9, 4, 0.1)], 1, time, 99).depths == (0, 4)


def test_what_is_offered_now_and_then_counts_as_often() -> None:
    rare = Offer([[Some(0.9, 0.01)]], [0.1])
    often = Offer([[Some(0.9, 1.0)]], [0.1])
    assert plan([rare], 1, lambda nodes: 1.0, 99).depths == (0,)
    assert plan([often], 1, lambda nodes: 1.0, 99).depths == (1,)
