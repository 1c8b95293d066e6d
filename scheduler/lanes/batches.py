"""Tasks that write a step's tables from the tables of lanes; see :class:`TokenBatch`.

All tables are int64. A step has a fixed number of rows a lane; lanes and their rows are in order.
Rows that a lane does not use are padding: token 0, in the null slot, no ancestors, and the position
of the lane's last real row (0 if it has none). A lane whose length is 0 is empty: all of its rows
are padding, and they see nothing.

Arguments that all of these tasks have:

* ``length`` (lanes,): tokens of the text, its last one, the root, among them.
* ``lane_pages`` (lanes, pages): pages of the model's committed K/V.
* ``rows``, ``requests``, ``pages``, ``tree``, ``ancestors``, ``logit_rows``: all of what
  ``load_batch`` writes, written. There are as many requests as lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from specinfer.models.batch import ancestor_bits
from specinfer.ops.kernels.numba_cuda import launch, threads_for
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.task import task
from specinfer.scheduler.lanes.places import committed, scratch

IntArray = NDArray[np.int64]


@task(
    length=R,
    text=R,
    have=R,
    lane_pages=R,
    rows=WD,
    requests=WD,
    pages=WD,
    tree=WD,
    ancestors=WD,
    logit_rows=WD,
    pure=True,
)
def chain_batch(
    length: Tensor,
    text: Tensor,
    have: Tensor,
    lane_pages: Tensor,
    rows: SimpleNamespace,
    requests: SimpleNamespace,
    pages: Tensor,
    tree: Tensor,
    ancestors: Tensor,
    logit_rows: Tensor,
) -> None:
    """The step that catches up with a text: what a model lacks of it is a chain.

    Of a longer one than a lane has rows for, the first part.

    Args:
        length: see above.
        text: (lanes, context) token ids.
        have: (lanes,) leading tokens whose K/V the model has. It lacks at least one.
        lane_pages: see above, as for those that follow.
        rows: written.
        requests: written.
        pages: written.
        tree: written; at least as wide as a lane has rows.
        ancestors: written.
        logit_rows: (lanes,) written: the last real row of each lane, the first one of an empty one.
    """
    tables = _Tables.of(rows, requests, pages, tree, ancestors)
    texts, chains = text.numpy(), lane_pages.numpy()
    last_rows = logit_rows.numpy()
    most = len(vars(rows)["tokens"]) // len(chains)
    for lane, (end, begin) in enumerate(zip(length.tolist(), have.tolist(), strict=True)):
        positions = np.arange(begin, min(end, begin + most)) if end else np.arange(0)
        slots = committed(chains, lane, positions)
        work = _Work(
            tokens=texts[lane, positions],
            positions=positions,
            slots=slots,
            ancestors=np.zeros((len(positions), tables.ancestors.shape[1]), np.int64),
            prefix_len=begin if end else 0,
            chain_len=len(positions),
            tree=slots,
        )
        first = tables.write(lane, work, chains)
        last_rows[lane] = first + max(0, len(positions) - 1)


@task(
    length=R,
    tokens=R,
    parents=R,
    count=R,
    lane_pages=R,
    rows=WD,
    requests=WD,
    pages=WD,
    tree=WD,
    ancestors=WD,
    logit_rows=WD,
    pure=True,
)
def level_batch(
    length: Tensor,
    tokens: Tensor,
    parents: Tensor,
    count: Tensor,
    lane_pages: Tensor,
    rows: SimpleNamespace,
    requests: SimpleNamespace,
    pages: Tensor,
    tree: Tensor,
    ancestors: Tensor,
    logit_rows: Tensor,
    first: int,
    last: int,
    scratch_start: int,
    scratch_nodes: int,
) -> None:
    """The step of some nodes of a tree whose text and earlier nodes were computed before.

    Args:
        length: see above.
        tokens: (lanes, capacity) of the tree's nodes, the root first.
        parents: (lanes, capacity) nodes, each before its children.
        count: (lanes,) nodes in use; 0 where the lane is empty.
        lane_pages: see above, as for those that follow.
        rows: written.
        requests: written.
        pages: written.
        tree: written; at least ``last - 1`` wide.
        ancestors: written.
        logit_rows: written: all rows.
        first: the first node that is computed, behind the root.
        last: the node behind the last; a lane has ``last - first`` rows.
        scratch_start: see :func:`~specinfer.scheduler.lanes.places.scratch`.
        scratch_nodes: see there.
    """
    tables = _Tables.of(rows, requests, pages, tree, ancestors)
    trees = _Trees(tokens.numpy(), parents.numpy(), count.numpy())
    chains, lengths = lane_pages.numpy(), length.tolist()
    for lane, end in enumerate(lengths):
        nodes = np.arange(min(last, int(trees.count[lane])))
        slots = scratch(scratch_start, scratch_nodes, lane, nodes)
        work = trees.work(lane, end, nodes, slots, tables.ancestors.shape[1])
        tables.write(lane, work.behind(first, prefix_len=end), chains)
    logit_rows.numpy()[:] = np.arange(len(logit_rows))


@task(
    length=R,
    tokens=R,
    parents=R,
    count=R,
    lane_pages=R,
    rows=WD,
    requests=WD,
    pages=WD,
    tree=WD,
    ancestors=WD,
    logit_rows=WD,
    pure=True,
)
def verify_batch(
    length: Tensor,
    tokens: Tensor,
    parents: Tensor,
    count: Tensor,
    lane_pages: Tensor,
    rows: SimpleNamespace,
    requests: SimpleNamespace,
    pages: Tensor,
    tree: Tensor,
    ancestors: Tensor,
    logit_rows: Tensor,
    scratch_start: int,
    scratch_nodes: int,
) -> None:
    """The step of whole trees: the root is a chain of one, behind it all other nodes.

    Args:
        length: see above.
        tokens: (lanes, capacity) of the tree's nodes, the root first; a lane has ``capacity`` rows.
        parents: (lanes, capacity) nodes, each before its children.
        count: (lanes,) nodes in use; 0 where the lane is empty.
        lane_pages: see above, as for those that follow.
        rows: written.
        requests: written.
        pages: written.
        tree: written; at least ``capacity`` wide.
        ancestors: written.
        logit_rows: written: all rows.
        scratch_start: see :func:`~specinfer.scheduler.lanes.places.scratch`.
        scratch_nodes: see there.
    """
    tables = _Tables.of(rows, requests, pages, tree, ancestors)
    trees = _Trees(tokens.numpy(), parents.numpy(), count.numpy())
    chains, lengths = lane_pages.numpy(), length.tolist()
    for lane, end in enumerate(lengths):
        nodes = np.arange(trees.count[lane])
        slots = scratch(scratch_start, scratch_nodes, lane, nodes)
        slots[:1] = committed(chains, lane, end - 1)
        tables.write(lane, trees.work(lane, end, nodes, slots, tables.ancestors.shape[1]), chains)
    logit_rows.numpy()[:] = np.arange(len(logit_rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a lane computes: n rows, W words.

    Attributes:
        tokens: (n,).
        positions: (n,).
        slots: (n,).
        ancestors: (n, W).
        prefix_len: committed tokens that the rows see.
        chain_len: uncommitted nodes that are the chain.
        tree: slots of all uncommitted nodes.
    """

    tokens: IntArray
    positions: IntArray
    slots: IntArray
    ancestors: IntArray
    prefix_len: int
    chain_len: int
    tree: IntArray

    def behind(self, first: int, *, prefix_len: int) -> _Work:
        """Of a whole tree's work that of later nodes, whose root is committed already."""
        return _Work(
            tokens=self.tokens[first:],
            positions=self.positions[first:],
            slots=self.slots[first:],
            ancestors=self.ancestors[first:],
            prefix_len=prefix_len,
            chain_len=0,
            tree=self.tree[1:],
        )


