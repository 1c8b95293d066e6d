"""Tasks that walk trees along the LLM's tokens, take these, and say what K/V move where.

An *outcome* (lanes, depth + 2) int64 holds for each lane how many tokens it takes, the accepted
ones, the LLM's own next one, and -1 behind them. A lane that is empty takes 0.

*Moves* (2, lanes x depth) int64 are slots to copy from and to, ``depth`` of them for each lane;
those that are not used go from slot 0 to slot 0. See
:func:`~specinfer.scheduler.lanes.places.scratch` for ``scratch_start`` and ``scratch_nodes``,
:mod:`~specinfer.scheduler.lanes.trees` for trees.
"""

from __future__ import annotations

from torch import Tensor

from specinfer.ops.kernels.numba_cuda import launch, threads_for
from specinfer.runtime.privilege import RW, WD, R
from specinfer.runtime.task import task
from specinfer.scheduler.lanes.places import committed, scratch


@task(best=R, tokens=R, parents=R, count=R, path=WD, outcome=WD, pure=True)
def walk_greedy(
    best: Tensor, tokens: Tensor, parents: Tensor, count: Tensor, path: Tensor, outcome: Tensor
) -> None:
    """Walk from the root along the LLM's likeliest tokens for as long as the tree has them.

    Args:
        best: (lanes x capacity,) int64 likeliest token behind each node.
        tokens: (lanes, capacity) of the trees.
        parents: (lanes, capacity).
        count: (lanes,) nodes in use, 0: the lane is empty.
        path: (lanes, depth) written: the accepted nodes, and -1 behind them.
        outcome: (lanes, depth + 2) written, see above.
    """
    nodes, above, likeliest = tokens.numpy(), parents.numpy(), best.view(tokens.shape).numpy()
    paths, outcomes = path.numpy(), outcome.numpy()
    paths[:] = -1
    outcomes[:] = -1
    outcomes[:, 0] = 0
    for lane, used in enumerate(count.tolist()):
        if not used:
            continue
        child_of = {
            (int(above[lane, n]), int(nodes[lane, n])): n for n in range(1, used)
        }  # fmt: skip
        node, depth = 0, 0
        while depth < paths.shape[1]:
            child = child_of.get((node, int(likeliest[lane, node])))
            if child is None:
                break
            paths[lane, depth] = child
            outcomes[lane, 1 + depth] = nodes[lane, child]
            node, depth = child, depth + 1
        outcomes[lane, 1 + depth] = likeliest[lane, node]
        outcomes[lane, 0] = depth + 1


@task(
    outcome=R,
    path=R,
    lane_pages=R,
    text=RW,
    length=RW,
    moves=WD,
    pure=True,
)
def take(
    outcome: Tensor,
    path: Tensor,
    lane_pages: Tensor,
    text: Tensor,
    length: Tensor,
    moves: Tensor,
    scratch_start: int,
    scratch_nodes: int,
) -> None:
    """Append an outcome's tokens to the texts; the LLM's K/V of accepted nodes are committed.

    Args:
        outcome: see above.
        path: (lanes, depth) the accepted nodes.
        lane_pages: (lanes, pages) of the LLM.
        text: (lanes, context), with room for the tokens.
        length: (lanes,), grows by what was taken; the last token is the next root.
        moves: written.
        scratch_start: see above.
        scratch_nodes: see above.
    """
    depth = path.shape[1]
    outcomes, paths, texts = outcome.numpy(), path.numpy(), text.numpy()
    pages, slots = lane_pages.numpy(), moves.numpy()
    slots[:] = 0
    for lane, end in enumerate(length.tolist()):
        taken = int(outcomes[lane, 0])
        for i in range(taken - 1):
            node = paths[lane, i]
            slots[0, lane * depth + i] = scratch(scratch_start, scratch_nodes, lane, node)
            slots[1, lane * depth + i] = committed(pages, lane, end + i)
        texts[lane, end : end + taken] = outcomes[lane, 1 : 1 + taken]
        length[lane] = end + taken


