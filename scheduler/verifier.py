"""Verifiers decide which path of a token tree the LLM agrees with.

Source: Miao et al., SpecInfer, ASPLOS 2024, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specinfer.scheduler.token_tree import TokenTree


@dataclass(frozen=True, slots=True)
class Accepted:
    """What one verification yields.

    Attributes:
        nodes: the accepted path, without the root.
        tokens: the tokens of these nodes, and one more that is the LLM's own.
    """

    nodes: list[int]
    tokens: list[int]


def verify_greedy(tree: TokenTree, predicted: Sequence[int]) -> Accepted:
    """Follow the LLM's likeliest token from the root for as long as the tree has it.

    Args:
        tree: N nodes.
        predicted: (N,) the LLM's likeliest token behind each node.

    >>> tree = TokenTree(5)
    >>> _ = tree.add(tree.add(0, 7), 8), tree.add(0, 9)
    >>> verify_greedy(tree, [7, 8, 4, 1])
    Accepted(nodes=[1, 2], tokens=[7, 8, 4])
    """
    nodes: list[int] = []
    node, token = 0, predicted[0]
    while (child := tree.child(node, token)) is not None:
        nodes.append(child)
        node, token = child, predicted[child]
    return Accepted(nodes, [*(tree.tokens[n] for n in nodes), token])
