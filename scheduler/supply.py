"""What a drafter will probably propose, before it is asked: nodes by depth and claim.

Drafting costs time even if nothing is kept, so whether to ask must follow from earlier trees. They
are averaged in classes of claims: what a class is worth may change at once
(:mod:`specinfer.scheduler.survival`), and the average is worth something else.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from specinfer.scheduler.survival import CLAIMS, DEPTHS, Array, cell_of

SLOW = 1 / 32
"""The weight of a new tree."""


class Supply:
    """The average tree of one drafter.

    Attributes:
        num_trees: that were seen.
        depth: deepest level that was ever proposed.
    """

    def __init__(self) -> None:
        self.num_trees = 0
        self.depth = 0
        self._nodes = np.zeros((DEPTHS, len(CLAIMS)))

    @property
    def table(self) -> Array:
        """Nodes of a tree, by depth and class of claims."""
        return self._nodes

    def learn(
        self, nodes: Iterable[tuple[int, float]], depth: int | None, least: float | None
    ) -> None:
        """Take a tree.

        Args:
            nodes: (depth, log-probability claimed) of each, the root not counted.
            depth: that the tree was limited to; what lies deeper was not seen. None: not limited.
            least: log-probability below which nodes were left out for want of room; None: none.
        """
        counts = np.zeros_like(self._nodes)
        for level, log_prob in nodes:
            counts[cell_of(level, log_prob)] += 1
            self.depth = max(self.depth, min(level, DEPTHS))
        seen = counts[:depth]
        known, step = self._nodes[:depth], max(SLOW, 1 / (1 + self.num_trees))
        if least is not None:
            classes = cell_of(1, least)[1] + 1
            known, seen = known[:, :classes], seen[:, :classes]
        known += step * (seen - known)
        self.num_trees += 1
