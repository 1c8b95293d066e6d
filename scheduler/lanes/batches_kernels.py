"""Kernels of :mod:`specinfer.scheduler.lanes.batches`: a block for each lane."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import cuda

from specinfer.models.batch import WORD_BITS
from specinfer.scheduler.lanes import places

committed = cuda.jit(device=True)(places.committed)
scratch = cuda.jit(device=True)(places.scratch)


@cuda.jit
def chain_batch(
    length,
    text,
    have,
    lane_pages,
    row_tokens,
    positions,
    request,
    slots,
    prefix_len,
    chain_len,
    num_nodes,
    pages,
    tree,
    ancestors,
    logit_rows,
):
    """See the task."""
    lane, me, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    per_lane = row_tokens.shape[0] // length.shape[0]
    first_row = lane * per_lane
    end = length[lane]
    begin = min(have[lane], end)  # an empty lane lacks nothing
    nodes = min(end - begin, per_lane)
    for i in range(me, per_lane, threads):
        row = first_row + i
        request[row] = lane
        for word in range(ancestors.shape[1]):
            ancestors[row, word] = 0
        if i < nodes:
            row_tokens[row] = text[lane, begin + i]
            positions[row] = begin + i
            slots[row] = committed(lane_pages, lane, begin + i)
        else:
            row_tokens[row] = 0
            positions[row] = begin + nodes - 1 if nodes > 0 else 0
            slots[row] = 0
    for i in range(me, tree.shape[1], threads):
        tree[lane, i] = committed(lane_pages, lane, begin + i) if i < nodes else 0
    copy_pages(lane_pages, pages, lane)
    if me == 0:
        prefix_len[lane] = begin
        chain_len[lane] = nodes
        num_nodes[lane] = nodes
        logit_rows[lane] = first_row + max(nodes - 1, 0)


@cuda.jit
def node_batch(
    length,
    tokens,
    parents,
    count,
    lane_pages,
    row_tokens,
    positions,
    request,
    slots,
    prefix_len,
    chain_len,
    num_nodes,
    pages,
    tree,
    ancestors,
    logit_rows,
    first,
    last,
    chain,
    scratch_start,
    scratch_nodes,
):
    """Nodes ``first`` to ``last - 1``; ``chain``: 1 if the root is one of them, or else 0."""
    lane, me, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    per_lane = row_tokens.shape[0] // length.shape[0]
    end = length[lane]
    stop = min(last, count[lane])  # behind the last node that is there
    uncommitted = max(stop - 1 + chain, 0) if stop > 0 else 0
    for i in range(me, per_lane, threads):
        row, node = lane * per_lane + i, first + i
        request[row] = lane
        logit_rows[row] = row
        if node < stop:
            row_tokens[row] = tokens[lane, node]
            positions[row] = end - 1 + write_path(parents, lane, node, ancestors, row)
            if node == 0:
                slots[row] = committed(lane_pages, lane, end - 1)
            else:
                slots[row] = scratch(scratch_start, scratch_nodes, lane, node)
        else:
            row_tokens[row] = 0
            slots[row] = 0
            write_path(parents, lane, 0, ancestors, row)
            positions[row] = end - 1 + depth_of(parents, lane, stop - 1) if stop > first else 0
    for i in range(me, tree.shape[1], threads):
        node = i + 1 - chain
        if i >= uncommitted:
            tree[lane, i] = 0
        elif node == 0:
            tree[lane, i] = committed(lane_pages, lane, end - 1)
        else:
            tree[lane, i] = scratch(scratch_start, scratch_nodes, lane, node)
    copy_pages(lane_pages, pages, lane)
    if me == 0:
        prefix_len[lane] = end - chain if stop > 0 else 0
        chain_len[lane] = chain if stop > 0 else 0
        num_nodes[lane] = uncommitted


@cuda.jit(device=True)
def copy_pages(lane_pages, pages, lane):
    """A lane's pages, and 0 behind them."""
    for i in range(cuda.threadIdx.x, pages.shape[1], cuda.blockDim.x):
        pages[lane, i] = lane_pages[lane, i] if i < lane_pages.shape[1] else 0


@cuda.jit(device=True)
def write_path(parents, lane, node, ancestors, row):
    """Set the bits of a node and of what is above it, without the root; return its depth.

    On the way up nodes only become smaller: each word is written once, the last one first.
    """
    word = ancestors.shape[1] - 1
    bits = np.int64(0)
    depth = 0
    while node > 0:
        bit = node - 1
        while word > bit // WORD_BITS:
            ancestors[row, word] = bits
            bits = np.int64(0)
            word -= 1
        bits |= np.int64(1) << (bit % WORD_BITS)
        node = parents[lane, node]
        depth += 1
    while word >= 0:
        ancestors[row, word] = bits
        bits = np.int64(0)
        word -= 1
    return depth


@cuda.jit(device=True)
def depth_of(parents, lane, node):
    """Distance of a node from the root."""
    depth = 0
    while node > 0:
        node = parents[lane, node]
        depth += 1
    return depth
