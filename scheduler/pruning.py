"""Cutting a tree down without changing the law of the text.

A verifier that samples the LLM's own token and follows it is exact for any tree: any nodes may go,
by whatever was seen of them. One that accepts draws by a ratio (``mss``) takes each draw to be from
its drafter's probabilities. It stays so if whether a draw is kept was decided before the draw was
looked at: draws of a node may go from the last one on, and with a draw all that hangs on it alone.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from specinfer.scheduler.token_tree import Proposal, TokenTree
from specinfer.scheduler.verifiers.choice import Verifier

FIRST = 0.75
"""What the first draw of a node is taken to be worth, of the node; each further one half of the one
before. Only the order that follows from it matters."""


def takes_any_tree(verifier: Verifier) -> bool:
    """Whether a tree may be cut by looking at it: no way to draw changes the law of the text."""
    return not verifier.biased


def limited(tree: TokenTree, nodes: int, verifier: Verifier) -> TokenTree:
    """The tree cut to so many nodes, the root not counted, as the verifier allows it.

    Args:
        tree: whole, or merged.
        nodes: decided before the tree was drawn, or the verifier takes any tree.
        verifier: of the request.
    """
    if len(tree) - 1 <= nodes:
        return tree
    if takes_any_tree(verifier):
        # What one drafter claims for a child may be more than what another does for its parent.
        reached = [0.0]
        for parent, log_prob in list(zip(tree.parents, tree.log_probs, strict=True))[1:]:
            reached.append(min(reached[parent], log_prob))
        likeliest = sorted(range(1, len(tree)), key=lambda node: -reached[node])
        return tree.restricted(sorted(likeliest[:nodes]))
    return first_draws(tree, nodes)


Draws = dict[int, list[tuple[Proposal, int]]]
"""By drafter: its draws at a node with the child that each is, the last one first."""


@dataclass(slots=True)
class _Node:
    """A node that was kept.

    Attributes:
        source: its number in the tree that is cut.
        value: that orders its draws.
        left: draws that were not looked at yet, of drafters that have a kept draw of the node.
        drafters: these drafters.
        is_waiting: whether its next draw waits for its turn.
    """

    source: int
    value: float
    left: Draws = field(default_factory=dict)
    drafters: set[int] = field(default_factory=set)
    is_waiting: bool = False


def first_draws(tree: TokenTree, nodes: int) -> TokenTree:
    """The tree of at most so many nodes that is found by looking at one draw after the other.

    Draws at a node are taken in the order in which they are verified, and which node is the next
    follows from what was taken before. So no draw is kept or dropped for what it is.

    Args:
        tree: whole, or merged.
        nodes: most nodes, the root not counted; decided before the tree was drawn.
    """
    draws = _draws(tree)
    kept, found = TokenTree(tree.root), [_Node(0, 1.0)]
    kept.rows = tree.rows
    turns: list[tuple[float, int]] = []

    def wait(node: int) -> None:
        """Have the next draw of a node wait for its turn."""
        here = found[node]
        if here.left and not here.is_waiting:
            here.is_waiting = True
            order = here.left[min(here.left)][-1][0].order
            heapq.heappush(turns, (-here.value * FIRST * 0.5**order, node))

    def join(node: int, drafter: int) -> None:
        """A drafter's draws at a node may be looked at: it has drawn the node itself."""
        here = found[node]
        if drafter not in here.drafters:
            here.drafters.add(drafter)
            if drafter in (there := draws[here.source]):
                here.left[drafter] = there[drafter]
            wait(node)

    for drafter in draws[0]:
        join(0, drafter)
    while turns and len(kept) - 1 < nodes:
        negative, node = heapq.heappop(turns)
        here = found[node]
        here.is_waiting = False
        drafter = min(here.left)
        proposal, child = here.left[drafter].pop()
        if not here.left[drafter]:
            del here.left[drafter]
        wait(node)
        added = kept.add(node, tree.tokens[child], tree.log_probs[child], [proposal])
        if added == len(found):
            found.append(_Node(child, -negative))
        join(added, drafter)
    return kept


def _draws(tree: TokenTree) -> list[Draws]:
    """Of each node."""
    found: list[Draws] = [{} for _ in range(len(tree))]
    for child in range(1, len(tree)):
        here = found[tree.parents[child]]
        # A child without a proposal was certain.
        for proposal in tree.proposals[child] or [Proposal(0, child)]:
            here.setdefault(proposal.drafter, []).append((proposal, child))
    for here in found:
        for draws in here.values():
            draws.sort(key=lambda draw: -draw[0].order)
    return found
