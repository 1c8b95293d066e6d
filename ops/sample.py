"""The likeliest tokens of logits, with their log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from specinfer.ops.kernels import vocabulary_cuda
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


def _fits_gpu(arrays: Mapping[str, Tensor]) -> bool:
    logits, tokens = arrays["logits"], arrays["tokens"]
    return vocabulary_cuda.fits(logits, tokens.shape[1] if tokens.dim() > 1 else 1)


def _workspace() -> Tensor:
    stream = torch.cuda.current_stream()
    return vocabulary_cuda.own_workspace(stream.device, stream.cuda_stream)


@top_k.variant("cuda", accepts=_fits_gpu)
def _top_k_on_gpu(logits: Tensor, tokens: Tensor, log_probs: Tensor) -> None:
    vocabulary_cuda.top_k(logits, tokens, log_probs, _workspace())


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


@likeliest.variant("cuda", accepts=_fits_gpu)
def _likeliest_on_gpu(logits: Tensor, tokens: Tensor) -> None:
    vocabulary_cuda.likeliest(logits, tokens, _workspace())
