"""The launches of an iteration over lanes.

Drafters write their trees, the LLM computes the union of them, the walk along its tokens is taken,
and the K/V of what was accepted are moved to where they stay. Everything is on the device; what
came of it is fetched without waiting, and looked at later. How much is drawn, a *rung*
(:mod:`specinfer.scheduler.lanes.rungs`), is decided anew for each iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specinfer.models.batch import StepShape
from specinfer.ops.attention import move_kv
from specinfer.ops.sample import likeliest
from specinfer.runtime.context import Runtime
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.privilege import R
from specinfer.runtime.region import Region, Subregion
from specinfer.runtime.task import task
from specinfer.scheduler.decoder import Decoder
from specinfer.scheduler.lanes.batches import verify_batch
from specinfer.scheduler.lanes.drafter import LaneDrafter
from specinfer.scheduler.lanes.drafters import following, make_drafters
from specinfer.scheduler.lanes.racing import CHOICE, choices_of, race
from specinfer.scheduler.lanes.rungs import Rung
from specinfer.scheduler.lanes.tables import (
    Fetched,
    IntArray,
    Lanes,
    Pool,
    TreeTables,
    load_table,
    matrix,
)
from specinfer.scheduler.lanes.taking import take, walk_greedy
from specinfer.scheduler.lanes.trees import add_tree, begin_tree
from specinfer.scheduler.late_tree import FlatTree
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.verifiers import Accepted

LOOPS = 16
"""Numbers of lanes whose iterations are kept as traces, on each rung."""
CATCHING_UP = (16, 64, 256)
"""Rows of a lane in steps of SSMs that catch up, if there are so many."""
NOTHING = FlatTree((0,), (-1,))
"""What a drafter has proposed that draws nothing."""


@task(outcome=R, path=R, count=R)
def fetch(outcome: Tensor, path: Tensor, count: Tensor) -> Fetched:
    """Begin to bring an iteration's outcome to the host, and the number of nodes."""
    return Fetched({"outcome": outcome, "path": path, "count": count})


@dataclass(frozen=True, slots=True)
class Result:
    """What an iteration did in a lane.

    Attributes:
        accepted: nodes and tokens.
        drafts: what each drafter had proposed.
        num_nodes: of the union of that, the root not counted.
    """

    accepted: Accepted
    drafts: Sequence[FlatTree]
    num_nodes: int


class Issued:
    """An iteration that was issued.

    Args:
        outcome: on its way.
        trees: of the drafters that draw.
        drafters: all of them; None: it draws nothing.
    """

    def __init__(
        self, outcome: Fetched, trees: Sequence[Fetched], drafters: Sequence[LaneDrafter | None]
    ) -> None:
        self._outcome = outcome
        self._trees = trees
        self._drafters = drafters

    def read(self, lanes: Sequence[int]) -> list[Result]:
        """What it did in some lanes; waits for it."""
        found, fetched = self._outcome.get(), iter([tree.get() for tree in self._trees])
        drawn = [None if drafter is None else next(fetched) for drafter in self._drafters]
        outcome, path, count = found["outcome"], found["path"], found["count"]
        results = []
        for lane in lanes:
            taken = int(outcome[lane, 0])
            tokens = outcome[lane, 1 : 1 + taken].tolist()
            nodes = path[lane, : taken - 1].tolist()
            drafts = [
                NOTHING if drafter is None or tree is None else drafter.drawn(tree, lane)
                for drafter, tree in zip(self._drafters, drawn, strict=True)
            ]
            results.append(Result(Accepted(nodes, tokens), drafts, int(count[lane]) - 1))
        return results


