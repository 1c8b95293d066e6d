"""Matrix products with a weight: ``y = x W^T (+ b)``.

A library sums in another order for other numbers of rows. The variants ``invariant`` and
``cuda-invariant`` give a row the same bits however many there are, row by row where there is no
kernel for that.
"""

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
    if not linear_cuda.try_linear(x, weight, None, out):
        torch.mm(x, weight.t(), out=out)


@linear_bias.variant("cuda")
def _linear_bias_cuda(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    if not linear_cuda.try_linear(x, weight, bias, out):
        torch.addmm(bias, x, weight.t(), out=out)


@linear.variant("invariant")
def _linear_by_rows(x: Tensor, weight: Tensor, out: Tensor) -> None:
    for row in range(len(x)):
        torch.mm(x[row : row + 1], weight.t(), out=out[row : row + 1])


@linear_bias.variant("invariant")
def _linear_bias_by_rows(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    for row in range(len(x)):
        torch.addmm(bias, x[row : row + 1], weight.t(), out=out[row : row + 1])


@linear.variant("cuda-invariant")
def _linear_invariant(x: Tensor, weight: Tensor, out: Tensor) -> None:
    if linear_cuda.fits_streamed(x, weight, out):
        linear_cuda.streamed_linear(x, weight, None, out)
    else:
        _linear_by_rows(x, weight, out)


@linear_bias.variant("cuda-invariant")
def _linear_bias_invariant(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    if linear_cuda.fits_streamed(x, weight, out):
        linear_cuda.streamed_linear(x, weight, bias, out)
    else:
        _linear_bias_by_rows(x, weight, bias, out)


LINEAR = Operator(
    "linear",
    _infer,
    (linear_bias,),
    weights=("weight",),
    optional_weights=("bias",),
    without=(linear,),
)
