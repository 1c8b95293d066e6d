"""From a row of logits to the probabilities that are sampled from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specinfer.scheduler.sampling.params import SamplingParams


def distribution(
    logits: Tensor, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]
) -> Tensor:
    """Processed probabilities (vocabulary,) float64; at temperature 0 all on the likeliest token.

    Args:
        logits: (vocabulary,).
        params: of the request.
        prompt: its tokens.
        output: what was written behind it, a tree's path included.
    """
    if params.is_greedy:
        row = torch.zeros(len(logits), dtype=torch.float64)
        row[logits.argmax()] = 1
        return row
    return torch.softmax(logits.double() / params.temperature, -1)