@dataclass(frozen=True, slots=True, eq=False)
class _Tables:
    """What an iteration on a rung writes.

    Attributes:
        rung: what is drawn.
        drafters: draw it; None: nothing.
        merged: the union of their trees.
        best: the LLM's token behind each node.
        path: see :mod:`specinfer.scheduler.lanes.taking`, as for what follows.
        outcome: of the walk.
        moves: of K/V.
    """

    rung: Rung
    drafters: Sequence[LaneDrafter | None]
    merged: TreeTables
    best: Region
    path: Region
    outcome: Region
    moves: Region

    @classmethod
    def of(
        cls,
        runtime: Runtime,
        name: str,
        lanes: int,
        rung: Rung,
        drafters: Sequence[LaneDrafter | None],
    ) -> _Tables:
        """For so many lanes."""
        nodes, width, field = rung.nodes, max(1, rung.depth), {"i": torch.int64}
        return cls(
            rung,
            drafters,
            TreeTables.of(runtime, name, lanes, nodes),
            runtime.region(f"{name}.best", (lanes * (1 + nodes),), field),
            runtime.region(f"{name}.path", (lanes, width), field),
            runtime.region(f"{name}.outcome", (lanes, width + 2), field),
            runtime.region(f"{name}.moves", (2, lanes * width), field),
        )