@dataclass(frozen=True, slots=True)
class _Trees:
    """A tree in each lane: (lanes, capacity) tokens and parents, (lanes,) nodes in use."""

    tokens: IntArray
    parents: IntArray
    count: IntArray

    def work(self, lane: int, end: int, nodes: IntArray, slots: IntArray, words: int) -> _Work:
        """The work of a tree's first nodes, the root a chain of one; nothing for no nodes.

        Args:
            lane: whose tree.
            end: length of the text.
            nodes: 0, 1 and so on.
            slots: of these nodes.
            words: of an ancestor mask.
        """
        parents = self.parents[lane, : len(nodes)]
        depths = np.zeros(len(nodes), np.int64)
        for node, parent in enumerate(parents[1:].tolist(), start=1):
            depths[node] = depths[parent] + 1
        bits = np.zeros((len(nodes), words), np.int64)
        bits[1:] = ancestor_bits(parents[1:] - 1, words)
        return _Work(
            tokens=self.tokens[lane, : len(nodes)],
            positions=end - 1 + depths,
            slots=slots,
            ancestors=bits,
            prefix_len=end - 1 if len(nodes) else 0,
            chain_len=min(1, len(nodes)),
            tree=slots,
        )


@dataclass(frozen=True, slots=True)
class _Tables:
    """A step's tables as arrays; ``logit_rows`` is each task's own."""

    rows: dict[str, IntArray]
    requests: dict[str, IntArray]
    pages: IntArray
    tree: IntArray
    ancestors: IntArray

    @classmethod
    def of(
        cls,
        rows: SimpleNamespace,
        requests: SimpleNamespace,
        pages: Tensor,
        tree: Tensor,
        ancestors: Tensor,
    ) -> _Tables:
        return cls(
            {name: field.numpy() for name, field in vars(rows).items()},
            {name: field.numpy() for name, field in vars(requests).items()},
            pages.numpy(),
            tree.numpy(),
            ancestors.numpy(),
        )

    def write(self, lane: int, work: _Work, lane_pages: IntArray) -> int:
        """Write all that belongs to a lane; return its first row."""
        per_lane = len(self.rows["tokens"]) // len(self.pages)
        first, count = lane * per_lane, len(work.tokens)
        own = slice(first, first + per_lane)
        last_position = work.positions[-1] if count else 0
        for name, values, filler in (
            ("tokens", work.tokens, 0),
            ("positions", work.positions, last_position),
            ("slots", work.slots, 0),
        ):
            self.rows[name][own] = filler
            self.rows[name][first : first + count] = values
        self.rows["request"][own] = lane
        self.ancestors[own] = 0
        self.ancestors[first : first + count] = work.ancestors
        self.requests["prefix_len"][lane] = work.prefix_len
        self.requests["chain_len"][lane] = work.chain_len
        self.requests["num_nodes"][lane] = len(work.tree)
        for table, values in ((self.pages, lane_pages[lane]), (self.tree, work.tree)):
            width = min(table.shape[1], len(values))
            table[lane] = 0
            table[lane, :width] = values[:width]
        return first


