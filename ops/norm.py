"""Normalisation over the features of each row."""

from __future__ import annotations

import torch
from torch import Tensor

from specinfer.ops.kernels import cpu, rowwise_cuda
from specinfer.ops.operator import Operator, Shape, Signature, expect
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.task import task


def _infer_rms(x: Shape, *, eps: float) -> Signature:
    expect(len(x) == 2, f"x is {x}, expected (rows, features)")
    expect(eps > 0, f"eps is {eps}, expected above 0")
    return Signature(x, {"weight": (x[1],)})


_BY_ROWS = {"x": ("rows", None), "out": ("rows", None)}


@task(x=R, weight=R, out=WD, pure=True, axes=_BY_ROWS)
def rms_norm(x: Tensor, weight: Tensor, out: Tensor, eps: float) -> None:
    """``out = x / sqrt(mean(x^2) + eps) * weight``, computed in float32.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019), section 4.
    """
    wide = x.float()
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = length.square_().mul_(1 / x.shape[1]).add_(eps).rsqrt_()
    if x.dtype == torch.float32:
        torch.mul(x, scale, out=out)
    else:  # rounded before the weight is applied, as the models were trained
        out.copy_(wide.mul_(scale))
    out.mul_(weight)


rms_norm.variant("numba", view=Tensor.numpy)(cpu.rms_norm)
rms_norm.variant("cuda")(rowwise_cuda.rms_norm)


def _infer_layer_norm(x: Shape, *, eps: float) -> Signature:
    signature = _infer_rms(x, eps=eps)
    return Signature(x, {"weight": signature.weights["weight"], "bias": (x[1],)})


@task(x=R, weight=R, bias=R, out=WD, pure=True, axes=_BY_ROWS)
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, eps: float) -> None:
    """``out = (x - mean) / sqrt(variance + eps) * weight + bias``."""
    out.copy_(torch.nn.functional.layer_norm(x, weight.shape, weight, bias, eps))


layer_norm.variant("cuda")(rowwise_cuda.layer_norm)

RMS_NORM = Operator("rms_norm", _infer_rms, (rms_norm,), weights=("weight",))
LAYER_NORM = Operator("layer_norm", _infer_layer_norm, (layer_norm,), weights=("weight", "bias"))
