"""One row of logits becomes the probabilities that the next token is drawn from.

What is done, in this order, and left out where its parameter says so:

1. on logits: bias, repetition penalty, frequency and presence penalties, bad words, and the end of
   the text while too little is written;
2. at temperature 0 the likeliest token now has all of the probability; otherwise:
3. temperature, top_k, top_p, min_p, typical_p: each on what the one before it left, whose
   probabilities sum to 1 again.

The order is that of transformers and, where that knows no such parameter, of vLLM. A cut never
parts tokens of the same probability: all of them are kept, so that the law does not depend on how
the vocabulary is numbered. (Logits in bfloat16 tie often.)

All of it is in float64, on the host: ratios and residuals of these probabilities decide what a
verifier accepts, and with vectorised loops the wide numbers cost little more than narrow ones. Only
values are sorted, never tokens, and of these only few: for ``top_p`` those that may be kept, for
``typical_p`` those near its edge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specinfer.scheduler.errors import RequestError
from specinfer.scheduler.sampling.params import SamplingParams

Row = NDArray[np.float64]

BINS = 1024
"""Of distances that are too many to sort."""


def distribution(
    logits: Tensor, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]
) -> Tensor:
    """The probabilities of the next token.

    Args:
        logits: (vocabulary,) of any floating type; left as they are.
        params: what is done with them.
        prompt: the request's tokens that were given.
        output: those that were written since. At a node of a token tree, the path's tokens too.

    Returns:
        (vocabulary,) float64 that sum to 1.

    Raises:
        RequestError: no token may be written, or a logit is no number.

    >>> distribution(torch.tensor([0.0, 2.0, 1.0]), SamplingParams(), [0], []).tolist()
    [0.0, 1.0, 0.0]
    """
    scores = _adjusted(logits, params, prompt, output)
    best = _best(scores, params)
    probabilities = np.zeros(len(scores))
    if params.is_greedy:
        probabilities[best] = 1.0
        return torch.from_numpy(probabilities)
    tokens = _top_k(scores, params.top_k)
    with np.errstate(over="ignore"):  # at a temperature near 0 all others are infinitely far away
        weights = np.exp((scores[tokens] - scores[best]) / params.temperature)
    _normalise(weights)
    if params.top_p < 1:
        _cut(weights, weights < _least_of_top(weights, params.top_p))
    if params.min_p > 0:
        _cut(weights, weights < params.min_p * weights.max())
    if params.typical_p < 1:
        _cut(weights, _is_untypical(weights, params.typical_p))
    probabilities[tokens] = weights
    return torch.from_numpy(probabilities)


def likeliest(
    logits: Tensor, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]
) -> int:
    """The token of temperature 0, without any probabilities; of equal ones the first.

    Args:
        logits: (vocabulary,) of any floating type; left as they are.
        params: what is done with them; temperature and cuts do not matter.
        prompt: the request's tokens that were given.
        output: those that were written since. At a node of a token tree, the path's tokens too.

    Raises:
        RequestError: no token may be written, or a logit is no number.

    >>> likeliest(torch.tensor([0.0, 2.0, 1.0]), SamplingParams(logit_bias={1: -1.5}), [0], [])
    2
    """
    if params.is_plain:
        return int(logits.argmax())
    return _best(_adjusted(logits, params, prompt, output), params)


def _adjusted(
    logits: Tensor, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]
) -> Row:
    """What stands before the temperature, in a row of its own."""
    scores: Row = logits.to("cpu", torch.float64, copy=True).numpy()
    for token, bias in dict(params.logit_bias).items():
        scores[token] += bias
    if params.repetition_penalty != 1:
        seen = np.fromiter({*prompt, *output}, np.int64)
        old = scores[seen]
        penalty = params.repetition_penalty
        scores[seen] = np.where(old > 0, old / penalty, old * penalty)
    if params.frequency_penalty or params.presence_penalty:
        for token, count in Counter(output).items():
            scores[token] -= params.frequency_penalty * count + params.presence_penalty
    for *before, last in params.bad_words:
        if _ends_with(prompt, output, before):
            scores[last] = -np.inf
    if len(output) < params.min_new_tokens:
        scores[list(params.end_ids)] = -np.inf
    return scores


def _ends_with(prompt: Sequence[int], output: Sequence[int], before: list[int]) -> bool:
    """Whether prompt and output end with these tokens, if there are any."""
    count = len(before)
    return not count or [*prompt[-count:], *output[-count:]][-count:] == before


def _best(scores: Row, params: SamplingParams) -> int:
    best = int(scores.argmax())
    if np.isfinite(scores[best]):
        return best
    if scores[best] == -np.inf:
        raise RequestError(
            f"sampling: none of {len(scores)} tokens may be written; expected logit_bias (on "
            f"{len(params.logit_bias)} tokens), bad_words ({len(params.bad_words)}) and "
            "min_new_tokens to leave one"
        )
    raise RequestError(f"sampling: the logit of token {best} is {scores[best]}, expected a number")


def _top_k(scores: Row, k: int) -> slice | NDArray[np.int64]:
    """The k likeliest tokens, and those that are as likely as the last of them."""
    if not 0 < k < len(scores):
        return slice(None)
    place = len(scores) - k
    return np.flatnonzero(scores >= np.partition(scores, place)[place])


def _least_of_top(weights: Row, mass: float) -> float:
    """The least probability that the likeliest tokens with this mass have."""
    # All tokens below the floor together have less than half of what may be missing.
    floor = (1 - mass) / (2 * len(weights))
    ranked = np.sort(weights[weights > floor])[::-1]
    return float(ranked[_place(np.cumsum(ranked), mass)])


def _is_untypical(weights: Row, mass: float) -> NDArray[np.bool_]:
    """The tokens but those closest to the average surprise (Meister et al., TACL 2023)."""
    distance = np.log(np.maximum(weights, np.finfo(np.float64).tiny))
    distance -= weights @ distance  # less the average: plus the average surprise
    np.abs(distance, out=distance)
    untypical: NDArray[np.bool_] = distance > _radius(distance, weights, mass)
    return untypical


def _radius(distance: Row, weights: Row, mass: float) -> float:
    """The least distance within which tokens have this mass; both rows: (tokens,)."""
    # Bins say where it is, and only what is in the right one is looked at more closely.
    while len(distance) > BINS:
        first, last = distance.min(), distance.max()
        if first == last:
            return float(first)
        scaled = distance - first
        scaled /= last - first
        scaled *= BINS
        bins = scaled.astype(np.int64)
        reached: Row = np.cumsum(np.bincount(bins, weights)).astype(np.float64)
        place = _place(reached, mass)
        mass -= reached[place - 1] if place else 0.0
        inside = np.flatnonzero(bins == place)
        distance, weights = distance[inside], weights[inside]
    order = np.argsort(distance)
    return float(distance[order[_place(np.cumsum(weights[order]), mass)]])


def _place(reached: Row, mass: float) -> int:
    """Where running sums come to a mass, rounding aside."""
    return min(int(np.searchsorted(reached, mass)), len(reached) - 1)


def _cut(weights: Row, away: NDArray[np.bool_]) -> None:
    weights *= ~away  # several times as fast as to set those that are scattered
    _normalise(weights)


def _normalise(weights: Row) -> None:
    weights /= weights.sum()
