"""Token trees: what speculators guess, stored flat with parents before children.

Node 0 is the root: the last token that is known to be right. A tree of only the root speculates
nothing. Trees of several speculators are merged by token path (Miao et al., SpecInfer, ASPLOS 2024,
definition 3.2): the merged tree holds every path of every tree, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specinfer.models.batch import WORD_BITS, ancestor_bits
from specinfer.scheduler.errors import TreeError


class Proposal(NamedTuple):
    """That a drafter proposed a node.

    Attributes:
        drafter: number of the speculator.
        order: the how-manieth of its proposals at this parent it was.
        row: of the tree's ``rows``, the probabilities that it was drawn from; None: it was certain.
    """

    drafter: int
    order: int
    row: int | None = None


class Trial(NamedTuple):
    """A proposal at a node, as a verifier tries it: the same child may be tried more than once.

    Attributes:
        node: the child.
        drafter: number of the speculator.
        row: the probabilities that it was drawn from; None: it was certain.
    """

    node: int
    drafter: int
    row: int | None


@dataclass(slots=True)
class TokenTree:
    """A tree of speculated tokens that grows by :meth:`add`.

    Attributes:
        tokens: token of each node.
        parents: parent of each node, before the node itself; -1 for the root.
        depths: distance of each node from the root.
        log_probs: the drafter's natural log-probability of the path to each node; 0 where unknown.
        proposals: who proposed each node, in the order they did. A drafter notes those that it drew
            at random; :func:`merge` fills in the others.
        rows: processed probabilities (vocabulary,) that proposals were drawn from.

    >>> tree = TokenTree(5)
    >>> left = tree.add(0, 7)
    >>> tree.add(left, 8), tree.add(0, 7), tree.path(2)
    (2, 1, [5, 7, 8])
    """

    root: int
    tokens: list[int] = field(init=False)
    parents: list[int] = field(init=False)
    depths: list[int] = field(init=False)
    log_probs: list[float] = field(init=False)
    proposals: list[list[Proposal]] = field(init=False)
    rows: list[NDArray[np.float64]] = field(init=False, repr=False)
    _children: list[dict[int, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.tokens, self.parents, self.depths = [self.root], [-1], [0]
        self.log_probs, self.proposals, self._children = [0.0], [[]], [{}]
        self.rows = []

    def __len__(self) -> int:
        """Nodes, the root among them."""
        return len(self.tokens)

    def add(
        self, parent: int, token: int, log_prob: float = 0.0, proposals: Iterable[Proposal] = ()
    ) -> int:
        """Add a child, or join the one that is there already; return its node.

        Raises:
            TreeError: there is no such parent.
        """
        if not 0 <= parent < len(self):
            raise TreeError(f"parent {parent} of token {token}: expected a node below {len(self)}")
        node = self._children[parent].get(token)
        if node is None:
            node = len(self)
            self._children[parent][token] = node
            self.tokens.append(token)
            self.parents.append(parent)
            self.depths.append(self.depths[parent] + 1)
            self.log_probs.append(log_prob)
            self.proposals.append([])
            self._children.append({})
        self.proposals[node] += proposals
        return node

    def child(self, node: int, token: int) -> int | None:
        """The child of ``node`` with this token, if there is one."""
        return self._children[node].get(token)

    def children(self, node: int) -> list[int]:
        """The children of ``node``, in the order they were added."""
        return list(self._children[node].values())

    def trials(self, node: int) -> list[Trial]:
        """The proposals at ``node``: drafter by drafter, in the order of their draws.

        A child without a proposal is one that was certain.
        """
        found = [
            (drafter, order, child, row)
            for child in self._children[node].values()
            for drafter, order, row in self.proposals[child] or [Proposal(0, child)]
        ]
        found.sort(key=itemgetter(0, 1))
        return [Trial(child, drafter, row) for drafter, _, child, row in found]

    def path(self, node: int) -> list[int]:
        """The tokens from the root to ``node``."""
        tokens = []
        while node >= 0:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]

    def follow(self, tokens: Iterable[int]) -> list[int]:
        """The nodes met by walking from the root along ``tokens``, as far as the tree goes."""
        nodes: list[int] = []
        for token in tokens:
            node = self.child(nodes[-1] if nodes else 0, token)
            if node is None:
                break
            nodes.append(node)
        return nodes

    def restricted(self, nodes: Sequence[int]) -> TokenTree:
        """The tree of these nodes and the root.

        Args:
            nodes: in increasing order; with each, what is above it.
        """
        kept = TokenTree(self.root)
        kept.rows = self.rows
        node_of = {0: 0}
        for node in nodes:
            parent, token = node_of[self.parents[node]], self.tokens[node]
            proposals = self.proposals[node]
            node_of[node] = kept.add(parent, token, self.log_probs[node], proposals)
        return kept

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(nodes, nodes) bool: whether row's node sees column's: itself and what lies above it."""
        words = -(-len(self) // WORD_BITS)
        bits = ancestor_bits(np.array(self.parents, np.int64), words).astype("<i8", copy=False)
        flags = np.unpackbits(bits.view(np.uint8), axis=1, count=len(self), bitorder="little")
        return flags.view(np.bool_)


def merge(trees: Sequence[TokenTree]) -> TokenTree:
    """The tree of every path of every tree; tree i is what drafter i proposed.

    Every node keeps all of its proposals; its log-probability is the first proposer's.

    Raises:
        TreeError: no tree, or trees with different roots.
    """
    if len({tree.root for tree in trees}) != 1:
        raise TreeError(f"roots {[tree.root for tree in trees]}: expected trees with one root")
    merged = TokenTree(trees[0].root)
    for drafter, tree in enumerate(trees):
        node_of, num_children = [0], [0] * len(tree)
        first_row = len(merged.rows)
        merged.rows += tree.rows
        nodes = zip(tree.parents, tree.tokens, tree.log_probs, tree.proposals, strict=True)
        for parent, token, log_prob, drawn in islice(nodes, 1, None):
            proposals = [
                Proposal(drafter, order, None if row is None else first_row + row)
                for _, order, row in drawn
            ] or [Proposal(drafter, num_children[parent])]
            num_children[parent] += 1
            node_of.append(merged.add(node_of[parent], token, log_prob, proposals))
    return merged
