"""Matrix products with weights in the blocked layout that oneDNN wants.

A bfloat16 product reorders a plain weight each time it is read; packed once, it reads it as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 16
"""The number of rows that the layout is chosen for: a token tree."""


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this machine multiplies packed weights of that type faster than plain ones."""
    return bool(
        dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def pack(weight: Tensor) -> Tensor:
    """A copy of a (features, in) weight in blocked layout; it has the same shape."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return packed


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x weight^T (+ bias)`` with a packed weight; x (rows, in), result (rows, features)."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result
