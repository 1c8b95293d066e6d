"""The policy on machines and drafters that are made up, by a clock that the test turns."""

from __future__ import annotations

import random
from typing import Any

import pytest
from drafting_world import NOISE, RIGHT, Chain, Clock, World, adaptive_trees

from specinfer.scheduler.adaptive import AdaptiveTrees, Times
from specinfer.scheduler.drafting import Ask, FixedTrees
from specinfer.scheduler.speculators import Context
from specinfer.scheduler.step_cost import StepCost
from specinfer.scheduler.token_tree import TokenTree
from specinfer.scheduler.verifiers.choice import VERIFIERS

WARM = 200


def made(slope: float, **drafter: Any) -> tuple[World, Chain]:
    """A machine on which each row costs as much more, and a drafter."""
    clock = Clock()
    world = World(clock, lambda rows: 1 + slope * (rows - 1))
    return world, Chain(clock, random.Random(1), **drafter)


def plain_rate(world: World, requests: int = 1) -> float:
    return requests / (world.time(requests) * (1 + NOISE / 2))


@pytest.mark.parametrize("requests", [1, 8])
@pytest.mark.parametrize(
    ("per_level", "slope"), [(0.1, 0.05), (0.5, 0.1), (1.0, 0.3), (0.01, 0.3), (0.0001, 0.1)]
)
def test_a_drafter_that_is_never_right_costs_next_to_nothing(
    monkeypatch: pytest.MonkeyPatch, per_level: float, slope: float, requests: int
) -> None:
    """The goal: at most 3 % against no speculation, over 2,000 tokens, probes included."""
    world, drafter = made(slope, accepted=0.0, claimed=0.95, per_level=per_level)
    drafting = adaptive_trees(monkeypatch, world.clock, [drafter])
    world.run(drafting, 1, WARM, requests)
    rate = world.run(drafting, 1, 2000 // requests, requests)
    assert rate > 0.97 * plain_rate(world, requests)


@pytest.mark.parametrize(
    ("accepted", "per_level", "slope", "requests"),
    [
        (0.3, 0.1, 0.05, 1),
        (0.5, 0.1, 0.05, 1),
        (0.7, 0.1, 0.05, 1),
        (0.9, 0.05, 0.02, 1),
        (0.8, 0.02, 0.3, 1),
        (0.8, 0.02, 0.9, 1),
        (0.8, 0.0001, 0.1, 1),
        (0.8, 0.05, 0.05, 4),
        (0.8, 0.02, 0.2, 16),
    ],
)
def test_nearly_as_good_as_the_best_depth_that_one_could_choose(
    monkeypatch: pytest.MonkeyPatch, accepted: float, per_level: float, slope: float, requests: int
) -> None:
    best = 0.0
    for depth in range(1, 9):
        world, drafter = made(slope, accepted=accepted, per_level=per_level, depth=depth)
        best = max(best, world.run(FixedTrees([drafter]), 1, 800, requests))
    world, drafter = made(slope, accepted=accepted, per_level=per_level)
    drafting = adaptive_trees(monkeypatch, world.clock, [drafter])
    world.run(drafting, 1, WARM, requests)
    rate = world.run(drafting, 1, 800, requests)
    assert rate > 0.93 * max(best, plain_rate(world, requests))


def test_a_drafter_that_was_switched_off_comes_back_and_goes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, drafter = made(0.05, accepted=0.0, per_level=0.1)
    drafting = adaptive_trees(monkeypatch, world.clock, [drafter])
    world.run(drafting, 1, 1000)
    drafter.accepted = 0.9
    world.run(drafting, 1, 400)
    assert world.run(drafting, 1, 200) > 2 * plain_rate(world)
    drafter.accepted = 0.0
    world.run(drafting, 1, 200)
    assert world.run(drafting, 1, 500) > 0.97 * plain_rate(world)


def test_trees_shrink_to_nothing_as_load_grows_and_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows are free up to 16; a node is right often enough that load alone decides."""
    clock = Clock()
    world = World(clock, lambda rows: 1 + 0.1 * max(0, rows - 16))
    drafter = Chain(clock, random.Random(1), accepted=0.7, per_level=0.01)
    drafting = adaptive_trees(monkeypatch, clock, [drafter])
    sizes = []
    for requests in (1, 2, 4, 8, 16, 32, 16, 8, 4, 2, 1):
        world.run(drafting, 1, WARM, requests)
        world.num_nodes.clear()
        world.run(drafting, 1, 200, requests)
        sizes.append(sum(world.num_nodes) / 200 / requests)
    up, down = sizes[:6], sizes[:4:-1]
    for found in (up, down):
        assert found[0] > 6
        assert found[0] > found[2] > found[3] > 0.5
        assert max(found[4:]) < 0.1


def test_of_two_drafters_only_the_one_that_pays_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    world = World(clock, lambda rows: 1 + 0.05 * rows)
    good = Chain(clock, random.Random(1), accepted=0.8, per_level=0.05)
    bad = Chain(clock, random.Random(2), accepted=0.0, per_level=0.2)
    drafting = adaptive_trees(monkeypatch, clock, [bad, good])
    world.run(drafting, 2, WARM)
    bad.num_levels = good.num_levels = 0
    world.run(drafting, 2, 500)
    assert good.num_levels > 3 * 500
    assert bad.num_levels < 0.1 * 500


def test_ranks_that_measure_other_times_draw_the_same_trees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second rank's clock runs at random; what is agreed on is the first one's."""
    agreed: list[Times] = []

    def first(times: Times) -> Times:
        agreed.append(times)
        return times

    def run(noise: int, agree: Any) -> tuple[list[int], float]:
        generator = random.Random(noise)
        clock = Clock()
        world = World(clock, lambda rows: (1 + 0.1 * rows) * (1 + noise * generator.random()))
        drafter = Chain(clock, random.Random(1), accepted=0.7, per_level=0.05)
        drafting = adaptive_trees(monkeypatch, clock, [drafter], agree=agree)
        world.run(drafting, 1, 700, requests=3)
        return world.num_nodes, clock.now

    ours, seconds = run(0, first)
    told = iter(agreed)
    theirs, other_seconds = run(5, lambda _: next(told))
    assert ours == theirs
    assert seconds != other_seconds
    assert len(agreed) < 700 / 20


def test_a_tree_of_draws_is_limited_before_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ``mss`` what is verified is all that was drawn: nothing is cut by what is in it."""
    world, drafter = made(0.3, accepted=0.6, per_level=0.02)
    drafting = adaptive_trees(monkeypatch, world.clock, [drafter])
    world.run(drafting, 1, 600, requests=2, verifier=VERIFIERS["mss"])
    assert sum(world.num_nodes) == drafter.num_levels
    assert sum(world.num_nodes[200:]) / 400 < 2 * 8


class Wide:
    """Proposes more than it is asked for."""

    name = "wide"
    max_nodes = 12

    def draft(self, contexts: Any) -> list[TokenTree]:
        trees = []
        for context in contexts:
            tree = TokenTree(context.tokens[-1])
            for token in range(12 if context.max_depth else 0):
                tree.add(0, token, -1.0 - token)
            trees.append(tree)
        return trees

    def accept(self, tokens: Any) -> None:
        pass

    def release(self, request: int) -> None:
        pass


@pytest.mark.parametrize("verifier", ["greedy", "coupled", "mss"])
@pytest.mark.parametrize("is_adaptive", [False, True])
def test_a_request_says_how_much_is_guessed_for_it(verifier: str, is_adaptive: bool) -> None:
    drafters = [Wide()]
    cost = StepCost((1, 64), (1.0, 1.01))
    drafting = (
        AdaptiveTrees(drafters, cost, 64, lambda times: times)
        if is_adaptive
        else FixedTrees(drafters)
    )
    for _ in range(60):
        asks = [
            Ask([Context(0, [RIGHT], 5, max_nodes=3)], VERIFIERS[verifier]),
            Ask([Context(1, [RIGHT], 0)], VERIFIERS[verifier]),
        ]
        few, none = drafting.draft(asks, 0)
        assert len(few) - 1 <= 3
        assert len(none) == 1
        drafting.verified(len(few) + 1, 0.01, {0: few.follow([0]), 1: []})
    assert len(few) > 1
