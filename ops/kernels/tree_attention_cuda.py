"""Tree attention on a GPU, and its plan; see ``tree_attention.cu``."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from specinfer.ops.kernels.cuda import TYPES, launch

FILE = "tree_attention.cu"
LARGEST_HEAD = 256
THREADS = 128


def plan_attention(
    positions: Tensor,
    request: Tensor,
    prefix_len: Tensor,
    chain_len: Tensor,
    num_nodes: Tensor,
    pages: Tensor,
    tree: Tensor,
    ancestors: Tensor,
    keys: Tensor,
    seen: Tensor,
    extents: Tensor,
) -> None:
    """See :func:`specinfer.ops.attention.plan_attention`; a block for each request."""
    launch(
        FILE,
        "plan_attention",
        (len(prefix_len),),
        THREADS,
        [
            positions,
            request,
            np.int64(len(positions)),
            prefix_len,
            chain_len,
            num_nodes,
            pages,
            np.int64(pages.stride(0)),
            tree,
            np.int64(tree.stride(0)),
            ancestors,
            np.int64(ancestors.stride(0)),
            keys,
            np.int64(keys.stride(0)),
            seen,
            np.int64(seen.stride(0)),
            extents,
        ],
    )


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
    """See :func:`specinfer.ops.attention.tree_attention`; a block for each row and head.

    Args:
        q: (rows, heads x size), columns of a wider matrix or not.
        k: (slots, kv_heads, size) of a layer, contiguous.
        v: as ``k``.
        keys: of the plan, as are ``seen`` and ``extents``.
        seen: (rows, words).
        extents: (requests, 4).
        out: as ``q``, written.
        scale: multiplies the scores.
    """
    _, kv_heads, size = k.shape
    heads = q.shape[1] // size
    launch(
        FILE,
        f"tree_attention<{TYPES[q.dtype]}>",
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
            out,
            np.int64(out.stride(0)),
            np.int32(kv_heads),
            np.int32(heads // kv_heads),
            np.int32(size),
            np.float32(scale),
        ],
    )
