"""Attention on a CUDA card whose bits depend on nothing but what a row sees.

The kernel for speed cuts the keys as the batch asks for, and reads a tree's nodes where they lie.
This one numbers them by depth, row by row: a token's result is the same whether it is decoded alone
or verified as a node of any tree. It reads K/V once for each row and query head.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from specinfer.ops.kernels.cuda import TYPES, launch

THREADS = 256
MOST_SIZE = 256
"""Features of a head."""


def tree_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    seen: Tensor,
    extents: Tensor,
    out: Tensor,
    scale: float,
) -> None:
    """See :func:`specinfer.ops.attention.tree_attention`.

    Args:
        q: (rows, heads x size).
        k: (slots, kv_heads, size) of a layer, contiguous.
        v: as ``k``.
        keys: of the plan, as are ``seen`` and ``extents``.
        seen: (rows, words).
        extents: (requests, 4).
        out: as ``q``, written.
        scale: multiplies the scores.
    """
    _, kv_heads, size = k.shape
    if size > MOST_SIZE:
        raise ValueError(f"heads have {size} features, expected {MOST_SIZE} at most")
    heads = q.shape[1] // size
    launch(
        "attention_invariant.cu",
        f"invariant_attention<{TYPES[q.dtype]}>",
        (len(q), heads),
        THREADS,
        [
            q,
            np.int64(q.stride(0)),
            k,
            v,
            keys,
            np.int64(keys.stride(0)),
            seen,
            np.int64(seen.stride(0)),
            extents,
            np.int32(len(extents)),
            np.int32(kv_heads),
            np.int32(heads // kv_heads),
            out,
            np.int64(out.stride(0)),
            np.int32(size),
            np.float32(scale),
        ],
        shared_bytes=64 * 4 * seen.shape[1],
    )
