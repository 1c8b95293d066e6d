"""Tree attention: every row sees its request's committed prefix, its chain and its ancestors.

One operator serves decoding (a tree of one node), prompt chunks (a chain), draft frontiers and the
verification of trees (Miao et al., SpecInfer, ASPLOS 2024, section 4.2: the topology-aware causal
mask). What a row may see is worked out once a step by :func:`plan_attention`, for all layers.

The variants ``invariant`` and ``cuda-invariant`` give a token the same bits whatever else is in the
step, be it decoded alone or a node of a tree.

K/V lie in slots of a pool; ``kv`` of a layer has fields ``k`` and ``v`` of (1, slots, kv_heads,
head_size). Keys are stored turned to their position, so an accepted token moves as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from specinfer.ops.kernels import attention_cuda, cpu, invariant_cuda, rowwise_cuda
from specinfer.ops.operator import Operator, Shape, Signature, expect
from specinfer.runtime.arrays import HOST
from specinfer.runtime.privilege import RW, WD, R
from specinfer.runtime.task import task

PAGE_SLOTS = 16
"""Slots in a page of the K/V pool."""
WORK_SIZE = attention_cuda.WORK_SIZE
"""Numbers that say how attention's work is shared out, where it is."""


class HeadShape(NamedTuple):
    """What all attention layers of a model have in common.

    Attributes:
        kv_heads: of the K/V pool.
        group: query heads of a K/V head.
        size: features of a head.
        dtype: of queries, keys and values.
    """

    kv_heads: int
    group: int
    size: int
    dtype: torch.dtype


def scratch_bytes(heads: HeadShape, device: str) -> int:
    """Bytes of scratch for each K/V head that :func:`tree_attention` wants on a device."""
    if device == HOST:
        return 1
    return -(
        -attention_cuda.most_scratch(heads.size, heads.dtype, torch.device(device))
        // heads.kv_heads
    )


_POOL = (None, None, "groups", None)
"""A pool may be divided by whole K/V heads, with the query heads that use them."""


