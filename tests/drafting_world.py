"""A machine and its drafters, made up: what a policy yields, by a clock that the test turns."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any

import pytest

from specinfer.scheduler import drafter
from specinfer.scheduler.adaptive import AdaptiveTrees
from specinfer.scheduler.drafting import Ask, Drafting
from specinfer.scheduler.speculators import Context
from specinfer.scheduler.step_cost import StepCost
from specinfer.scheduler.token_tree import TokenTree
from specinfer.scheduler.verifiers.choice import VERIFIERS, Verifier

RIGHT = 1
"""The LLM's token, always; all others are wrong."""
NOISE = 0.05
"""Share of a time that comes on top, at most."""


@dataclass
class Clock:
    """Seconds that have passed."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Chain:
    """A drafter of chains.

    Attributes:
        clock: that it takes time of.
        generator: of what is random.
        accepted: how often its next token is right, behind one that is.
        claimed: how often it says so.
        depth: levels.
        per_level: seconds that a level takes, for each request.
        fixed: seconds that a call takes.
    """

    clock: Clock
    generator: random.Random
    accepted: float
    claimed: float = 0.8
    depth: int = 8
    per_level: float = 0.1
    fixed: float = 0.0
    name: str = "chain"
    num_levels: int = 0

    @property
    def max_nodes(self) -> int:
        return self.depth

    def draft(self, contexts: Sequence[Context]) -> list[TokenTree]:
        trees = []
        for context in contexts:
            tree, node = TokenTree(context.tokens[-1]), 0
            for level in range(min(self.depth, context.max_depth, context.limit(self.depth))):
                is_right = self.generator.random() < self.accepted
                claim = (level + 1) * log(self.claimed)
                node = tree.add(node, RIGHT if is_right else RIGHT + 1, claim)
                self.num_levels += 1
            trees.append(tree)
        levels = max(len(tree) - 1 for tree in trees)
        noise = 1 + NOISE * self.generator.random()
        self.clock.now += (self.fixed + self.per_level * levels * len(contexts)) * noise
        return trees

    def accept(self, tokens: Mapping[int, Sequence[int]]) -> None:
        pass

    def release(self, request: int) -> None:
        pass


@dataclass
class World:
    """An LLM whose time is known, and some requests.

    Attributes:
        clock: that is turned.
        time: of a pass, by rows.
        generator: of noise.
        num_nodes: that were verified, by step.
    """

    clock: Clock
    time: Callable[[int], float]
    generator: random.Random = field(default_factory=lambda: random.Random(0))
    num_nodes: list[int] = field(default_factory=list)

    def run(
        self,
        drafting: Drafting,
        drafters: int,
        steps: int,
        requests: int = 1,
        verifier: Verifier = VERIFIERS["greedy"],
        max_depth: int = 99,
    ) -> float:
        """Tokens in a second."""
        start, tokens = self.clock.now, 0
        for _ in range(steps):
            asks = [
                Ask([Context(r, [RIGHT], max_depth)] * drafters, verifier) for r in range(requests)
            ]
            trees = drafting.draft(asks, 0)
            rows = sum(map(len, trees))
            self.num_nodes.append(rows - requests)
            seconds = self.time(rows) * (1 + NOISE * self.generator.random())
            self.clock.now += seconds
            accepted = {}
            for request, tree in enumerate(trees):
                assert tree.root == RIGHT
                accepted[request] = tree.follow([RIGHT] * len(tree))
                tokens += 1 + len(accepted[request])
            drafting.verified(rows, seconds, accepted)
        return tokens / (self.clock.now - start)


def adaptive_trees(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, drafters: Sequence[Any], **given: Any
) -> AdaptiveTrees:
    """By the clock of the test."""
    monkeypatch.setattr(drafter, "perf_counter", clock)
    cost = StepCost((1, 64), (1.0, 2.0))
    return AdaptiveTrees(drafters, cost, 1024, **{"agree": lambda times: times, **given})
