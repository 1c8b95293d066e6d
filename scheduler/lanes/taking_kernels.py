"""Kernels of :mod:`specinfer.scheduler.lanes.taking`: a block for each lane."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from numba import cuda, int64

from specinfer.scheduler.lanes import places

committed = cuda.jit(device=True)(places.committed)
scratch = cuda.jit(device=True)(places.scratch)


@cuda.jit
def walk_greedy(best, tokens, parents, count, path, outcome):
    """See the task. Every node says at once whether its parent is left through it."""
    lane, me, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    used, capacity, depth = count[lane], tokens.shape[1], path.shape[1]
    behind = cuda.shared.array(0, int64)  # (capacity,) the child to go to, or 0
    for node in range(me, capacity, threads):
        behind[node] = 0
    for i in range(me, depth, threads):
        path[lane, i] = -1
    for i in range(me, depth + 2, threads):
        outcome[lane, i] = -1 if i > 0 else 0
    cuda.syncthreads()
    for node in range(1 + me, used, threads):
        above = parents[lane, node]
        if tokens[lane, node] == best[lane * capacity + above]:
            behind[above] = node  # siblings differ: only one thread writes
    cuda.syncthreads()
    if me == 0 and used > 0:
        node, accepted = behind[0], 0
        last = node - node  # the root, of the same type
        while node > 0 and accepted < depth:
            path[lane, accepted] = node
            outcome[lane, 1 + accepted] = tokens[lane, node]
            last, node = node, behind[node]
            accepted += 1
        outcome[lane, 1 + accepted] = best[lane * capacity + last]
        outcome[lane, 0] = accepted + 1


@cuda.jit
def take(outcome, path, lane_pages, text, length, moves, scratch_start, scratch_nodes):
    """See the task."""
    lane, me, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    taken, end, depth = outcome[lane, 0], length[lane], path.shape[1]
    cuda.syncthreads()  # before the length is changed
    for i in range(me, depth, threads):
        at = lane * depth + i
        if i < taken - 1:
            moves[0, at] = scratch(scratch_start, scratch_nodes, lane, path[lane, i])
            moves[1, at] = committed(lane_pages, lane, end + i)
        else:
            moves[0, at] = 0
            moves[1, at] = 0
    for i in range(me, taken, threads):
        text[lane, end + i] = outcome[lane, 1 + i]
    if me == 0:
        length[lane] = end + taken


@cuda.jit
def take_draft(
    outcome,
    length,
    tokens,
    parents,
    count,
    have,
    lane_pages,
    moves,
    computed,
    scratch_start,
    scratch_nodes,
):
    """See the task. Every node says at once whether the tokens up to it were accepted."""
    lane, me, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    depth = outcome.shape[1] - 2
    taken, end = outcome[lane, 0], length[lane]
    moved = cuda.shared.array(1, int64)
    if me == 0:
        moved[0] = 0
    for i in range(lane * depth + me, (lane + 1) * depth, threads):
        moves[0, i] = 0
        moves[1, i] = 0
    cuda.syncthreads()
    for node in range(1 + me, min(computed, count[lane]), threads):
        steps = accepted_steps(outcome, tokens, parents, lane, node, taken - 1)
        if steps > 0:  # one node of each depth at most: only one thread writes
            at = lane * depth + steps - 1
            moves[0, at] = scratch(scratch_start, scratch_nodes, lane, node)
            moves[1, at] = committed(lane_pages, lane, end + steps - 1)
            cuda.atomic.add(moved, 0, 1)
    cuda.syncthreads()
    if me == 0 and taken > 0:
        have[lane] = end + moved[0]


@cuda.jit(device=True)
def accepted_steps(outcome, tokens, parents, lane, node, accepted):
    """The depth of a node, if the tokens from the root to it begin the accepted ones; or 0."""
    depth = 0
    above = node
    while above > 0:
        above = parents[lane, above]
        depth += 1
    if depth > accepted:
        return 0
    left = depth
    while node > 0:
        if tokens[lane, node] != outcome[lane, left]:
            return 0
        node = parents[lane, node]
        left -= 1
    return depth