@task(
    rows=R,
    requests=R,
    pages=R,
    tree=R,
    ancestors=R,
    keys=RW,
    seen=WD,
    extents=WD,
    work=WD,
    pure=True,
)
def plan_attention(
    rows: SimpleNamespace,
    requests: SimpleNamespace,
    pages: Tensor,
    tree: Tensor,
    ancestors: Tensor,
    keys: Tensor,
    seen: Tensor,
    extents: Tensor,
    work: Tensor,
    heads: HeadShape,
) -> None:
    """Work out which slots each request's rows look at, and which of them each row sees.

    Rows of a request lie together, requests in order. A request without rows is padding.

    Args:
        rows: ``positions``, ``request``: (rows,) int64.
        requests: ``prefix_len``, ``chain_len``, ``num_nodes``: (requests,) int64; committed
            tokens, leading uncommitted nodes that are a chain, all uncommitted nodes.
        pages: (requests, pages) int64, the pages that hold the committed tokens.
        tree: (requests, nodes) int64, slots of the uncommitted nodes: chain first, then tree.
        ancestors: (rows, words) int64 bit masks: bit j of a row: the j-th node behind the chain is
            the row itself or its ancestor.
        keys: (requests, keys) int32, written: slots of prefix, chain and tree, in this order.
        seen: (rows, words) int64 bit masks, written: bit j of a row: it sees the j-th uncommitted
            node of its request. The prefix is seen by all.
        extents: (requests, 4) int64, written: first row, row behind the last, number of keys, and
            how many of the last of them ``seen`` is to be asked about: none, if all rows see all.
        work: (WORK_SIZE,) int32, written where the processor's attention shares its work out.
        heads: of the layers that this is the plan of.
    """
    positions, request = rows.positions.numpy(), rows.request.numpy()
    extents.zero_()
    starts = np.flatnonzero(np.diff(request, prepend=-1)).tolist()
    bits = np.unpackbits(ancestors.numpy().view(np.uint8), axis=1, bitorder="little")
    all_keys, all_seen = keys.numpy(), seen.numpy().view(np.uint8)
    within_page = np.arange(PAGE_SLOTS)
    for start, stop in zip(starts, [*starts[1:], len(request)], strict=True):
        r = int(request[start])
        prefix, chain, nodes = (
            int(field[r]) for field in (requests.prefix_len, requests.chain_len, requests.num_nodes)
        )
        used = pages[r, : -(-prefix // PAGE_SLOTS)].numpy()
        all_keys[r, :prefix] = (used[:, None] * PAGE_SLOTS + within_page).ravel()[:prefix]
        all_keys[r, prefix : prefix + nodes] = tree[r, :nodes].numpy()
        sees = np.zeros((stop - start, 8 * all_seen.shape[1]), np.bool_)
        sees[:, :chain] = np.arange(prefix, prefix + chain) <= positions[start:stop, None]
        sees[:, chain:nodes] = bits[start:stop, : nodes - chain]
        all_seen[start:stop] = np.packbits(sees, axis=1, bitorder="little")
        asked = 0 if sees[:, :nodes].all() else nodes
        extents[r] = torch.tensor([start, stop, prefix + nodes, asked])


@plan_attention.variant("cuda")
def _plan_attention_on_gpu(
    rows: SimpleNamespace,
    requests: SimpleNamespace,
    pages: Tensor,
    tree: Tensor,
    ancestors: Tensor,
    keys: Tensor,
    seen: Tensor,
    extents: Tensor,
    work: Tensor,
    heads: HeadShape,
) -> None:
    kv_heads, group, size, dtype = heads
    attention_cuda.plan_attention(
        rows.positions,
        rows.request,
        requests.prefix_len,
        requests.chain_len,
        requests.num_nodes,
        pages,
        tree,
        ancestors,
        keys,
        seen,
        extents,
        work,
        kv_heads,
        group,
        attention_cuda.tile_for(len(rows.positions), len(extents), group, size, dtype),
    )


@task(
    k=R,
    v=R,
    slots=R,
    kv=RW,
    pure=True,
    axes={"k": (None, "groups"), "v": (None, "groups"), "kv": _POOL},
)
def write_kv(k: Tensor, v: Tensor, slots: Tensor, kv: SimpleNamespace) -> None:
    """Store each row's key and value in its slot; k, v (rows, kv_heads x head_size)."""
    shape = (k.shape[0], *kv.k.shape[2:])
    kv.k[0].index_copy_(0, slots, k.view(shape))
    kv.v[0].index_copy_(0, slots, v.view(shape))


@task(
    q=R,
    kv=R,
    keys=R,
    seen=R,
    extents=R,
    work=R,
    scratch=RW,
    out=WD,
    pure=True,
    axes={
        "q": (None, "groups"),
        "kv": _POOL,
        "scratch": ("groups", None),
        "out": (None, "groups"),
    },
)
def tree_attention(
    q: Tensor,
    kv: SimpleNamespace,
    keys: Tensor,
    seen: Tensor,
    extents: Tensor,
    work: Tensor,
    scratch: Tensor,
    out: Tensor,
    scale: float,
) -> None:
    """Attention of every row over the keys it sees, request by request.

    Args:
        q: (rows, heads x head_size), turned to their positions.
        kv: the layer's pool; query head h uses K/V head ``h * kv_heads // heads``.
        keys: see :func:`plan_attention`, as are ``seen``, ``extents`` and ``work``.
        seen: which uncommitted nodes each row sees.
        extents: rows and keys of each request, and how many of these ``seen`` is asked about.
        work: how the work is shared out, where it is.
        scratch: (kv_heads, bytes) uint8, for partial results, where there are any.
        out: (rows, heads x head_size), written.
        scale: multiplies the scores.
    """
    kv_heads, size = kv.k.shape[2:]
    for r, (start, stop, num_keys, asked) in enumerate(extents.tolist()):
        if start == stop:  # a request that is padding
            continue
        slots = keys[r, :num_keys]
        k = kv.k[0].index_select(0, slots).permute(1, 2, 0)  # (kv_heads, size, keys)
        v = kv.v[0].index_select(0, slots).transpose(0, 1)  # (kv_heads, keys, size)
        # The heads that share a K/V head become rows of one product: K/V are read once.
        query = q[start:stop].view(stop - start, kv_heads, -1, size).transpose(0, 1)
        query = query.reshape(kv_heads, -1, size)
        scores = torch.baddbmm(query.new_empty(()), query, k, beta=0, alpha=scale)
        if asked:
            by_row = scores.view(kv_heads, stop - start, -1, num_keys)
            by_row[..., num_keys - asked :].masked_fill_(
                _unseen(seen[start:stop], asked), -torch.inf
            )
        mixed = torch.bmm(torch.softmax(scores, -1, torch.float32).to(v.dtype), v)
        mixed = mixed.view(kv_heads, stop - start, -1, size).transpose(0, 1)
        out[start:stop].view(mixed.shape).copy_(mixed)


def _unseen(seen: Tensor, nodes: int) -> Tensor:
    """(rows, 1, nodes): which of the first nodes each row does not see."""
    bits = np.unpackbits(seen.numpy().view(np.uint8), axis=1, count=nodes, bitorder="little")
    return torch.from_numpy(bits == 0)[:, None]


@write_kv.variant("numba", view=Tensor.numpy)
def _write_kv_compiled(k: Any, v: Any, slots: Any, kv: SimpleNamespace) -> None:
    cpu.write_kv(k, v, slots, kv.k, kv.v)


@write_kv.variant("cuda")
def _write_kv_cuda(k: Tensor, v: Tensor, slots: Tensor, kv: SimpleNamespace) -> None:
    rowwise_cuda.write_kv(k, v, slots, kv.k[0], kv.v[0])


def _is_decoding(arrays: Mapping[str, Any]) -> bool:
    """Few rows a request: with more, the matrix products of the reference are faster."""
    return bool(arrays["q"].shape[0] <= 2 * arrays["extents"].shape[0])


@tree_attention.variant("numba", view=Tensor.numpy, accepts=_is_decoding)
def _tree_attention_compiled(
    q: Any,
    kv: SimpleNamespace,
    keys: Any,
    seen: Any,
    extents: Any,
    work: Any,
    scratch: Any,
    out: Any,
    scale: float,
) -> None:
    cpu.tree_attention(q, kv.k, kv.v, keys, seen, extents, out, scale)


@tree_attention.variant("cuda")
def _tree_attention_on_gpu(
    q: Tensor,
    kv: SimpleNamespace,
    keys: Tensor,
    seen: Tensor,
    extents: Tensor,
    work: Tensor,
    scratch: Tensor,
    out: Tensor,
    scale: float,
) -> None:
    kv_heads, size = kv.k.shape[2:]
    group = q.shape[1] // (kv_heads * size)
    tile = attention_cuda.tile_for(len(q), len(extents), group, size, q.dtype)
    k, v = kv.k[0], kv.v[0]
    attention_cuda.tree_attention(q, k, v, keys, seen, extents, work, scratch, out, scale, tile)


@tree_attention.variant("invariant")
def _tree_attention_by_rows(
    q: Tensor,
    kv: SimpleNamespace,
    keys: Tensor,
    seen: Tensor,
    extents: Tensor,
    work: Tensor,
    scratch: Tensor,
    out: Tensor,
    scale: float,
) -> None:
    """What a row sees, in order of depth, is all that its result depends on."""
    kv_heads, size = kv.k.shape[2:]
    for r, (start, stop, num_keys, asked) in enumerate(extents.tolist()):
        prefix, nodes = keys[r, : num_keys - asked], keys[r, num_keys - asked : num_keys]
        for row in range(start, stop):
            unseen = _unseen(seen[row : row + 1], asked).flatten()
            slots = torch.cat([prefix, nodes[~unseen]])
            k = kv.k[0].index_select(0, slots).permute(1, 2, 0)
            v = kv.v[0].index_select(0, slots).transpose(0, 1)
            query = q[row].reshape(kv_heads, -1, size)
            scores = torch.bmm(query, k).float() * scale
            mixed = torch.bmm(torch.softmax(scores, -1).to(v.dtype), v)
            out[row].view(mixed.shape).copy_(mixed)


@tree_attention.variant("cuda-invariant")
def _tree_attention_invariant(
    q: Tensor,
    kv: SimpleNamespace,
    keys: Tensor,
    seen: Tensor,
    extents: Tensor,
    work: Tensor,
    scratch: Tensor,
    out: Tensor,
    scale: float,
) -> None:
    invariant_cuda.tree_attention(q, kv.k[0], kv.v[0], keys, seen, extents, out, scale)


@task(kv=RW, pure=True, axes={"kv": _POOL})
def commit_kv(kv: SimpleNamespace, moves: Tensor) -> None:
    """Copy accepted K/V of all layers at once; moves (2, accepted) int64: from slot, to slot.

    Targets are slots of uncommitted positions, never among the sources.
    """
    sources, targets = moves
    kv.k.index_copy_(1, targets, kv.k.index_select(1, sources))
    kv.v.index_copy_(1, targets, kv.v.index_select(1, sources))


@commit_kv.variant("cuda")
def _commit_kv_on_gpu(kv: SimpleNamespace, moves: Tensor) -> None:
    if moves.shape[1]:
        here = moves.pin_memory().to(kv.k.device, non_blocking=True)
        rowwise_cuda.commit_kv(kv.k, kv.v, here)


@task(kv=RW, moves=R, pure=True, axes={"kv": _POOL})
def move_kv(kv: SimpleNamespace, moves: Tensor) -> None:
    """The same for moves that lie in a region; those that are not used go from slot 0 to slot 0."""
    commit_kv(kv, moves)


@move_kv.variant("cuda")
def _move_kv_cuda(kv: SimpleNamespace, moves: Tensor) -> None:
    rowwise_cuda.commit_kv(kv.k, kv.v, moves)


def _infer(q: Shape, k: Shape, v: Shape, *, head_size: int, scale: float) -> Signature:
    for name, x in (("q", q), ("k", k), ("v", v)):
        expect(
            len(x) == 2 and isinstance(x[1], int) and x[1] % head_size == 0,
            f"{name} is {x}, expected (rows, heads x {head_size})",
        )
    expect(
        k == v and k[0] == q[0], f"q, k, v are {q}, {k}, {v}: expected k as v, as many rows as q"
    )
    expect(scale > 0, f"scale is {scale}, expected above 0")
    heads, kv_heads = int(q[1]) // head_size, int(k[1]) // head_size
    expect(heads % kv_heads == 0, f"{heads} heads, expected a multiple of the {kv_heads} K/V heads")
    return Signature(q)


ATTENTION = Operator("attention", _infer, (write_kv, tree_attention))
