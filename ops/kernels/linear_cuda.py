"""Products of few rows with a weight on a CUDA card.

With few rows a product costs what it takes to read the weight, and kernels of our own come nearer
to that than a library that is made for all sizes: one in front of them need not be through when
they begin, the gate of a layer needs no launch of its own.

:func:`linear` is for up to :data:`FEW` rows. :func:`wide_linear` takes any number, on an H100's
tensor cores, and gives each row the same bits however many there are; with more than a few rows the
library is a little faster.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from specinfer.ops.kernels.cuda import TYPES, launch

FEW, FEW_STEP, FEW_SHARED_BYTES = 8, 32, 64 << 10
"""Rows; what is summed over is a multiple of the step."""

WIDE_STEP = 64
WIDE = {16: 16, 32: 32, 48: 48, 64: 64, 96: 48, 128: 64}
"""Rows that the other kernel takes, and how many of them at once."""

MOST_ROWS = max(WIDE)

WIDE_LINES = 128
"""Rows of the weight that a block of it has."""

ENOUGH_BLOCKS = 256
"""What is summed over is cut, if there are fewer blocks."""

MOST_PARTS = 8
"""Blocks of a cluster."""


def fits(x: Tensor, weight: Tensor, out: Tensor) -> bool:
    """Whether :func:`linear` or :func:`gated_linear` can compute this.

    Args:
        x: (rows, in).
        weight: (features, in).
        out: (rows, features), or half of that.
    """
    return 0 < len(x) <= FEW and _is_regular(x, weight, out, FEW_STEP)


def fits_wide(x: Tensor, weight: Tensor, out: Tensor) -> bool:
    """Whether :func:`wide_linear` can compute this; rows may be any."""
    return _is_regular(x, weight, out, WIDE_STEP) and _has_groups(x.device)


def _is_regular(x: Tensor, weight: Tensor, out: Tensor, step: int) -> bool:
    return (
        x.shape[1] % step == 0
        and x.dtype in (torch.float16, torch.bfloat16)
        and weight.is_contiguous()
        and out.stride(1) == x.stride(1) == 1
        and all(t.data_ptr() % 16 == 0 for t in (x, weight))
        and x.stride(0) % 8 == 0
    )


@cache
def _has_groups(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) == (9, 0)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """See :func:`specinfer.ops.linear.linear`; where :func:`fits`."""
    _launch_few(x, weight, bias, out, is_gated=False)


def gated_linear(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """See :func:`specinfer.ops.fused.gated_linear`; where :func:`fits`."""
    _launch_few(x, weight, None, out, is_gated=True)


def _launch_few(
    x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, *, is_gated: bool
) -> None:
    launch(
        "linear.cu",
        f"linear<{TYPES[x.dtype]}, {str(is_gated).lower()}>",
        (-(-out.shape[1] // (8 if is_gated else 16)),),
        256,
        _arguments(x, weight, bias, out),
        shared_bytes=FEW_SHARED_BYTES,
    )


def wide_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, *, is_gated: bool = False
) -> None:
    """The same for any rows, where :func:`fits_wide`; a row's bits do not depend on the others."""
    for start in range(0, len(x), MOST_ROWS):
        rows = slice(start, start + MOST_ROWS)
        _launch_wide(x[rows], weight, bias, out[rows], is_gated)


def _launch_wide(
    x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, is_gated: bool
) -> None:
    lines = WIDE_LINES // 2 if is_gated else WIDE_LINES
    blocks = -(-out.shape[1] // lines)
    cluster = parts(blocks)
    most, at_once = next((most, once) for most, once in WIDE.items() if most >= len(x))
    stages = 4 if most <= 64 else 3
    launch(
        "linear_wide.cu",
        f"wide_linear<{TYPES[x.dtype]}, {most}, {at_once}, {str(is_gated).lower()}>",
        (cluster, blocks),
        256,
        _arguments(x, weight, bias, out),
        shared_bytes=stages * (WIDE_LINES + most) * WIDE_STEP * x.itemsize,
        cluster=cluster,
    )


def parts(blocks: int) -> int:
    """How many blocks of a cluster share what is summed over, whatever the rows are.

    >>> parts(32), parts(96), parts(250)
    (8, 4, 2)
    """
    count = 1
    while count < MOST_PARTS and blocks * count < ENOUGH_BLOCKS:
        count *= 2
    return count


def _arguments(
    x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor
) -> list[Tensor | np.generic]:
    return [
        x,
        np.int64(x.stride(0)),
        weight,
        np.uint64(0) if bias is None else bias,
        out,
        np.int64(out.stride(0)),
        np.int32(len(x)),
        np.int32(out.shape[1]),
        np.int32(x.shape[1]),
    ]
