"""Reading all weights of a model, tensor by tensor, and refusing those that do not fit it.

Which tensors a model wants, and in what shapes, is the caller's to say; where they go afterwards
(shards, devices) is too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch

from specinfer.models.checkpoint import Checkpoint
from specinfer.models.errors import CheckpointError
from specinfer.models.progress import Progress, silent

# Tables that can be computed, which some writers put among the weights.
_NOT_WEIGHTS = ("*.rotary_emb.inv_freq", "*.attention.bias", "*.masked_bias")


def load_weights(
    checkpoint: Checkpoint,
    expected: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    progress: Progress = silent,
) -> dict[str, torch.Tensor]:
    """Read the expected tensors; names and shapes are all checked before the first is read.

    Args:
        checkpoint: where they are.
        expected: the model's tensors, Hugging Face name -> shape.
        dtype: the floating type to load them in.
        progress: told after every tensor.

    Returns:
        Name -> contiguous CPU tensor of the expected shape, in the order of ``expected``.

    Raises:
        CheckpointError: a tensor is missing, has another shape, holds NaN or infinity, or is in
            the checkpoint but not in the model.
    """
    _check_names(checkpoint, expected)
    for name, shape in expected.items():
        if (found := checkpoint.shape(name)) != tuple(shape):
            raise CheckpointError(
                f"{checkpoint.path}: {name}: expected shape {tuple(shape)}, found {found}"
            )
    total = sum(math.prod(shape) for shape in expected.values()) * dtype.itemsize
    weights: dict[str, torch.Tensor] = {}
    done = 0
    for name in expected:
        weights[name] = tensor = checkpoint.tensor(name, dtype)
        if not _is_finite(tensor):
            raise CheckpointError(
                f"{checkpoint.path}: {name}: expected finite numbers, found NaN or infinity"
                f" in {dtype}, shape {tuple(tensor.shape)}"
            )
        done += tensor.nbytes
        progress(name, done, total)
    return weights


def _check_names(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]]) -> None:
    names = checkpoint.names()
    if missing := [name for name in expected if name not in names]:
        raise CheckpointError(
            f"{checkpoint.path}: {missing[0]}: expected shape {tuple(expected[missing[0]])},"
            f" found no such tensor ({len(missing)} missing in all)"
        )
    ignored = {"lm_head.weight"} if checkpoint.config.get("tie_word_embeddings") else set()
    extra = sorted(
        name
        for name in names - set(expected) - ignored
        if not any(fnmatchcase(name, pattern) for pattern in _NOT_WEIGHTS)
    )
    if extra:
        raise CheckpointError(
            f"{checkpoint.path}: {extra[0]}: expected no such tensor in this model, found one of"
            f" shape {checkpoint.shape(extra[0])} ({len(extra)} too many in all)"
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    if tensor.numel() == 0:
        return True
    low, high = tensor.aminmax()  # one pass, no temporary; NaN comes through it
    return bool(low.isfinite() and high.isfinite())