@task(
    outcome=R,
    length=R,
    tokens=R,
    parents=R,
    count=R,
    have=RW,
    lane_pages=R,
    moves=WD,
    pure=True,
)
def take_draft(
    outcome: Tensor,
    length: Tensor,
    tokens: Tensor,
    parents: Tensor,
    count: Tensor,
    have: Tensor,
    lane_pages: Tensor,
    moves: Tensor,
    computed: int,
    scratch_start: int,
    scratch_nodes: int,
) -> None:
    """Commit an SSM's K/V of accepted tokens that it proposed and computed itself.

    Run it before :func:`take`, which changes the lengths.

    Args:
        outcome: see above.
        length: (lanes,) of the texts without the outcome; the SSM has K/V of all of that.
        tokens: (lanes, capacity) of the SSM's own trees.
        parents: (lanes, capacity).
        count: (lanes,).
        have: (lanes,) written: tokens whose K/V the SSM has; as it was where nothing is taken.
        lane_pages: (lanes, pages) of the SSM.
        moves: (2, lanes x depth) written.
        computed: leading nodes, the root among them, whose K/V the SSM has.
        scratch_start: see above.
        scratch_nodes: see above.
    """
    depth = outcome.shape[1] - 2
    outcomes, nodes, above = outcome.numpy(), tokens.numpy(), parents.numpy()
    pages, slots = lane_pages.numpy(), moves.numpy()
    slots[:] = 0
    for lane, (end, used) in enumerate(zip(length.tolist(), count.tolist(), strict=True)):
        taken = int(outcomes[lane, 0])
        if not taken:
            continue
        child_of = {
            (int(above[lane, n]), int(nodes[lane, n])): n for n in range(1, min(used, computed))
        }
        node, moved = 0, 0
        while moved < taken - 1:
            child = child_of.get((node, int(outcomes[lane, 1 + moved])))
            if child is None:
                break
            at = lane * depth + moved
            slots[0, at] = scratch(scratch_start, scratch_nodes, lane, child)
            slots[1, at] = committed(pages, lane, end + moved)
            node, moved = child, moved + 1
        have[lane] = end + moved


@walk_greedy.variant("cuda")
def _walk_greedy_on_gpu(
    best: Tensor, tokens: Tensor, parents: Tensor, count: Tensor, path: Tensor, outcome: Tensor
) -> None:
    from specinfer.scheduler.lanes import taking_kernels as kernels

    nodes = tokens.shape[1]
    arguments = [best, tokens, parents, count, path, outcome]
    threads = threads_for(nodes)
    launch(kernels.walk_greedy, len(count), threads, arguments, shared_bytes=8 * nodes)


@take.variant("cuda")
def _take_on_gpu(
    outcome: Tensor,
    path: Tensor,
    lane_pages: Tensor,
    text: Tensor,
    length: Tensor,
    moves: Tensor,
    scratch_start: int,
    scratch_nodes: int,
) -> None:
    from specinfer.scheduler.lanes import taking_kernels as kernels

    tables: list[Tensor | int] = [outcome, path, lane_pages, text, length, moves]
    arguments = [*tables, scratch_start, scratch_nodes]
    launch(kernels.take, len(length), threads_for(outcome.shape[1]), arguments)


@take_draft.variant("cuda")
def _take_draft_on_gpu(
    outcome: Tensor,
    length: Tensor,
    tokens: Tensor,
    parents: Tensor,
    count: Tensor,
    have: Tensor,
    lane_pages: Tensor,
    moves: Tensor,
    computed: int,
    scratch_start: int,
    scratch_nodes: int,
) -> None:
    from specinfer.scheduler.lanes import taking_kernels as kernels

    tables: list[Tensor | int] = [outcome, length, tokens, parents, count, have, lane_pages, moves]
    arguments = [*tables, computed, scratch_start, scratch_nodes]
    launch(kernels.take_draft, len(length), threads_for(computed), arguments)
