"""How likely a guess is accepted at one position of a text, given the token that stands there.

The LLM has probabilities ``p``, an SSM ``q``, and the token ``y`` was emitted. What is not known is
which tokens the SSM drew and what the coins said. The law of the text does not depend on that (this
is what exactness means), so a text that was written without any speculation tells how often each
verifier would have accepted its tokens.

Multi-step speculative sampling (Miao et al., SpecInfer, ASPLOS 2024, theorem 4.2): trial ``j``
emits ``y`` with probability ``min(T(y), q(y))``, where ``T`` is what the rejections before it left
of ``p``. Acceptance, given ``y``, is the sum of this over the trials, each times the probability
that it is reached, divided by ``p(y)``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float64]

SURE = 1 - 1e-9
"""Above this an acceptance is taken for certain."""


def multi_step(p: Probabilities, q: Probabilities, token: int, count: int) -> list[float]:
    """Acceptance by ``verify_mss`` of independent draws.

    Args:
        p: (vocabulary,) the LLM's probabilities.
        q: (vocabulary,) the SSM's.
        token: that was emitted; ``p`` of it is above 0.
        count: most draws.

    Returns:
        (count,) the probability that one of the first 1, 2, ... draws was accepted, given that the
        token was emitted.

    >>> [round(a, 3) for a in multi_step(np.array([0.5, 0.5]), np.array([0.75, 0.25]), 1, 3)]
    [0.5, 0.625, 0.719]
    """
    target, reached, emitted, found = p, 1.0, 0.0, list[float]()
    for _ in range(count):
        emitted += reached * min(target[token], q[token])
        found.append(min(1.0, float(emitted / p[token])))
        left = np.maximum(target - q, 0.0)
        mass = left.sum()
        if mass <= 0 or found[-1] > SURE:
            break
        reached *= mass
        target = left / mass
    return found + [found[-1]] * (count - len(found))


def without_replacement(
    p: Probabilities,
    q: Probabilities,
    token: int,
    count: int,
    histories: int,
    generator: np.random.Generator,
) -> tuple[list[float], float]:
    """Acceptance by ``verify_mss_without_replacement`` of draws that are all different.

    What a rejection leaves depends on which token was rejected, so the sum goes over all histories.
    It is estimated: each history is drawn from the law of rejected tokens, and what it says of the
    acceptance is exact. The first draw needs no history.

    Args:
        p: (vocabulary,) the LLM's probabilities.
        q: (vocabulary,) the SSM's.
        token: that was emitted; ``p`` of it is above 0.
        count: most draws.
        histories: drawn ones.
        generator: draws them.

    Returns:
        (count,) estimates, without bias, of the same as :func:`multi_step` returns; and the
        standard error of the last one.
    """
    first = multi_step(p, q, token, 1)
    if first[0] > SURE or count == 1:
        return first * count, 0.0
    drawn = np.array([_history(p, q, token, count, generator) for _ in range(histories)])
    error = drawn[:, -1].std(ddof=1) / np.sqrt(histories) if histories > 1 else np.nan
    return drawn.mean(0).tolist(), float(error)


def _history(
    p: Probabilities, q: Probabilities, token: int, count: int, generator: np.random.Generator
) -> list[float]:
    """Acceptance by draw, given one history of rejected tokens, if all were rejected."""
    target, drawn_from, reached, emitted, found = p, q, 1.0, 0.0, list[float]()
    for number in range(count):
        kept = np.minimum(target, drawn_from)
        emitted += reached * kept[token]
        found.append(min(1.0, float(emitted / p[token])))
        rejected = drawn_from - kept
        mass = rejected.sum()
        if mass <= 0 or found[-1] > SURE or number == count - 1:
            break
        sums = np.cumsum(rejected)
        lost = int(np.searchsorted(sums, generator.random() * sums[-1], side="right"))
        left = target - kept
        if left.sum() <= 0 or drawn_from[lost] >= 1:
            break
        reached *= mass
        target = left / left.sum()
        drawn_from = drawn_from.copy()
        drawn_from[lost] = 0.0
        drawn_from /= drawn_from.sum()
    return found + [found[-1]] * (count - len(found))


def independent(likely: float, count: int) -> list[float]:
    """Naive sampling: whether the LLM's own token is among independent draws.

    Args:
        likely: the SSM's probability of the token.
        count: most draws.

    >>> independent(0.5, 3)
    [0.5, 0.75, 0.875]
    """
    return [1 - (1 - likely) ** (number + 1) for number in range(count)]


def among(rank: int, count: int) -> list[float]:
    """Whether the token is among the first 1, 2, ... of an order in which it has this rank.

    >>> among(1, 3)
    [0.0, 1.0, 1.0]
    """
    return [float(rank < number + 1) for number in range(count)]
