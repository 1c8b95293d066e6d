"""A model with the K/V of the requests it serves: computes chains and trees, commits paths.

The LLM and every SSM are a decoder each. What a request asks of a step is :class:`Work`; a step of
any mixture of works is one token batch and one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from specinfer.models.batch import EMPTY_BATCH, TokenBatch, ancestor_bits
from specinfer.models.model import Model
from specinfer.ops.attention import commit_kv
from specinfer.runtime.region import Subregion
from specinfer.scheduler.kv_pages import KVPages
from specinfer.scheduler.token_tree import TokenTree


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one request asks of a step.

    Attributes:
        request: its number.
        chain: accepted tokens that this model has not computed yet; committed by the step.
        tokens: tokens of the request's uncommitted nodes, without the root.
        parents: parent of each of these nodes; -1: the end of the chain.
        computed: leading nodes that earlier steps computed: the rows are those behind them.
        chain_logits: whether the logits behind the chain are wanted. Those of tree rows always are.
    """

    request: int
    chain: Sequence[int] = ()
    tokens: Sequence[int] = ()
    parents: Sequence[int] = ()
    computed: int = 0
    chain_logits: bool = True

    @classmethod
    def of_tree(
        cls, request: int, tree: TokenTree, *, chain: Sequence[int] = (), computed: int = 1
    ) -> Self:
        """The work of computing a tree; its root is the end of the chain, or computed before.

        Args:
            request: its number.
            tree: the whole tree.
            chain: accepted tokens that this model has not computed yet.
            computed: leading nodes, the root among them, whose K/V the model has or gets as chain.
        """
        return cls(
            request=request,
            chain=chain,
            tokens=tree.tokens[1:],
            parents=[parent - 1 for parent in tree.parents[1:]],
            computed=computed - 1,
        )

    @property
    def num_rows(self) -> int:
        """Tokens to compute."""
        return len(self.chain) + len(self.tokens) - self.computed


@dataclass(slots=True)
class Decoder:
    """One model, its slot table, and how far each request is committed.

    Attributes:
        model: runs the batches.
        slots: says which of the model's K/V slots are whose, and how far each text is committed.
    """

    model: Model
    slots: KVPages

    def step(self, works: Sequence[Work]) -> Subregion:
        """Compute the rows of all works; chains are committed.

        Returns:
            Logits: for each work in order, one row behind the chain if wanted, then one for each of
            its tree rows.
        """
        return self.model.forward(self.frame(works))

    def frame(self, works: Sequence[Work]) -> TokenBatch:
        """The batch of all works; from now on, their chains count as committed."""
        batch = self._batch(works) if works else EMPTY_BATCH
        for work in works:
            self.slots.commit(work.request, len(work.chain))
        return batch

    def commit(self, paths: Sequence[tuple[int, Sequence[int]]]) -> None:
        """Keep the K/V of accepted nodes, for all requests and layers in one launch.

        Args:
            paths: for each request, its accepted nodes in order of depth: indices into the
                ``tokens`` of its last work.
        """
        moves = self.moves(paths)
        if moves.shape[1]:
            self.model.runtime.launch(commit_kv, kv=self.model.kv.part(), moves=moves)

    def moves(self, paths: Sequence[tuple[int, Sequence[int]]]) -> Tensor:
        """Where :meth:`commit` copies K/V from and to; from now on, they count as committed.

        Returns:
            (2, accepted nodes) int64 slots.
        """
        found = [np.zeros((2, 0), np.int64)]
        for request, nodes in paths:
            start = self.slots.length(request)
            sources = self.slots.scratch(request)[list(nodes)]
            targets = self.slots.committed(request, start, start + len(nodes))
            found.append(np.stack((sources, targets)))
            self.slots.commit(request, len(nodes))
        return torch.from_numpy(np.concatenate(found, axis=1))

    def _batch(self, works: Sequence[Work]) -> TokenBatch:
        counts = np.array([work.num_rows for work in works])
        prefix = np.array([self.slots.length(work.request) for work in works])
        chains = np.array([len(work.chain) for work in works])
        nodes = chains + np.array([len(work.tokens) for work in works])
        words = max(1, -(-int((nodes - chains).max()) // 64))
        tree_slots = np.zeros((len(works), int(nodes.max())), np.int64)
        pages = [
            self.slots.pages(work.request, int(n)) for work, n in zip(works, prefix, strict=True)
        ]
        page_table = np.zeros((len(works), max(map(len, pages))), np.int64)
        tokens, positions, slots, ancestors, logit_rows = [], [], [], [], []
        row = 0
        for r, work in enumerate(works):
            end = int(prefix[r]) + len(work.chain)
            parents = np.array(work.parents, np.int64)
            page_table[r, : len(pages[r])] = pages[r]
            tree_slots[r, : chains[r]] = self.slots.committed(work.request, int(prefix[r]), end)
            tree_slots[r, chains[r] : nodes[r]] = self.slots.scratch(work.request)[: len(parents)]
            tokens += [*work.chain, *work.tokens[work.computed :]]
            positions += [np.arange(int(prefix[r]), end), end + _depths(parents)[work.computed :]]
            slots += [
                tree_slots[r, : chains[r]],
                tree_slots[r, chains[r] + work.computed : nodes[r]],
            ]
            ancestors += [
                np.zeros((len(work.chain), words), np.int64),
                ancestor_bits(parents, words)[work.computed :],
            ]
            row += len(work.chain)
            wanted = int(work.chain_logits and len(work.chain) > 0)
            logit_rows.append(np.arange(row - wanted, row + len(parents) - work.computed))
            row += len(parents) - work.computed
        return TokenBatch(
            tokens=np.array(tokens, np.int64),
            positions=np.concatenate(positions),
            request=np.repeat(np.arange(len(works)), counts),
            slots=np.concatenate(slots),
            prefix_len=prefix,
            pages=page_table,
            tree_slots=tree_slots,
            num_nodes=nodes,
            chain_len=chains,
            ancestors=np.concatenate(ancestors),
            logit_rows=np.concatenate(logit_rows),
        )


def _depths(
    parents: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Distance of each node from the end of the chain, less one."""
    depths = np.zeros(len(parents), np.int64)
    for node, parent in enumerate(parents.tolist()):
        if parent >= 0:
            depths[node] = depths[parent] + 1
    return depths
