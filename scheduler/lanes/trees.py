"""Tasks that grow a token tree in each lane, and merge trees.

A tree's tables are int64: ``tokens`` and ``parents`` (lanes, capacity), parents before children,
the root first, with parent -1; ``count`` (lanes,): nodes in use, 0 where the lane is empty. The
children of a node have different tokens.
"""

from __future__ import annotations

from torch import Tensor

from specinfer.ops.kernels.numba_cuda import launch, threads_for
from specinfer.runtime.privilege import RW, WD, R
from specinfer.runtime.task import task

MOST_MERGING = 512
"""Threads of a block that merges trees: it compares every node with every node."""


@task(length=R, text=R, tokens=WD, parents=WD, count=WD, pure=True)
def begin_tree(
    length: Tensor, text: Tensor, tokens: Tensor, parents: Tensor, count: Tensor
) -> None:
    """Trees of a root: the last token of each text.

    Args:
        length: (lanes,) tokens of the text; 0: the lane is empty.
        text: (lanes, context) token ids.
        tokens: written; 0 for nodes that are not in use.
        parents: written; -1 for nodes that are not in use.
        count: written.
    """
    texts, nodes = text.numpy(), tokens.numpy()
    nodes[:] = 0
    parents.fill_(-1)
    for lane, end in enumerate(length.tolist()):
        count[lane] = int(end > 0)
        if end:
            nodes[lane, 0] = texts[lane, end - 1]


@task(drawn=R, tokens=RW, parents=RW, count=RW, pure=True)
def grow_tree(
    drawn: Tensor, tokens: Tensor, parents: Tensor, count: Tensor, first: int, width: int
) -> None:
    """Add a level: children of the nodes of the last one.

    Args:
        drawn: (lanes x frontier, at least width) int64 tokens of the children of each node of the
            frontier; what stands there for an empty lane does not matter.
        tokens: of trees that end with the frontier.
        parents: see above, as for ``count``.
        count: grows by ``frontier x width``.
        first: the frontier's first node.
        width: children of each node.
    """
    children, nodes, above = drawn.numpy(), tokens.numpy(), parents.numpy()
    frontier = len(children) // len(count)
    behind = first + frontier
    for lane, used in enumerate(count.tolist()):
        if not used:
            continue
        for f in range(frontier):
            own = slice(behind + f * width, behind + (f + 1) * width)
            nodes[lane, own] = children[lane * frontier + f, :width]
            above[lane, own] = first + f
        count[lane] = behind + frontier * width


@task(
    tokens=R,
    parents=R,
    count=R,
    into_tokens=RW,
    into_parents=RW,
    into_count=RW,
    pure=True,
)
def add_tree(
    tokens: Tensor,
    parents: Tensor,
    count: Tensor,
    into_tokens: Tensor,
    into_parents: Tensor,
    into_count: Tensor,
) -> None:
    """Add every path of one tree to another with the same root, in each lane.

    Nodes are in the order of :func:`~specinfer.scheduler.token_tree.merge`: those that were there,
    then the new ones in the order of their tree.

    Args:
        tokens: of the trees that are added.
        parents: see above, as for those that follow.
        count: of the trees that are added.
        into_tokens: of the trees that grow; there is room for what is new.
        into_parents: of the trees that grow.
        into_count: of the trees that grow.
    """
    nodes, above = tokens.numpy(), parents.numpy()
    into_nodes, into_above = into_tokens.numpy(), into_parents.numpy()
    for lane, (added, used) in enumerate(zip(count.tolist(), into_count.tolist(), strict=True)):
        known = {
            (int(into_above[lane, n]), int(into_nodes[lane, n])): n for n in range(1, used)
        }  # fmt: skip
        node_of = [0]
        for n in range(1, added):
            key = node_of[int(above[lane, n])], int(nodes[lane, n])
            if key not in known:
                known[key] = used
                into_above[lane, used], into_nodes[lane, used] = key
                used += 1
            node_of.append(known[key])
        into_count[lane] = used


@begin_tree.variant("cuda")
def _begin_tree_on_gpu(
    length: Tensor, text: Tensor, tokens: Tensor, parents: Tensor, count: Tensor
) -> None:
    from specinfer.scheduler.lanes import trees_kernels as kernels

    arguments = [length, text, tokens, parents, count]
    launch(kernels.begin_tree, len(count), threads_for(tokens.shape[1]), arguments)


@grow_tree.variant("cuda")
def _grow_tree_on_gpu(
    drawn: Tensor, tokens: Tensor, parents: Tensor, count: Tensor, first: int, width: int
) -> None:
    from specinfer.scheduler.lanes import trees_kernels as kernels

    lanes = len(count)
    arguments: list[Tensor | int] = [drawn, tokens, parents, count, first, width]
    launch(kernels.grow_tree, lanes, threads_for(len(drawn) // max(1, lanes) * width), arguments)


@add_tree.variant("cuda")
def _add_tree_on_gpu(
    tokens: Tensor,
    parents: Tensor,
    count: Tensor,
    into_tokens: Tensor,
    into_parents: Tensor,
    into_count: Tensor,
) -> None:
    from specinfer.scheduler.lanes import trees_kernels as kernels

    nodes, into_nodes = tokens.shape[1], into_tokens.shape[1]
    launch(
        kernels.add_tree,
        len(count),
        threads_for(nodes * into_nodes // kernels.TOGETHER, MOST_MERGING),
        [tokens, parents, count, into_tokens, into_parents, into_count],
        shared_bytes=kernels.merging_bytes(nodes),
    )
