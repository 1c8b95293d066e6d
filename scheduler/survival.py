"""How likely guesses survive verification: what drafters claim, set right by what came of it.

A drafter claims a probability for the path to each node (``TokenTree.log_probs``). How much that is
worth is counted by depth and claim: of the nodes that were verified, how many were accepted. What
was not verified says nothing. Counts are forgotten slowly, so that they follow the text.

A state machine: evidence in, numbers out. The same evidence gives the same numbers on all ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specinfer.scheduler.token_tree import TokenTree

DEPTHS = 16
"""Depths that are told apart; all below count as the last."""
SURPRISE = (0.05, 0.15, 0.35, 0.7, 1.2, 2.0, 3.5)
"""Bounds of the classes of claims, in nats: the first one holds claims of above 95 %."""
CLAIMS = np.exp(-np.array([0.02, 0.1, 0.25, 0.5, 0.95, 1.6, 2.7, 5.0]))
"""A claim amid each class."""
TREES = 32.0
"""Trees that are remembered: each new one takes the place of an old one."""
RARE = 1 / 8
"""Most that one step may take the place of: that of a drafter which is seldom asked."""
PRIOR_RATIO = 1.0
"""Survivors that the claims are trusted for, before there is evidence."""
PRIOR_CELL = 2.0
"""Nodes that a class of claims is taken to be as right as the others, before there is evidence."""

Array = NDArray[np.float64]
"""(depths, classes of claims)."""


class Evidence(NamedTuple):
    """What came of a node that was verified.

    Attributes:
        depth: of the node, at least 1.
        log_prob: what the drafter claimed for its path.
        has_survived: whether it was accepted.
    """

    depth: int
    log_prob: float
    has_survived: bool


def cell_of(depth: int, log_prob: float) -> tuple[int, int]:
    """Where a node is counted: (depth, class of claims).

    >>> cell_of(1, -0.01), cell_of(99, -9.0)
    ((0, 0), (15, 7))
    """
    nats = -log_prob
    return min(depth, DEPTHS) - 1, sum(nats > bound for bound in SURPRISE)


class Survival:
    """What one drafter's claims are worth."""

    def __init__(self) -> None:
        shape = (DEPTHS, len(CLAIMS))
        self._tried, self._claimed, self._survived = np.zeros((3, *shape))
        self._trees = 0.0
        self._worth = self._estimate()

    @property
    def table(self) -> Array:
        """The probability to survive, by depth and class of claims."""
        return self._worth

    def of_tree(self, tree: TokenTree) -> list[float]:
        """The probability to survive of each node; never more than of the node above it."""
        found = [1.0]
        table = self._worth
        nodes = zip(tree.depths, tree.log_probs, tree.parents, strict=True)
        for depth, log_prob, parent in [*nodes][1:]:
            found.append(min(found[parent], float(table[cell_of(depth, log_prob)])))
        return found

    def learn(self, trees: Sequence[Iterable[Evidence]], gap: int = 1) -> None:
        """Take what came of some trees of one step.

        Args:
            trees: for each, its nodes that were verified.
            gap: steps since the drafter's last evidence. What is old counts less.
        """
        if not trees:
            return
        share = len(trees) / TREES
        forgotten = min(max(RARE, share), 1 - (1 - min(share, 0.5)) ** gap)
        for counts in (self._tried, self._claimed, self._survived):
            counts *= 1 - forgotten
        self._trees *= 1 - forgotten
        for tree in trees:
            self._trees += 1
            for depth, log_prob, has_survived in tree:
                cell = cell_of(depth, log_prob)
                self._tried[cell] += 1
                self._claimed[cell] += math.exp(log_prob)
                self._survived[cell] += has_survived
        if self._trees > TREES:
            for counts in (self._tried, self._claimed, self._survived):
                counts *= TREES / self._trees
            self._trees = TREES
        self._worth = self._estimate()

    def _estimate(self) -> Array:
        """Each class on its own, as far as it is known; else the depth; else all that is known."""
        ratio = (self._survived.sum() + PRIOR_RATIO) / (self._claimed.sum() + PRIOR_RATIO)
        survived = self._survived.sum(axis=1, keepdims=True)
        claimed = self._claimed.sum(axis=1, keepdims=True)
        ratios = (survived + PRIOR_RATIO * ratio) / (claimed + PRIOR_RATIO)
        prior = np.minimum(CLAIMS * ratios, 1.0)
        worth = (self._survived + PRIOR_CELL * prior) / (self._tried + PRIOR_CELL)
        return np.asarray(worth)
