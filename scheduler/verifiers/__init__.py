"""Verifiers decide which path of a token tree the LLM agrees with, so that its law is the LLM's.

A verifier gets a tree, the LLM's processed probabilities behind any node it asks for, and a
:class:`~specinfer.scheduler.verifiers.chance.Chance`. Which verifier is exact for which proposals
stands in :data:`VERIFIERS`; any other pair is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from specinfer.scheduler.token_tree import TokenTree
from specinfer.scheduler.verifiers.chance import Chance, Probabilities

Rows = Callable[[int], Probabilities]
"""The LLM's probabilities of the token behind a node."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What one verification yields.

    Attributes:
        nodes: the accepted path, without the root.
        tokens: the tokens of these nodes, and one more that is the LLM's own.
    """

    nodes: list[int]
    tokens: list[int]


Verify = Callable[[TokenTree, Rows, Chance, int], Accepted]
"""Of a tree, given the LLM's rows, answers, and the position of the token behind the root."""


def follow(tree: TokenTree, next_token: Callable[[int], int]) -> Accepted:
    """Walk from the root along the LLM's own tokens for as long as the tree has them.

    Args:
        tree: N nodes.
        next_token: the LLM's token behind a node; asked for visited nodes only.

    >>> tree = TokenTree(5)
    >>> _ = tree.add(tree.add(0, 7), 8), tree.add(0, 9)
    >>> follow(tree, [7, 8, 4, 1].__getitem__)
    Accepted(nodes=[1, 2], tokens=[7, 8, 4])
    """
    nodes: list[int] = []
    token = next_token(0)
    while (child := tree.child(nodes[-1] if nodes else 0, token)) is not None:
        nodes.append(child)
        token = next_token(child)
    return Accepted(nodes, [*(tree.tokens[node] for node in nodes), token])
