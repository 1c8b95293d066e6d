"""The likeliest tokens of logits, with their log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from specinfer.runtime.privilege import WD, R
from specinfer.runtime.task import task


@task(
    logits=R,
    tokens=WD,
    log_probs=WD,
    pure=True,
    axes={"logits": ("rows", None), "tokens": ("rows", None), "log_probs": ("rows", None)},
)
def top_k(logits: Tensor, tokens: Tensor, log_probs: Tensor) -> None:
    """The likeliest tokens of each row, likeliest first.

    Args:
        logits: (rows, vocabulary).
        tokens: (rows, k) int64, written.
        log_probs: (rows, k) float32, written: natural logarithms of their probabilities.
    """
    wide = logits.float()
    values, indices = wide.topk(tokens.shape[1], dim=-1)
    tokens.copy_(indices)
    torch.sub(values, wide.logsumexp(-1, keepdim=True), out=log_probs)


@task(
    logits=R,
    tokens=WD,
    pure=True,
    axes={"logits": ("rows", None), "tokens": ("rows",)},
)
def likeliest(logits: Tensor, tokens: Tensor) -> None:
    """The likeliest token of each row, of equal ones the first.

    Args:
        logits: (rows, vocabulary).
        tokens: (rows,) int64, written.
    """
    torch.argmax(logits, dim=-1, out=tokens)
