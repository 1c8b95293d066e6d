"""Verifiers that sample the LLM's own tokens, and follow them through the tree.

They are exact for any tree, however it was chosen: what the tree holds decides how far a step gets,
never what is written.
"""

from __future__ import annotations

from specinfer.scheduler.token_tree import TokenTree
from specinfer.scheduler.verifiers import Accepted, Rows, follow
from specinfer.scheduler.verifiers.chance import Chance


def verify_greedy(tree: TokenTree, rows: Rows, chance: Chance, position: int) -> Accepted:
    """Follow the likeliest tokens (Miao et al., SpecInfer, ASPLOS 2024, algorithm 2, VerifyGreedy).

    Args:
        tree: what was guessed.
        rows: the LLM's probabilities behind a node.
        chance: not asked.
        position: of the token behind the root.
    """
    return follow(tree, lambda node: int(rows(node).argmax()))


def verify_naive(tree: TokenTree, rows: Rows, chance: Chance, position: int) -> Accepted:
    """Follow tokens drawn independently ("naive sampling", same paper, section 4.3).

    Args:
        tree: what was guessed.
        rows: the LLM's probabilities behind a node.
        chance: draws the tokens.
        position: of the token behind the root.
    """
    return follow(tree, lambda node: chance.draw(rows(node)))


def verify_coupled(tree: TokenTree, rows: Rows, chance: Chance, position: int) -> Accepted:
    """Follow the tokens that the noise of each position picks.

    The text is a function of the seed, token for token that of sampling without speculation. A
    drafter that looks at the same noise guesses the token more often than an independent draw.

    Args:
        tree: what was guessed.
        rows: the LLM's probabilities behind a node.
        chance: picks the tokens.
        position: of the token behind the root.
    """
    return follow(tree, lambda node: chance.next_token(position + tree.depths[node], rows(node)))
