"""Multi-step speculative sampling: each proposal is accepted or rejected on its own.

Source: Miao et al., SpecInfer, ASPLOS 2024, algorithm 2, VerifyStochastic, and theorem 4.2. What
the theorem needs, and the paper leaves open, decides the shape of the code:

* A *trial* is a proposal, not a child: a token drawn twice is tried twice.
* A rejection leaves the residual of the LLM's probabilities for the next trial.
* The probabilities in the ratio are those that the token was really drawn from. A proposal that was
  certain (an n-gram's, the likeliest tokens of an SSM) was drawn from a point mass.
"""

from __future__ import annotations

import numpy as np

from specinfer.scheduler.token_tree import TokenTree
from specinfer.scheduler.verifiers import Accepted, Rows
from specinfer.scheduler.verifiers.chance import Chance, Probabilities


def verify_mss(tree: TokenTree, rows: Rows, chance: Chance, position: int) -> Accepted:
    """Accept and reject independent draws (with replacement), node by node.

    Args:
        tree: what was guessed; each drafter's draws at a node are independent.
        rows: the LLM's probabilities behind a node.
        chance: tosses the coins.
        position: of the token behind the root.
    """
    return _verify(tree, rows, chance, is_with_replacement=True)


def verify_mss_without_replacement(
    tree: TokenTree, rows: Rows, chance: Chance, position: int
) -> Accepted:
    """Accept and reject draws of which each drafter's at a node are all different.

    A rejected token cannot have been drawn again: the next draw of that drafter was from what is
    left of its probabilities. Independent draws serve, too: those that repeat one are left out, and
    the others are draws without replacement.

    Args:
        tree: what was guessed; each drafter's draws at a node are without replacement, in order.
        rows: the LLM's probabilities behind a node.
        chance: tosses the coins.
        position: of the token behind the root.
    """
    return _verify(tree, rows, chance, is_with_replacement=False)


def _verify(tree: TokenTree, rows: Rows, chance: Chance, *, is_with_replacement: bool) -> Accepted:
    nodes: list[int] = []
    while True:
        node = nodes[-1] if nodes else 0
        target, rejected = rows(node), dict[int, list[int]]()
        for trial in tree.trials(node):
            token = tree.tokens[trial.node]
            seen = () if is_with_replacement else rejected.setdefault(trial.drafter, [])
            if token in seen:
                continue
            drawn_from = _left(tree.rows[trial.row], seen) if trial.row is not None else None
            weight = 1.0 if drawn_from is None else drawn_from[token]
            if chance.accept(min(1.0, target[token] / weight)):
                nodes.append(trial.node)
                break
            target = _without(target, token) if drawn_from is None else residual(target, drawn_from)
            rejected.setdefault(trial.drafter, []).append(token)
        else:
            return Accepted(nodes, [*(tree.tokens[n] for n in nodes), chance.draw(target)])


def residual(target: Probabilities, drawn_from: Probabilities) -> Probabilities:
    """What is left to sample from after a draw was rejected.

    >>> residual(np.array([0.5, 0.5]), np.array([0.75, 0.25])).tolist()
    [0.0, 1.0]
    """
    return _normalised(np.maximum(target - drawn_from, 0.0), target)


def _without(target: Probabilities, token: int) -> Probabilities:
    """The residual after a certain proposal was rejected."""
    left = target.copy()
    left[token] = 0.0
    return _normalised(left, target)


def _left(row: Probabilities, seen: list[int] | tuple[()]) -> Probabilities:
    """What a drafter drew from, given what it had drawn before."""
    if not seen:
        return row
    left = row.copy()
    left[seen] = 0.0
    return _normalised(left, row)


def _normalised(left: Probabilities, otherwise: Probabilities) -> Probabilities:
    """Probabilities again; where nothing is left a rejection was impossible but for rounding."""
    total = left.sum()
    return left / total if total > 0 else otherwise
