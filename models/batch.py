"""The token batch: what one forward pass is asked to compute, whatever the phase.

Prefill, incremental decoding, catch-up, draft levels and tree verification are all such a batch.
The scheduler builds it; :class:`specinfer.models.model.Model` runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from specinfer.ops.kernels import tables_cuda
from specinfer.runtime.privilege import WD
from specinfer.runtime.task import task

IntArray = NDArray[np.int64]
WORD_BITS = 64

ROW_FIELDS = ("tokens", "positions", "request", "slots")
REQUEST_FIELDS = ("prefix_len", "chain_len", "num_nodes")
"""Arrays of a batch with an entry for each row, and for each request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """The largest batch that a model is compiled for.

    Attributes:
        rows: tokens computed in one step.
        requests: requests in one step.
        context: committed tokens of one request.
        nodes: uncommitted tokens of one request: its chain and its tree.
        logit_rows: rows whose logits are wanted.
    """

    rows: int = 512
    requests: int = 16
    context: int = 2048
    nodes: int = 512
    logit_rows: int = 512

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")

    @property
    def words(self) -> int:
        """64-bit words of a row's ancestor mask."""
        return -(-self.nodes // WORD_BITS)


class StepShape(NamedTuple):
    """How large a step is.

    Attributes:
        rows: tokens that are computed.
        requests: that they belong to.
        wanted: rows whose logits are.
    """

    rows: int
    requests: int
    wanted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """One step's tokens. T rows, R requests, P pages, N uncommitted nodes, W words, K logit rows.

    The rows of a request lie together, in the order of requests. All arrays are int64.

    Attributes:
        tokens: (T,) token ids.
        positions: (T,) depth in the request: committed length, plus depth among the uncommitted.
        request: (T,) the request of each row.
        slots: (T,) where the row's K/V goes.
        prefix_len: (R,) committed tokens.
        pages: (R, P) pages that hold them.
        tree_slots: (R, N) slots of the uncommitted nodes, computed in this step or an earlier one:
            first the chain, then the tree.
        num_nodes: (R,) how many of them there are.
        chain_len: (R,) how many of them are the chain: each sees all before it.
        ancestors: (T, W) bit masks; bit j: the j-th node behind the chain is this row or above it.
        logit_rows: (K,) rows whose logits are wanted.
    """

    tokens: IntArray
    positions: IntArray
    request: IntArray
    slots: IntArray
    prefix_len: IntArray
    pages: IntArray
    tree_slots: IntArray
    num_nodes: IntArray
    chain_len: IntArray
    ancestors: IntArray
    logit_rows: IntArray

    @property
    def shape(self) -> StepShape:
        """Of the step that computes it."""
        return StepShape(self.num_rows, self.num_requests, len(self.logit_rows))

    @property
    def num_rows(self) -> int:
        """Tokens to compute."""
        return len(self.tokens)

    @property
    def num_requests(self) -> int:
        """Requests they belong to."""
        return len(self.prefix_len)


EMPTY_BATCH = TokenBatch(
    **{name: np.zeros(0, np.int64) for name in (*ROW_FIELDS, *REQUEST_FIELDS, "logit_rows")},
    **{name: np.zeros((0, 1), np.int64) for name in ("pages", "tree_slots", "ancestors")},
)
"""Nothing to compute: all of a step is padding."""


def ancestor_bits(parents: IntArray, words: int) -> IntArray:
    """The path to the root of every node, as bit masks.

    Args:
        parents: (nodes,) parent of each node, before the node itself; -1: child of the chain's end.
        words: 64-bit words a mask.

    Returns:
        (nodes, words) int64; bit j of row i: node j is i or an ancestor of it.

    >>> ancestor_bits(np.array([-1, 0, 0, 2]), words=1).ravel().tolist()
    [1, 3, 5, 13]
    """
    bits = np.zeros((len(parents), words), np.int64)
    _set_ancestor_bits(np.asarray(parents, np.int64), bits)
    return bits


@njit(cache=True, nogil=True)
def _set_ancestor_bits(parents, bits):  # type: ignore[no-untyped-def]
    for node in range(parents.shape[0]):
        word = node // WORD_BITS
        parent = parents[node]
        if parent >= 0:
            for w in range(word + 1):  # behind a node's own word there is nothing above it
                bits[node, w] = bits[parent, w]
        bits[node, word] |= 1 << (node % WORD_BITS)


@task(rows=WD, requests=WD, pages=WD, tree=WD, ancestors=WD, logit_rows=WD, pure=True)
def load_batch(
    rows: SimpleNamespace,
    requests: SimpleNamespace,
    pages: Tensor,
    tree: Tensor,
    ancestors: Tensor,
    logit_rows: Tensor,
    batch: TokenBatch,
) -> None:
    """Copy a batch into the regions that the step reads.

    What a small batch leaves over is 0: a row that is padding sees what is committed of the last
    request, and writes to the null page.
    """
    for target, source, filler in _copies(
        rows, requests, pages, tree, ancestors, logit_rows, batch
    ):
        if target.shape != source.shape:
            target.fill_(filler)
        target[tuple(map(slice, source.shape))] = torch.from_numpy(source)


@load_batch.variant("cuda")
def _load_batch_on_gpu(
    rows: SimpleNamespace,
    requests: SimpleNamespace,
    pages: Tensor,
    tree: Tensor,
    ancestors: Tensor,
    logit_rows: Tensor,
    batch: TokenBatch,
) -> None:
    copies = _copies(rows, requests, pages, tree, ancestors, logit_rows, batch)
    tables_cuda.fill_tables(*zip(*copies, strict=True))


def _copies(
    rows: SimpleNamespace,
    requests: SimpleNamespace,
    pages: Tensor,
    tree: Tensor,
    ancestors: Tensor,
    logit_rows: Tensor,
    batch: TokenBatch,
) -> list[tuple[Tensor, IntArray, int]]:
    """Each table with what is copied to its beginning, and what stands behind it."""
    last_request = max(0, batch.num_requests - 1)
    fillers = {"request": last_request}
    found = [
        (getattr(rows, field), getattr(batch, field), fillers.get(field, 0)) for field in ROW_FIELDS
    ]
    found += [(getattr(requests, field), getattr(batch, field), 0) for field in REQUEST_FIELDS]
    found += [
        (pages, batch.pages, 0),
        (tree, batch.tree_slots, 0),
        (ancestors, batch.ancestors, 0),
        (logit_rows, batch.logit_rows, 0),
    ]
    return found
