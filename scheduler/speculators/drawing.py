"""How a drafter picks the children of a node from its probabilities.

Which way is exact depends on the verifier (:mod:`specinfer.scheduler.verifiers.choice`):

* ``top_k``: the likeliest tokens. Certain, so nothing is to be known of their probabilities.
* ``iid``: independent draws; a token may come twice, and then is tried twice.
* ``without_replacement``: draws of which no two are the same.
* ``race``: the tokens that the noise of the position favours, which the LLM looks at, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specinfer.scheduler.token_tree import Proposal, TokenTree
from specinfer.scheduler.verifiers.chance import Chance, Probabilities

DRAWS = ("top_k", "iid", "without_replacement", "race")


@dataclass(frozen=True, slots=True)
class Drawn:
    """Children of a node.

    Attributes:
        tokens: in the order they were drawn; ``iid`` draws may repeat.
        log_probs: how likely the drafter takes each to be right, as natural logarithms.
        row: the probabilities that they were drawn from; None if they were certain.
    """

    tokens: list[int]
    log_probs: list[float]
    row: Probabilities | None


def draw(how: str, row: Probabilities, count: int, chance: Chance, position: int) -> Drawn:
    """Draw at most ``count`` children; fewer where fewer tokens are possible.

    Args:
        how: one of :data:`DRAWS`.
        row: (vocabulary,) the drafter's processed probabilities.
        count: draws.
        chance: answers.
        position: of the children in the text.
    """
    if how == "race":
        shares = chance.likely_tokens(position, row, count)
        return Drawn([t for t, _ in shares], [_log(share) for _, share in shares], None)
    if how == "top_k":
        tokens = _likeliest(row, count)
    elif how == "iid":
        tokens = [chance.draw(row) for _ in range(count)]
    else:
        tokens, left = [], row.copy()
        while len(tokens) < count and (total := left.sum()) > 0:
            tokens.append(chance.draw(left / total))
            left[tokens[-1]] = 0.0
    return Drawn(tokens, [_log(row[token]) for token in tokens], None if how == "top_k" else row)


def _likeliest(row: Probabilities, count: int) -> list[int]:
    found = np.argpartition(-row, count)[:count] if count < len(row) else np.arange(len(row))
    found = found[np.argsort(-row[found], kind="stable")]
    return [int(token) for token in found if row[token] > 0]


def _log(probability: float) -> float:
    return float(np.log(max(probability, 1e-30)))


def grow(tree: TokenTree, node: int, drawn: Drawn) -> list[int]:
    """Add what was drawn as children of ``node``; return the new ones, each once."""
    row = None
    if drawn.row is not None:
        row = len(tree.rows)
        tree.rows.append(drawn.row)
    children = []
    for order, (token, log_prob) in enumerate(zip(drawn.tokens, drawn.log_probs, strict=True)):
        proposal = Proposal(0, order, row)
        path = tree.log_probs[node] + log_prob
        children.append(tree.add(node, token, path, [proposal]))
    return list(dict.fromkeys(children))
