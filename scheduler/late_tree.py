"""Trees that are made only if somebody looks at them.

Iterations on a device give flat lists of what each drafter proposed. Statistics need a few counts
of these, each time; a merged :class:`~specinfer.scheduler.token_tree.TokenTree` costs more than all
else that the host does for an iteration, and only a person who watches wants to see it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from specinfer.scheduler.token_tree import TokenTree, merge


@dataclass(frozen=True, slots=True)
class Tally:
    """What is counted of a verification.

    Attributes:
        num_nodes: of the tree, the root not counted.
        offered: depths at which the path got to a node above that had children.
        proposed: nodes by the drafter that proposed them.
        accepted: accepted nodes by the drafter that had proposed them.
    """

    num_nodes: int
    offered: Sequence[int]
    proposed: Counter[int]
    accepted: Counter[int]

    @classmethod
    def of(cls, tree: TokenTree, nodes: Sequence[int]) -> Tally:
        """Of a tree, and the accepted path without the root."""
        return cls(
            len(tree) - 1,
            [depth for depth, node in enumerate([0, *nodes], start=1) if tree.children(node)],
            Counter(_drafters(tree, range(len(tree)))),
            Counter(_drafters(tree, nodes)),
        )


@dataclass(frozen=True, slots=True)
class FlatTree:
    """What a drafter proposed: no two children of a node have the same token.

    Attributes:
        tokens: of the nodes, the root first.
        parents: each before its children; that of the root does not matter.
    """

    tokens: Sequence[int]
    parents: Sequence[int]

    def walk(self, tokens: Iterable[int]) -> Iterator[bool]:
        """Of the root, and of each node that is met along these tokens: whether it has children.

        >>> list(FlatTree([5, 7, 8, 9], [-1, 0, 0, 1]).walk([7, 9, 3]))
        [True, True, False]
        """
        given, node = iter(tokens), 0
        while True:
            children = [n for n in range(node + 1, len(self.parents)) if self.parents[n] == node]
            yield bool(children)
            token = next(given, None)
            found = [n for n in children if self.tokens[n] == token]
            if not found:
                return
            (node,) = found

    def tree(self, root: int) -> TokenTree:
        """The same as a tree."""
        tree = TokenTree(root)
        for token, parent in zip(self.tokens[1:], self.parents[1:], strict=True):
            tree.add(parent, token)
        return tree


@dataclass(frozen=True)
class LateTree:
    """The union of what drafters proposed behind the same root.

    Attributes:
        root: the token.
        drafts: one for each drafter, in the order of their numbers.
        num_nodes: of the union, the root not counted.
    """

    root: int
    drafts: Sequence[FlatTree]
    num_nodes: int

    @cached_property
    def tree(self) -> TokenTree:
        """The union."""
        return merge([draft.tree(self.root) for draft in self.drafts] or [TokenTree(self.root)])

    def tally(self, tokens: Sequence[int]) -> Tally:
        """What is counted, the tree not made.

        Args:
            tokens: of the accepted nodes.
        """
        walks = [list(draft.walk(tokens)) for draft in self.drafts]
        return Tally(
            self.num_nodes,
            [
                depth + 1
                for depth in range(1 + len(tokens))
                if any(walk[depth] for walk in walks if depth < len(walk))
            ],
            Counter({i: len(d.tokens) - 1 for i, d in enumerate(self.drafts) if len(d.tokens) > 1}),
            Counter({i: len(walk) - 1 for i, walk in enumerate(walks) if len(walk) > 1}),
        )


def _drafters(tree: TokenTree, nodes: Iterable[int]) -> Iterator[int]:
    """Who proposed these nodes, each drafter once for each node."""
    for node in nodes:
        yield from {proposal.drafter for proposal in tree.proposals[node]}
