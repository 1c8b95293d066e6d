"""Kernels of :mod:`specinfer.scheduler.lanes.trees`: a block for each lane."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import cuda, int64

TOGETHER = 32
"""Threads that look for the same node; nodes whose marks share a number."""


@cuda.jit
def begin_tree(length, text, tokens, parents, count):
    """See the task."""
    lane, me, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    end = length[lane]
    for node in range(me, tokens.shape[1], threads):
        tokens[lane, node] = text[lane, end - 1] if node == 0 and end > 0 else 0
        parents[lane, node] = -1
    if me == 0:
        count[lane] = 1 if end > 0 else 0


@cuda.jit
def grow_tree(drawn, tokens, parents, count, first, width):
    """See the task."""
    lane, me, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    frontier = drawn.shape[0] // count.shape[0]
    behind = first + frontier
    is_used = count[lane] > 0
    cuda.syncthreads()  # before it is changed
    if is_used:
        for i in range(me, frontier * width, threads):
            above = i // width
            tokens[lane, behind + i] = drawn[lane * frontier + above, i - above * width]
            parents[lane, behind + i] = first + above
        if me == 0:
            count[lane] = behind + frontier * width


def merging_bytes(nodes: int) -> int:
    """Shared memory of :func:`add_tree`, for trees of so many nodes that are added."""
    return (nodes + -(-nodes // TOGETHER)) * 8


@cuda.jit
def add_tree(tokens, parents, count, into_tokens, into_parents, into_count):
    """See the task. A node is there already if there is one with the same path.

    First all nodes are looked for at once. New ones then find their number by counting the new ones
    before them, by bits that are set.
    """
    lane, me, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    added, used = count[lane], into_count[lane]
    capacity = tokens.shape[1]
    found = cuda.shared.array(0, int64)  # (capacity,) the same node of the other tree, or -1
    marks = found[capacity:]  # bit i of number j: node j * TOGETHER + i is new
    for i in range(me, marks.shape[0], threads):
        marks[i] = 0
    for node in range(me, added, threads):
        found[node] = 0 if node == 0 else -1
    cuda.syncthreads()
    group, member = me // TOGETHER, me % TOGETHER
    for node in range(1 + group, added, threads // TOGETHER):
        for other in range(1 + member, used, TOGETHER):
            if is_same_path(tokens, parents, into_tokens, into_parents, lane, node, other):
                found[node] = other  # at most one is: only one thread writes
    cuda.syncthreads()
    for node in range(1 + me, added, threads):
        if found[node] < 0:
            bit = np.int64(1) << (node % TOGETHER)
            cuda.atomic.or_(marks, node // TOGETHER, bit)
    cuda.syncthreads()
    for node in range(1 + me, added, threads):
        if found[node] < 0:
            target = used + new_before(marks, node)
            parent = parents[lane, node]
            above = found[parent]
            into_tokens[lane, target] = tokens[lane, node]
            into_parents[lane, target] = above if above >= 0 else used + new_before(marks, parent)
    if me == 0 and added > 0:
        into_count[lane] = used + new_before(marks, added)


@cuda.jit(device=True)
def is_same_path(tokens, parents, into_tokens, into_parents, lane, node, other):
    """Whether two nodes are as deep, and the tokens up to the roots the same."""
    while node > 0 and other > 0:
        if tokens[lane, node] != into_tokens[lane, other]:
            return False
        node, other = parents[lane, node], into_parents[lane, other]
    return node == other  # both are the root


@cuda.jit(device=True)
def new_before(marks, node):
    """How many nodes before this one are new."""
    whole = node // TOGETHER
    number = 0
    for i in range(whole):
        number += cuda.popc(marks[i])
    if node % TOGETHER > 0:
        below = (np.int64(1) << (node % TOGETHER)) - np.int64(1)
        number += cuda.popc(marks[whole] & below)
    return number
