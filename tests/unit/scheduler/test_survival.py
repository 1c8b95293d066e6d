from __future__ import annotations

import random
from math import log

import numpy as np
import pytest

from specinfer.scheduler.supply import Supply
from specinfer.scheduler.survival import TREES, Evidence, Survival
from specinfer.scheduler.token_tree import TokenTree


def chain(claim: float, depth: int) -> TokenTree:
    tree, node = TokenTree(0), 0
    for level in range(1, depth + 1):
        node = tree.add(node, 1, level * log(claim))
    return tree


def learn(survival: Survival, tree: TokenTree, right: int, gap: int = 1) -> None:
    """All of a chain was verified, and so many of its nodes were right."""
    nodes = zip(tree.depths[1:], tree.log_probs[1:], strict=True)
    survival.learn([[Evidence(depth, log_prob, depth <= right) for depth, log_prob in nodes]], gap)


def test_without_evidence_claims_are_believed() -> None:
    found = Survival().of_tree(chain(0.8, 4))
    assert found == pytest.approx([0.8**depth for depth in range(5)], abs=0.1)


@pytest.mark.parametrize("truth", [0.0, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("claim", [0.3, 0.9])
def test_the_measured_rate_takes_the_place_of_the_claim(truth: float, claim: float) -> None:
    generator, survival, tree = random.Random(1), Survival(), chain(claim, 3)
    sums = np.zeros(4)
    for step in range(600):
        right = 0
        while right < 3 and generator.random() < truth:
            right += 1
        learn(survival, tree, right)
        if step >= 100:
            sums += survival.of_tree(tree)
    assert sums / 500 == pytest.approx([truth**depth for depth in range(4)], abs=0.07)


def test_claims_that_differ_are_told_apart() -> None:
    survival = Survival()
    for _ in range(100):
        learn(survival, chain(0.97, 1), 1)
        learn(survival, chain(0.4, 1), 0)
    assert survival.of_tree(chain(0.97, 1))[1] > 0.9
    assert survival.of_tree(chain(0.4, 1))[1] < 0.1


def test_a_depth_without_evidence_is_judged_by_the_others() -> None:
    survival = Survival()
    for _ in range(100):
        learn(survival, chain(0.9, 1), 0)
    assert survival.of_tree(chain(0.9, 2))[2] < 0.1


def test_a_node_never_survives_more_likely_than_the_one_above_it() -> None:
    survival, tree = Survival(), chain(0.9, 6)
    generator = random.Random(3)
    for _ in range(300):
        learn(survival, tree, generator.choice([0, 6]))
        found = survival.of_tree(tree)
        assert found == sorted(found, reverse=True)


def test_what_was_not_verified_says_nothing() -> None:
    survival = Survival()
    before = survival.table.copy()
    survival.learn([])
    assert (survival.table == before).all()


def steps_until(survival: Survival, right: int, gap: int, is_reached: float) -> int:
    """Trees of this kind until the first node's survival is at least, or below, a bound."""
    tree = chain(0.8, 1)
    is_low = survival.of_tree(tree)[1] < is_reached
    for step in range(1, 1000):
        learn(survival, tree, right, gap)
        if (survival.of_tree(tree)[1] < is_reached) != is_low:
            return step
    raise AssertionError


def test_it_follows_changes() -> None:
    survival = Survival()
    for _ in range(200):
        learn(survival, chain(0.8, 1), 1)
    assert steps_until(survival, 0, 1, 0.3) <= 2 * TREES
    for _ in range(200):
        learn(survival, chain(0.8, 1), 0)
    assert steps_until(survival, 1, 1, 0.6) <= 2 * TREES


def test_a_drafter_that_is_seldom_asked_is_believed_sooner() -> None:
    found = {}
    for gap in (1, 100):
        survival = Survival()
        for _ in range(200):
            learn(survival, chain(0.8, 1), 0)
        found[gap] = steps_until(survival, 1, gap, 0.5)
    assert found[100] < found[1]


def test_the_same_evidence_gives_the_same_numbers() -> None:
    def run() -> Survival:
        generator, survival = random.Random(5), Survival()
        for _ in range(50):
            tree = chain(generator.choice([0.3, 0.9]), 4)
            learn(survival, tree, generator.randint(0, 4), generator.randint(1, 9))
        return survival

    assert (run().table == run().table).all()


# Supply


def nodes_of(tree: TokenTree) -> list[tuple[int, float]]:
    return [*zip(tree.depths, tree.log_probs, strict=True)][1:]


def test_supply_is_the_average_tree() -> None:
    supply = Supply()
    for number in range(200):
        supply.learn(nodes_of(chain(0.9, 3 if number % 2 else 1)), None, None)
    assert supply.depth == 3
    assert supply.table.sum(axis=1)[:4] == pytest.approx([1, 0.5, 0.5, 0], abs=0.1)


def test_supply_knows_what_was_not_seen() -> None:
    supply = Supply()
    for _ in range(50):
        supply.learn(nodes_of(chain(0.9, 3)), None, None)
    for _ in range(50):
        supply.learn(nodes_of(chain(0.9, 1)), 1, None)
    assert supply.table.sum(axis=1)[:3] == pytest.approx([1, 1, 1], abs=0.01)
    wide = TokenTree(0)
    for token, claim in enumerate((0.6, 0.3, 0.02)):
        wide.add(0, token, log(claim))
    supply = Supply()
    for _ in range(50):
        supply.learn(nodes_of(wide), None, None)
    for _ in range(50):
        supply.learn([(1, log(0.6))], None, log(0.6))
    assert supply.table[0].sum() == pytest.approx(3, abs=0.01)
