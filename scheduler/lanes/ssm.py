"""Draws trees in lanes by a small model, level by level.

The model follows the texts of all lanes, whatever the shape of the trees that it draws; while it
draws none it falls behind, and catches up when it is told to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from specinfer.models.batch import StepShape
from specinfer.ops.attention import move_kv
from specinfer.ops.sample import top_k
from specinfer.runtime.context import Runtime
from specinfer.runtime.future import Future
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.privilege import RW, R
from specinfer.runtime.region import Region, Subregion
from specinfer.runtime.task import task
from specinfer.scheduler.lanes.batches import chain_batch, level_batch
from specinfer.scheduler.lanes.naming import rename
from specinfer.scheduler.lanes.racing import race
from specinfer.scheduler.lanes.tables import (
    Fetched,
    IntArray,
    Lanes,
    Pool,
    TreeTables,
    load_table,
)
from specinfer.scheduler.lanes.taking import take_draft
from specinfer.scheduler.lanes.trees import begin_tree, grow_tree
from specinfer.scheduler.late_tree import FlatTree
from specinfer.scheduler.speculators.proposals import ReducedVocabulary
from specinfer.scheduler.speculators.ssm import SSMSpeculator, level_sizes


@task(tokens=R)
def fetch_tokens(tokens: Tensor) -> Fetched:
    """Begin to bring the tokens of trees of a known shape to the host."""
    return Fetched({"tokens": tokens})


@task(length=R, have=RW, pure=True)
def catch_up(length: Tensor, have: Tensor, rows: int) -> None:
    """Count the tokens that a step of a chain has computed; the last one of a text never is.

    Args:
        length: (lanes,) of the texts; 0: the lane is empty, and so is what it has.
        have: (lanes,) grows by at most ``rows``.
        rows: of a lane.
    """
    torch.minimum(have + rows, length - 1, out=have)
    have.clamp_(min=0)


class FollowingSSM:
    """A small model that follows the texts of lanes.

    Args:
        ssm: the speculator.
        name: of its tables.
        lanes: at most.
        chain: tokens that it may lack of a text, and yet draw.

    Attributes:
        name: of its tables.
        model: runs the steps.
        chain: see above.
        pool: of its K/V.
        have: (lanes,) committed tokens of its K/V.
        names: between its vocabulary and the LLM's; None: they are the same.
    """

    def __init__(self, ssm: SSMSpeculator, name: str, lanes: int, chain: int) -> None:
        runtime = ssm.decoder.model.runtime
        known = ssm.vocabulary
        self.name = name
        self.model = ssm.decoder.model
        self.chain = chain
        self.names = None if known is None else _Names(runtime, name, known)
        self.pool = Pool(runtime, ssm.decoder)
        self.have = runtime.region(f"{name}.have", (lanes,), {"n": torch.int64})

    def catch_up(self, lanes: Lanes, rows: int) -> None:
        """Issue a step of so many rows a lane, of what is lacking but the last token."""
        shape = self.begin(lanes, rows)
        self.compute(shape)
        have = self.have.rows(0, lanes.count)
        self.model.runtime.launch(catch_up, length=lanes.length, have=have, rows=rows)

    def begin(self, lanes: Lanes, rows: int) -> StepShape:
        """Issue what writes the tables of a step that catches up; its shape."""
        count, model = lanes.count, self.model
        shape = StepShape(count * rows, count, count)
        pages, have = self.pool.pages.rows(0, count), self.have.rows(0, count)
        tables = model.inputs(shape)
        model.runtime.launch(chain_batch, **lanes.texts, have=have, lane_pages=pages, **tables)
        return shape

    def compute(self, shape: StepShape) -> Subregion:
        """Issue a step whose tables are written; logits of the tokens that it knows."""
        names = self.names
        if names is None:
            return self.model.compute(shape)
        names.to_draft(self.model.inputs(shape)["rows"])
        logits = self.model.compute(shape)
        return logits.region.part(IndexSpace((0, 0), (shape.wanted, names.num_tokens)))


class SSMDrafter:
    """Full trees of an SSM's likeliest tokens.

    Args:
        ssm: draws them.
        expansion: children of each node, by level.
        name: of its tables.
        lanes: at most.

    Attributes:
        tree: what it draws.
        depth: levels of that.
    """

    def __init__(
        self, ssm: FollowingSSM, expansion: tuple[int, ...], name: str, lanes: int
    ) -> None:
        runtime = ssm.model.runtime
        self._runtime: Runtime = runtime
        self._ssm = ssm
        self._expansion = expansion
        self._own_names = runtime.region(f"{name}.own", (0,), {"i": torch.int64})
        sizes = level_sizes(expansion)
        self._parents = full_parents(expansion)
        self._computed = 1 + sum(sizes[:-1])
        self.depth = len(sizes)
        self.tree = TreeTables.of(runtime, name, lanes, sum(sizes))
        self._drawn = [
            runtime.region(
                f"{name}.drawn{level}",
                (lanes * frontier, width),
                {"token": torch.int64, "log_prob": torch.float32},
            )
            for level, (frontier, width) in enumerate(zip([1, *sizes[:-1]], expansion, strict=True))
        ]

    def draw(self, lanes: Lanes) -> None:
        """Issue what writes the trees."""
        launch, model, count = self._runtime.launch, self._ssm.model, lanes.count
        tree, pages = self.tree.parts(count), self._ssm.pool.pages.rows(0, count)
        shape = self._ssm.begin(lanes, self._ssm.chain)
        launch(begin_tree, **lanes.texts, **tree)
        first, frontier = 0, 1
        for level, width in enumerate(self._expansion):
            if level > 0:
                rows = count * frontier
                shape = StepShape(rows, count, rows)
                nodes: dict[str, Any] = {"first": first, "last": first + frontier}
                launch(
                    level_batch,
                    length=lanes.length,
                    **tree,
                    lane_pages=pages,
                    **model.inputs(shape),
                    **nodes,
                    **self._ssm.pool.scratch,
                )
            drawn = self._children(lanes, shape, level)
            launch(grow_tree, drawn=drawn, **tree, first=first, width=width)
            first, frontier = first + frontier, frontier * width

    def take(self, lanes: Lanes, outcome: Subregion, moves: Subregion) -> None:
        """Issue what commits the K/V of accepted tokens that it proposed and computed itself."""
        count, ssm = lanes.count, self._ssm
        self._runtime.launch(
            take_draft,
            outcome=outcome,
            length=lanes.length,
            **self.tree.parts(count),
            have=ssm.have.rows(0, count),
            lane_pages=ssm.pool.pages.rows(0, count),
            moves=moves,
            computed=self._computed,
            **ssm.pool.scratch,
        )
        self._runtime.launch(move_kv, kv=ssm.model.kv.part(), moves=moves)

    def fetch(self, lanes: int) -> Future:
        """Issue what brings the trees to the host."""
        return self._runtime.launch(fetch_tokens, tokens=self.tree.parts(lanes)["tokens"])

    def drawn(self, fetched: dict[str, IntArray], lane: int) -> FlatTree:
        """The tree of a lane."""
        return FlatTree(fetched["tokens"][lane].tolist(), self._parents)

    def _children(self, lanes: Lanes, shape: StepShape, level: int) -> Subregion:
        """Issue a step, and what finds the children of its nodes; where they are."""
        names, rows = self._ssm.names, self._ssm.model.inputs(shape)["rows"]
        drawn = self._drawn[level]
        space = IndexSpace((0, 0), (shape.wanted, drawn.shape[1]))
        tokens, log_probs = drawn.part(space, "token"), drawn.part(space, "log_prob")
        logits = self._ssm.compute(shape)
        if lanes.choices is not None:
            positions = rows.region.part(rows.space, "positions")
            self._runtime.launch(
                race,
                logits=logits,
                choices=lanes.choices,
                positions=positions if level > 0 else lanes.length,
                names=self._own_names if names is None else names.of_llm,
                tokens=tokens,
                behind=int(level > 0),
            )
            return tokens
        self._runtime.launch(top_k, logits=logits, tokens=tokens, log_probs=log_probs)
        if names is not None:
            names.to_llm(tokens)
        return tokens


class _Names:
    """Tables between an LLM's numbers of tokens and those of a model that knows some of them.

    Attributes:
        num_tokens: that the model knows.
        of_llm: (num_tokens,) the LLM's numbers of them.
    """

    def __init__(self, runtime: Runtime, name: str, known: ReducedVocabulary) -> None:
        self._runtime = runtime
        self.num_tokens = known.num_tokens
        self.of_llm = _table(runtime, f"{name}.ids", known.ids)
        self._of_draft = _table(runtime, f"{name}.draft_ids", known.draft_ids)

    def to_draft(self, rows: Subregion) -> None:
        """Issue what renames the tokens of a step."""
        tokens = rows.region.part(rows.space, "tokens")
        self._runtime.launch(rename, tokens=tokens, names=self._of_draft.part())

    def to_llm(self, drawn: Subregion) -> None:
        """Issue what renames tokens that the model has drawn."""
        self._runtime.launch(rename, tokens=drawn, names=self.of_llm.part())


def _table(runtime: Runtime, name: str, values: IntArray) -> Region:
    """A region that holds an array."""
    region = runtime.region(name, values.shape, {"i": torch.int64})
    runtime.launch(load_table, table=region.part(), values=values)
    return region


def can_expand(ssm: SSMSpeculator) -> bool:
    """Whether lanes can draw an SSM's trees: full ones."""
    return ssm.max_nodes == sum(level_sizes(ssm.expansion))


def full_parents(expansion: tuple[int, ...]) -> list[int]:
    """The parents of a full tree's nodes, level by level.

    >>> full_parents((2, 1))
    [-1, 0, 0, 1, 2]
    """
    parents, first, frontier = [-1], 0, 1
    for width in expansion:
        parents += [first + child // width for child in range(frontier * width)]
        first, frontier = first + frontier, frontier * width
    return parents
