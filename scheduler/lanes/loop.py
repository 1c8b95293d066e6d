"""The launches of an iteration over lanes.

Drafters write their trees, the LLM computes the union of them, the walk along its tokens is taken,
and the K/V of what was accepted are moved to where they stay. Everything is on the device; what
came of it is fetched without waiting, and looked at later.
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
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.privilege import R
from specinfer.runtime.region import Subregion
from specinfer.runtime.task import task
from specinfer.scheduler.decoder import Decoder
from specinfer.scheduler.lanes.batches import verify_batch
from specinfer.scheduler.lanes.drafter import LaneDrafter
from specinfer.scheduler.lanes.drafters import make_drafters
from specinfer.scheduler.lanes.racing import CHOICE, choices_of, race
from specinfer.scheduler.lanes.ssm import SSMDrafter
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
"""Numbers of lanes whose iterations are kept as traces."""


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
        trees: by drafter.
        drafters: whose trees these are.
    """

    def __init__(
        self, outcome: Fetched, trees: Sequence[Fetched], drafters: Sequence[LaneDrafter]
    ) -> None:
        self._outcome = outcome
        self._trees = trees
        self._drafters = drafters

    def read(self, lanes: Sequence[int]) -> list[Result]:
        """What it did in some lanes; waits for it."""
        found, trees = self._outcome.get(), [tree.get() for tree in self._trees]
        outcome, path, count = found["outcome"], found["path"], found["count"]
        results = []
        for lane in lanes:
            taken = int(outcome[lane, 0])
            tokens = outcome[lane, 1 : 1 + taken].tolist()
            nodes = path[lane, : taken - 1].tolist()
            drafts = [
                drafter.drawn(tree, lane)
                for drafter, tree in zip(self._drafters, trees, strict=True)
            ]
            results.append(Result(Accepted(nodes, tokens), drafts, int(count[lane]) - 1))
        return results


class LaneLoop:
    """Iterations over lanes.

    Args:
        llm: the model whose text is written.
        speculators: of which lanes can draw the trees; none for decoding alone.

    Attributes:
        depth: most tokens that an iteration accepts, the LLM's own not counted.
    """

    def __init__(self, llm: Decoder, speculators: Sequence[Speculator]) -> None:
        runtime = self._runtime = llm.model.runtime
        limits = llm.model.limits
        lanes = limits.requests
        self._llm = Pool(runtime, llm)
        self._drafters = make_drafters(runtime, speculators, lanes)
        self._ssms = [d for d in self._drafters if isinstance(d, SSMDrafter)]
        self.depth = max((drafter.depth for drafter in self._drafters), default=0)
        nodes = sum(speculator.max_nodes for speculator in speculators)
        self._nodes = nodes
        self._text = runtime.region("lanes.text", (lanes, limits.context), {"i": torch.int64})
        self._length = runtime.region("lanes.length", (lanes,), {"n": torch.int64})
        self._choices = runtime.region("lanes.choices", (lanes, CHOICE), {"i": torch.int64})
        self._samples = False
        self._names = runtime.region("lanes.own", (0,), {"i": torch.int64})
        self._merged = TreeTables.of(runtime, "lanes", lanes, nodes)
        self._best = runtime.region("lanes.best", (lanes * (1 + nodes),), {"i": torch.int64})
        width = max(1, self.depth)
        self._path = runtime.region("lanes.path", (lanes, width), {"i": torch.int64})
        self._outcome = runtime.region("lanes.outcome", (lanes, width + 2), {"i": torch.int64})
        self._moves = runtime.region("lanes.moves", (2, lanes * width), {"i": torch.int64})
        self._trace = runtime.trace("lanes", self._launch, keeps=LOOPS)

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

    def issue(self, lanes: int) -> Issued:
        """Issue an iteration of the first lanes."""
        outcome, *trees = (future.get() for future in self._trace(lanes, self._samples))
        return Issued(outcome, trees, self._drafters)

    def _load(self, table: Subregion, values: IntArray) -> None:
        self._runtime.launch(load_table, table=table, values=values)

    def _launch(self, count: int, samples: bool) -> list[Any]:
        """The body of the trace."""
        launch = self._runtime.launch
        choices = self._choices.rows(0, count) if samples else None
        lanes = Lanes(count, self._text.rows(0, count), self._length.rows(0, count), choices)
        merged = self._merged.parts(count)
        launch(begin_tree, **lanes.texts, **merged)
        for drafter in self._drafters:
            drafter.draw(lanes)
            launch(add_tree, **drafter.tree.parts(count), **self._merged.parts(count, "into_"))
        llm, rows = self._llm, count * (1 + self._nodes)
        shape, pages = StepShape(rows, count, rows), llm.pages.rows(0, count)
        inputs = llm.decoder.model.inputs(shape)
        length = lanes.length
        launch(verify_batch, length=length, **merged, lane_pages=pages, **inputs, **llm.scratch)
        logits = llm.decoder.model.compute(shape)
        best = self._best.rows(0, rows)
        if choices is None:
            launch(likeliest, logits=logits, tokens=best)
        else:
            launch(
                race,
                logits=logits,
                choices=choices,
                positions=inputs["rows"].region.part(inputs["rows"].space, "positions"),
                names=self._names,
                tokens=best,
                behind=1,
            )
        path, outcome = self._path.rows(0, count), self._outcome.rows(0, count)
        launch(walk_greedy, best=best, **merged, path=path, outcome=outcome)
        moves = self._moves.part(IndexSpace((0, 0), (2, count * self._path.shape[1])))
        for drafter in self._drafters:
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
        return [fetched, *(drafter.fetch(count) for drafter in self._drafters)]
