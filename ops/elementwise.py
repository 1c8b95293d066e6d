"""Operators that treat every element alike: sums and activations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from specinfer.ops.kernels import rowwise_cuda
from specinfer.ops.operator import Operator, Shape, Signature, expect
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.task import task

_EACH = ("rows", "features")
_ONE = {"x": _EACH, "out": _EACH}
_PAIR = {"x": _EACH, "y": _EACH, "out": _EACH}


def _infer_pair(x: Shape, y: Shape) -> Signature:
    expect(x == y, f"x is {x} and y is {y}, expected the same shape")
    return Signature(x)


def _infer_one(x: Shape) -> Signature:
    return Signature(x)


def _infer_gelu(x: Shape, *, approximate: str = "none") -> Signature:
    expect(approximate in ("none", "tanh"), f"approximate is {approximate!r}: none or tanh")
    return Signature(x)


@task(x=R, y=R, out=WD, pure=True, axes=_PAIR)
def add(x: Tensor, y: Tensor, out: Tensor) -> None:
    """``out = x + y``."""
    torch.add(x, y, out=out)


@task(x=R, y=R, out=WD, pure=True, axes=_PAIR)
def silu_mul(x: Tensor, y: Tensor, out: Tensor) -> None:
    """``out = silu(x) * y``: the gate of a SwiGLU layer (Shazeer, 2020)."""
    torch.ops.aten.silu.out(x, out=out)
    out.mul_(y)


@task(x=R, out=WD, pure=True, axes=_ONE)
def gelu(x: Tensor, out: Tensor, approximate: Any) -> None:
    """Gaussian error linear unit, exact or by its approximation with tanh."""
    torch.ops.aten.gelu.out(x, approximate=approximate, out=out)


@task(x=R, out=WD, pure=True, axes=_ONE)
def relu(x: Tensor, out: Tensor) -> None:
    """``out = max(x, 0)``."""
    torch.clamp_min(x, 0, out=out)


add.variant("cuda")(rowwise_cuda.add)
silu_mul.variant("cuda")(rowwise_cuda.silu_mul)
gelu.variant("cuda")(rowwise_cuda.gelu)
relu.variant("cuda")(rowwise_cuda.relu)

ADD = Operator("add", _infer_pair, (add,))
SILU_MUL = Operator("silu_mul", _infer_pair, (silu_mul,))
GELU = Operator("gelu", _infer_gelu, (gelu,))
RELU = Operator("relu", _infer_one, (relu,))
