"""How likely the model took a token to be, and what it took to be likelier."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Of one token of an output.

    Attributes:
        token: its id.
        logprob: natural logarithm of its probability by the model itself: no parameter of sampling
            has a part in it.
        top: the likeliest tokens with the same of theirs, likeliest first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def top_logprobs(logits: Tensor, token: int, k: int) -> TokenLogprobs:
    """What a row says of the token that was written, and of the k likeliest.

    Args:
        logits: (vocabulary,) of any floating type: the row behind the token before.
        token: that was written.
        k: likeliest tokens to tell; fewer where the vocabulary is smaller.

    >>> import torch
    >>> top_logprobs(torch.tensor([0.0, -torch.inf]), 0, 1)
    TokenLogprobs(token=0, logprob=0.0, top=((0, 0.0),))
    """
    wide = logits.double()
    total = wide.logsumexp(0)
    values, tokens = (wide - total).topk(min(k, len(wide)))
    # Of equal ones the first stands first.
    top = sorted(zip(tokens.tolist(), values.tolist(), strict=True), key=lambda t: (-t[1], t[0]))
    return TokenLogprobs(token, float(wide[token] - total), tuple(top))
