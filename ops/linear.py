"""Matrix products with a weight: ``y = x W^T (+ b)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from specinfer.ops.kernels import linear_cuda, packed
from specinfer.ops.operator import Operator, Shape, Signature, expect
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.task import task


def _infer(x: Shape, *, features: int) -> Signature:
    expect(len(x) == 2 and isinstance(x[1], int), f"x is {x}, expected (rows, features)")
    return Signature((x[0], features), {"weight": (features, x[1]), "bias": (features,)})


@task(
    x=R,
    weight=R,
    out=WD,
    pure=True,
    axes={"x": ("rows", "in"), "weight": ("features", "in"), "out": ("rows", "features")},
    sums=("in",),
)
def linear(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """``out = x weight^T``; x (rows, in), weight (features, in), out (rows, features)."""
    torch.mm(x, weight.t(), out=out)


@task(
    x=R,
    weight=R,
    bias=R,
    out=WD,
    pure=True,
    axes={
        "x": ("rows", None),
        "weight": ("features", None),
        "bias": ("features",),
        "out": ("rows", "features"),
    },
)
def linear_bias(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """``out = x weight^T + bias``; bias (features,)."""
    torch.addmm(bias, x, weight.t(), out=out)


def _is_packed(arrays: Mapping[str, Any]) -> bool:
    return bool(arrays["weight"].is_mkldnn)


@linear.variant("packed", accepts=_is_packed)
def _linear_packed(x: Tensor, weight: Tensor, out: Tensor) -> None:
    out.copy_(packed.product(x, weight))


@linear_bias.variant("packed", accepts=_is_packed)
def _linear_bias_packed(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    out.copy_(packed.product(x, weight, bias))


@linear.variant("cuda")
def _linear_cuda(x: Tensor, weight: Tensor, out: Tensor) -> None:
    if linear_cuda.fits(x, weight, out):
        linear_cuda.linear(x, weight, None, out)
    else:
        torch.mm(x, weight.t(), out=out)


@linear_bias.variant("cuda")
def _linear_bias_cuda(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    if linear_cuda.fits(x, weight, out):
        linear_cuda.linear(x, weight, bias, out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)


LINEAR = Operator(
    "linear",
    _infer,
    (linear_bias,),
    weights=("weight",),
    optional_weights=("bias",),
    without=(linear,),
)
