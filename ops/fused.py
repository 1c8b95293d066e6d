"""Tasks that do what several others do, in one launch: for processors where launches cost.

No operator lowers to them: a pass over programs (:mod:`specinfer.models.fusion`) finds the others
and puts these in their place. The references call those others, so that they round where they do.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from specinfer.ops.attention import write_kv
from specinfer.ops.elementwise import add, silu_mul
from specinfer.ops.kernels import linear_cuda, rowwise_cuda
from specinfer.ops.norm import rms_norm
from specinfer.ops.rotary import rotary
from specinfer.runtime.privilege import RW, WD, R
from specinfer.runtime.task import task

_BY_ROWS = ("rows", None)


@task(
    x=R,
    y=R,
    weight=R,
    total=WD,
    out=WD,
    pure=True,
    axes=dict.fromkeys(("x", "y", "total", "out"), _BY_ROWS),
)
def add_rms_norm(
    x: Tensor, y: Tensor, weight: Tensor, total: Tensor, out: Tensor, eps: float
) -> None:
    """``total = x + y``, and ``out`` its norm: where one half of a layer meets the next.

    Args:
        x: (rows, features).
        y: as ``x``.
        weight: (features,).
        total: as ``x``, written.
        out: as ``x``, written.
        eps: see :func:`specinfer.ops.norm.rms_norm`.
    """
    add(x, y, total)
    rms_norm(total, weight, out, eps)


add_rms_norm.variant("cuda")(rowwise_cuda.add_rms_norm)


@task(
    q=R,
    k=R,
    v=R,
    angles=R,
    slots=R,
    kv=RW,
    out=WD,
    pure=True,
    axes={
        **dict.fromkeys(("q", "k", "v", "out"), (None, "groups")),
        "kv": (None, None, "groups", None),
    },
)
def rotary_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    angles: Tensor,
    slots: Tensor,
    kv: SimpleNamespace,
    out: Tensor,
    head_size: int,
) -> None:
    """Turn queries to ``out``, and store keys, turned, and values in their slots.

    Args:
        q: (rows, heads x head_size).
        k: (rows, kv_heads x head_size).
        v: as ``k``.
        angles: see :func:`specinfer.ops.rotary.rotary_angles`.
        slots: (rows,) int64.
        kv: the layer's pool, see :mod:`specinfer.ops.attention`.
        out: as ``q``, written.
        head_size: features of a head.
    """
    rotary(q, angles, out, head_size)
    turned = k.new_empty(k.shape)
    rotary(k, angles, turned, head_size)
    write_kv(turned, v, slots, kv)


@rotary_write.variant("cuda")
def _rotary_write_cuda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    angles: Tensor,
    slots: Tensor,
    kv: SimpleNamespace,
    out: Tensor,
    head_size: int,
) -> None:
    rowwise_cuda.rotary_write(q, k, v, angles, slots, kv.k[0], kv.v[0], out, head_size)


@task(x=R, weight=R, out=WD, pure=True, axes={"x": _BY_ROWS, "out": _BY_ROWS})
def gated_linear(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """``out = silu(x gate^T) * (x up^T)``: the first half of a SwiGLU layer.

    Args:
        x: (rows, in).
        weight: (2 inner, in): the rows of the gate, then those of what it lets through.
        out: (rows, inner), written.
    """
    gate, up = torch.mm(x, weight.t()).chunk(2, dim=1)
    silu_mul(gate, up, out)


@gated_linear.variant("cuda")
def _gated_linear_cuda(x: Tensor, weight: Tensor, out: Tensor) -> None:
    if linear_cuda.try_linear(x, weight, None, out, is_gated=True):
        return
    gate, up = torch.mm(x, weight.t()).chunk(2, dim=1)
    rowwise_cuda.silu_mul(gate, up, out)


@gated_linear.variant("cuda-invariant")
def _gated_linear_invariant(x: Tensor, weight: Tensor, out: Tensor) -> None:
    if linear_cuda.fits_streamed(x, weight, out):
        linear_cuda.streamed_linear(x, weight, None, out, is_gated=True)
        return
    for row in range(len(x)):
        gate, up = torch.mm(x[row : row + 1], weight.t()).chunk(2, dim=1)
        rowwise_cuda.silu_mul(gate, up, out[row : row + 1])