class LaneLoop:
    """Iterations over lanes.

    Args:
        llm: the model whose text is written.
        speculators: of which lanes can draw the trees; none for decoding alone.
        rungs: that iterations may draw.

    Attributes:
        rungs: see above.
        depth: most tokens that an iteration accepts, the LLM's own not counted.
        chain: most tokens of a text that SSMs may lack, and yet draw.
    """

    def __init__(
        self, llm: Decoder, speculators: Sequence[Speculator], rungs: Sequence[Rung]
    ) -> None:
        runtime = self._runtime = llm.model.runtime
        limits = llm.model.limits
        lanes = limits.requests
        self._llm = Pool(runtime, llm)
        ssms = following(speculators, lanes)
        self._ssms = [ssm for ssm in ssms if ssm is not None]
        self.rungs = rungs
        self.depth = max(rung.depth for rung in rungs)
        self.chain = min((ssm.chain for ssm in self._ssms), default=0)
        self._text = runtime.region("lanes.text", (lanes, limits.context), {"i": torch.int64})
        self._length = runtime.region("lanes.length", (lanes,), {"n": torch.int64})
        self._choices = runtime.region("lanes.choices", (lanes, CHOICE), {"i": torch.int64})
        self._samples = False
        self._names = runtime.region("lanes.own", (0,), {"i": torch.int64})
        self._tables: list[_Tables] = []
        for number, rung in enumerate(rungs):
            name = f"lanes.rung{number}"
            drafters = make_drafters(runtime, speculators, ssms, rung, name, lanes)
            self._tables.append(_Tables.of(runtime, name, lanes, rung, drafters))
        self._trace = runtime.trace("lanes", self._launch, keeps=LOOPS * len(rungs))
        self._catching_up = runtime.trace(
            "lanes.catch_up", self._launch_catch_up, keeps=LOOPS * len(CATCHING_UP)
        )

    def load(
        self,
        texts: Sequence[Sequence[int]],
        params: Sequence[SamplingParams],
        pools: Sequence[Sequence[IntArray]],
    ) -> None:
        """Begin with these texts.

        Args:
            texts: of the lanes, prompt and output.
            params: how each lane picks tokens.
            pools: of the LLM, then of each SSM: the pages of each lane.
        """
        self._load(self._text.part(), matrix(texts))
        self._load(self._length.part(), np.array([len(text) for text in texts], np.int64))
        self._samples = not all(one.is_greedy for one in params)
        if self._samples:
            self._load(self._choices.part(), choices_of(params))
        tables = [self._llm, *(ssm.pool for ssm in self._ssms)]
        for pool, pages in zip(tables, pools, strict=True):
            self._load(pool.pages.part(), matrix(pages))

    def set_drafted(self, have: Sequence[Sequence[int]]) -> None:
        """How many tokens each SSM has of the lanes' texts, by SSM."""
        for ssm, lengths in zip(self._ssms, have, strict=True):
            self._load(ssm.have.part(), np.array(lengths, np.int64))

    def drafted(self) -> list[list[int]]:
        """How many tokens each SSM has of the lanes' texts, by SSM; waits for it."""
        return [self._runtime.read(ssm.have.part()).tolist() for ssm in self._ssms]

    def clear(self, lane: int) -> None:
        """Write nothing more in a lane."""
        self._load(self._length.rows(lane, lane + 1), np.zeros(1, np.int64))

    def issue(self, lanes: int, rung: int) -> Issued:
        """Issue an iteration of the first lanes that draws so much; see :attr:`rungs`."""
        outcome, *trees = (future.get() for future in self._trace(lanes, self._samples, rung))
        return Issued(outcome, trees, self._tables[rung].drafters)

    def catch_up(self, lanes: int, lacking: int) -> None:
        """Issue what SSMs compute of the first lanes' texts, so that they may draw.

        Args:
            lanes: how many.
            lacking: most tokens that an SSM lacks of a text.
        """
        limits = [ssm.model.limits for ssm in self._ssms]
        most = min(min(limit.rows // lanes, limit.nodes) for limit in limits)
        sizes = sorted({min(rows, most) for rows in CATCHING_UP})
        while lacking > self.chain:
            rows = next((rows for rows in sizes if rows >= lacking - 1), sizes[-1])
            self._catching_up(lanes, rows)
            lacking -= rows

    def _load(self, table: Subregion, values: IntArray) -> None:
        self._runtime.launch(load_table, table=table, values=values)

    def _lanes(self, count: int, samples: bool) -> Lanes:
        choices = self._choices.rows(0, count) if samples else None
        return Lanes(count, self._text.rows(0, count), self._length.rows(0, count), choices)

    def _launch_catch_up(self, count: int, rows: int) -> None:
        """The body of the trace of what SSMs compute beside iterations."""
        for ssm in self._ssms:
            ssm.catch_up(self._lanes(count, samples=False), rows)

    def _launch(self, count: int, samples: bool, rung: int) -> list[Any]:
        """The body of the trace."""
        launch, tables = self._runtime.launch, self._tables[rung]
        lanes = self._lanes(count, samples)
        drafters = [drafter for drafter in tables.drafters if drafter is not None]
        merged = tables.merged.parts(count)
        launch(begin_tree, **lanes.texts, **merged)
        for drafter in drafters:
            drafter.draw(lanes)
            launch(add_tree, **drafter.tree.parts(count), **tables.merged.parts(count, "into_"))
        llm, rows = self._llm, count * (1 + tables.rung.nodes)
        shape, pages = StepShape(rows, count, rows), llm.pages.rows(0, count)
        inputs = llm.decoder.model.inputs(shape)
        length = lanes.length
        launch(verify_batch, length=length, **merged, lane_pages=pages, **inputs, **llm.scratch)
        logits = llm.decoder.model.compute(shape)
        best = tables.best.rows(0, rows)
        if lanes.choices is None:
            launch(likeliest, logits=logits, tokens=best)
        else:
            launch(
                race,
                logits=logits,
                choices=lanes.choices,
                positions=inputs["rows"].region.part(inputs["rows"].space, "positions"),
                names=self._names,
                tokens=best,
                behind=1,
            )
        path, outcome = tables.path.rows(0, count), tables.outcome.rows(0, count)
        launch(walk_greedy, best=best, **merged, path=path, outcome=outcome)
        moves = tables.moves.part(IndexSpace((0, 0), (2, count * tables.path.shape[1])))
        for drafter in drafters:
            drafter.take(lanes, outcome, moves)
        launch(
            take,
            outcome=outcome,
            path=path,
            lane_pages=pages,
            **lanes.texts,
            moves=moves,
            **llm.scratch,
        )
        launch(move_kv, kv=llm.decoder.model.kv.part(), moves=moves)
        fetched = launch(fetch, outcome=outcome, path=path, count=merged["count"])
        return [fetched, *(drafter.fetch(count) for drafter in drafters)]