@chain_batch.variant("cuda")
def _chain_batch_on_gpu(
    length: Tensor,
    text: Tensor,
    have: Tensor,
    lane_pages: Tensor,
    rows: SimpleNamespace,
    requests: SimpleNamespace,
    pages: Tensor,
    tree: Tensor,
    ancestors: Tensor,
    logit_rows: Tensor,
) -> None:
    from specinfer.scheduler.lanes import batches_kernels as kernels

    step = _arguments(rows, requests, pages, tree, ancestors, logit_rows)
    arguments = [length, text, have, lane_pages, *step]
    launch(kernels.chain_batch, len(length), _threads(rows, pages, tree), arguments)


@level_batch.variant("cuda")
def _level_batch_on_gpu(
    length: Tensor,
    tokens: Tensor,
    parents: Tensor,
    count: Tensor,
    lane_pages: Tensor,
    rows: SimpleNamespace,
    requests: SimpleNamespace,
    pages: Tensor,
    tree: Tensor,
    ancestors: Tensor,
    logit_rows: Tensor,
    first: int,
    last: int,
    scratch_start: int,
    scratch_nodes: int,
) -> None:
    from specinfer.scheduler.lanes import batches_kernels as kernels

    step = _arguments(rows, requests, pages, tree, ancestors, logit_rows)
    given: list[Tensor | int] = [length, tokens, parents, count, lane_pages, *step]
    arguments = [*given, first, last, 0, scratch_start, scratch_nodes]
    launch(kernels.node_batch, len(length), _threads(rows, pages, tree), arguments)


@verify_batch.variant("cuda")
def _verify_batch_on_gpu(
    length: Tensor,
    tokens: Tensor,
    parents: Tensor,
    count: Tensor,
    lane_pages: Tensor,
    rows: SimpleNamespace,
    requests: SimpleNamespace,
    pages: Tensor,
    tree: Tensor,
    ancestors: Tensor,
    logit_rows: Tensor,
    scratch_start: int,
    scratch_nodes: int,
) -> None:
    from specinfer.scheduler.lanes import batches_kernels as kernels

    step = _arguments(rows, requests, pages, tree, ancestors, logit_rows)
    given: list[Tensor | int] = [length, tokens, parents, count, lane_pages, *step]
    arguments = [*given, 0, tokens.shape[1], 1, scratch_start, scratch_nodes]
    launch(kernels.node_batch, len(length), _threads(rows, pages, tree), arguments)


def _arguments(rows: Any, requests: Any, *tables: Tensor) -> Sequence[Tensor]:
    """A step's tables in the order of the kernels' parameters."""
    return (
        rows.tokens,
        rows.positions,
        rows.request,
        rows.slots,
        requests.prefix_len,
        requests.chain_len,
        requests.num_nodes,
        *tables,
    )


def _threads(rows: SimpleNamespace, pages: Tensor, tree: Tensor) -> int:
    """As many as a lane has rows, pages or slots."""
    return threads_for(max(len(rows.tokens) // len(pages), pages.shape[1], tree.shape[1]))
