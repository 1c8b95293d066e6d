"""Products of few rows with a weight on a CUDA card.

With few rows a product costs what it takes to read the weight, and kernels of our own come nearer
to that than a library that is made for all sizes: one in front of them need not be through when
they begin, the gate of a layer needs no launch of its own.

:func:`few_linear` is for up to :data:`FEW` rows. :func:`streamed_linear` takes more, on an H100,
and gives each row the same bits however many there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from math import log2

import numpy as np
import torch
from torch import Tensor

from specinfer.ops.kernels.cuda import TYPES, launch, matrix_map

FEW, FEW_STEP, FEW_SHARED_BYTES = 8, 32, 64 << 10
"""Rows; what is summed over is a multiple of the step."""

STEP, TILE_ROWS = 64, 64
"""What a tile of the other kernel has: numbers of the sum, and rows of x."""

MOST_ROWS = 2 * TILE_ROWS
"""Rows that a launch of it takes."""

STREAMED_BYTES, MOST_STAGES = 200 << 10, 8
"""Shared memory of a block, and steps that it brings ahead at most."""

_BARRIER_BYTES = 16
"""Of a stage."""

WIDTHS = {False: ((64, 2), (48, 2), (64, 1)), True: ((48, 2), (64, 1), (48, 1))}
"""Features of a block, gated or not: of one product, and how many of these."""

PARTS = (1, 2, 4)
"""Blocks that may share a sum."""


def fits(x: Tensor, weight: Tensor, out: Tensor) -> bool:
    """Whether :func:`few_linear` can compute this.

    Args:
        x: (rows, in).
        weight: (features, in).
        out: (rows, features), or half of that.
    """
    return 0 < len(x) <= FEW and _is_regular(x, weight, out, FEW_STEP)


def fits_streamed(x: Tensor, weight: Tensor, out: Tensor) -> bool:
    """Whether :func:`streamed_linear` can compute this; rows may be any."""
    return (
        _is_regular(x, weight, out, STEP)
        and weight.shape[0] % 8 == 0
        and out.stride(0) % 2 == out.data_ptr() % 4 == 0
        and _has_groups(x.device)
    )


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


def try_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, *, is_gated: bool = False
) -> bool:
    """Compute a product by the kernel that is best for its rows; whether there is one.

    See :func:`specinfer.ops.linear.linear` and :func:`specinfer.ops.fused.gated_linear`.

    Args:
        x: (rows, in).
        weight: (features, in); gated twice as many.
        bias: (features,); not for gates.
        out: (rows, features), written.
        is_gated: whether it is the first half of a SwiGLU layer.
    """
    if fits(x, weight, out):
        few_linear(x, weight, bias, out, is_gated=is_gated)
    elif len(x) <= MOST_ROWS and fits_streamed(x, weight, out):
        streamed_linear(x, weight, bias, out, is_gated=is_gated)
    else:
        return False
    return True


def few_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, *, is_gated: bool = False
) -> None:
    """See :func:`try_linear`; where :func:`fits`."""
    launch(
        "linear.cu",
        f"linear<{TYPES[x.dtype]}, {str(is_gated).lower()}>",
        (-(-out.shape[1] // (8 if is_gated else 16)),),
        256,
        [x, np.int64(x.stride(0)), weight, *_rest(x, bias, out)],
        shared_bytes=FEW_SHARED_BYTES,
    )


def streamed_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, *, is_gated: bool = False
) -> None:
    """See :func:`try_linear`; where :func:`fits_streamed`, for any rows.

    A row's bits do not depend on the others. Rows are taken :data:`MOST_ROWS` at a time, and the
    weight is read for each so many of them.
    """
    how = cut(out.shape[1], x.shape[1], is_gated)
    weight_map = matrix_map(weight, how.width, STEP)
    for start in range(0, len(x), MOST_ROWS):
        some, to = x[start : start + MOST_ROWS], out[start : start + MOST_ROWS]
        tiles = -(-len(some) // TILE_ROWS)
        stage = (tiles * TILE_ROWS + how.lines) * STEP * x.itemsize
        stages = min(MOST_STAGES, STREAMED_BYTES // stage)
        instance = f"{how.piece}, {how.pieces}, {tiles}, {stages}, {str(is_gated).lower()}"
        x_map = matrix_map(some, tiles * TILE_ROWS, STEP)
        launch(
            "linear_streamed.cu",
            f"streamed_linear<{TYPES[x.dtype]}, {instance}>",
            (how.parts, -(-out.shape[1] // how.width)),
            tiles * 128 + 32,
            [weight_map, x_map, *_rest(some, bias, to)],
            shared_bytes=stages * (stage + _BARRIER_BYTES),
            cluster=how.parts,
        )


@dataclass(frozen=True, slots=True)
class Cut:
    """How :func:`streamed_linear` shares out a product.

    Attributes:
        piece: features of one product on the tensor cores.
        pieces: such products of a block.
        parts: blocks that share a sum.
        is_gated: whether there are two lines of the weight for each feature.
    """

    piece: int
    pieces: int
    parts: int
    is_gated: bool

    @property
    def width(self) -> int:
        """Features of a block."""
        return self.piece * self.pieces

    @property
    def lines(self) -> int:
        """Lines of the weight of a block."""
        return self.width * (1 + self.is_gated)


PROCESSORS = 132
"""Multiprocessors of an H100, for which sums are cut wherever they run: bits must not differ."""

BEGINNING = 30_000
"""Numbers of the weight that a block could read in the time that it takes to begin and end."""

MEETING = 0.06
"""What it costs that blocks meet, for each doubling of their number; a share of all."""


@cache
def cut(features: int, inner: int, is_gated: bool) -> Cut:
    """The best cut of a weight, whatever the rows are.

    A block has a multiprocessor for itself, so there should be about as many as those.

    >>> cut(12288, 4096, is_gated=False).width, cut(4096, 11008, is_gated=False).parts
    (96, 2)
    """
    cuts = (
        Cut(piece, pieces, parts, is_gated)
        for (piece, pieces), parts in product(WIDTHS[is_gated], PARTS)
    )

    def cost(one: Cut) -> float:
        blocks = -(-features // one.width) * one.parts
        rounds = -(-blocks // PROCESSORS)
        numbers = inner / one.parts * one.lines + BEGINNING
        return rounds * numbers * (1 + MEETING * log2(one.parts))

    return min(cuts, key=cost)


def _rest(x: Tensor, bias: Tensor | None, out: Tensor) -> list[Tensor | np.generic]:
    """Arguments behind x and the weight."""
    return [
        np.uint64(0) if bias is None else bias,
        out,
        np.int64(out.stride(0)),
        np.int32(len(x)),
        np.int32(out.shape[1]),
        np.int32(x.shape[1]),
    ]
