"""An iteration over lanes, and its parts by themselves, issued over texts that somebody wrote.

Each has tables of its own and is a trace, so that on a GPU a run of it is a graph that the host
need not wait for. Texts are held only while something is measured: an engine has the same models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from specinfer.models.batch import StepShape
from specinfer.scheduler.decoder import Decoder
from specinfer.scheduler.lanes.batches import verify_batch
from specinfer.scheduler.lanes.drafters import full_rung, most_lacking
from specinfer.scheduler.lanes.loop import LaneLoop
from specinfer.scheduler.lanes.ssm import FollowingSSM, SSMDrafter
from specinfer.scheduler.lanes.tables import (
    IntArray,
    Lanes,
    Pool,
    TreeTables,
    load_table,
    matrix,
)
from specinfer.scheduler.lanes.trees import add_tree, begin_tree
from specinfer.scheduler.sampling.params import GREEDY
from specinfer.scheduler.speculators.ssm import SSMSpeculator

Texts = Sequence[Sequence[int]]


@contextmanager
def pages_of(decoder: Decoder, texts: int) -> Iterator[list[IntArray]]:
    """Pages of a model for so many texts of the greatest length; nobody else holds any."""
    slots, length = decoder.slots, decoder.model.limits.context
    held = [slots.reserve(request, length) for request in range(texts)]
    assert all(held), "somebody else holds pages"
    try:
        yield [slots.pages(request, length) for request in range(texts)]
    finally:
        for request in range(texts):
            slots.release(request)


class DraftPart:
    """Trees of an SSM, and their union with nothing.

    Args:
        ssm: draws them.
        lanes: at most.

    Attributes:
        merged: the union.
        length: of the texts.
        nodes: of a tree, the root not counted.
    """

    def __init__(self, ssm: SSMSpeculator, lanes: int) -> None:
        model = ssm.decoder.model
        runtime = self._runtime = model.runtime
        self._decoder = ssm.decoder
        self._lacking = most_lacking([ssm], lanes)
        self._ssm = FollowingSSM(ssm, "bench.ssm", lanes, self._lacking)
        self._drafter = SSMDrafter(self._ssm, ssm.expansion, "bench.draft", lanes)
        self.nodes = full_rung([ssm], lanes).nodes
        self.merged = TreeTables.of(runtime, "bench.merged", lanes, self.nodes)
        self._text = runtime.region("bench.text", (lanes, model.limits.context), {"i": torch.int64})
        self.length = runtime.region("bench.length", (lanes,), {"n": torch.int64})
        self._trace = runtime.trace("bench.draft", self._launch)

    @contextmanager
    def loaded(self, texts: Texts) -> Iterator[None]:
        """Draw for these texts, of which the SSM lacks as much as it may."""
        lengths = np.array([len(text) for text in texts], np.int64)
        with pages_of(self._decoder, len(texts)) as pages:
            for table, values in (
                (self._text, matrix(texts)),
                (self.length, lengths),
                (self._ssm.pool.pages, matrix(pages)),
                (self._ssm.have, lengths - self._lacking),
            ):
                self._runtime.launch(load_table, table=table.part(), values=values)
            yield

    def issue(self, lanes: int) -> None:
        """Draw; the texts stay as they are."""
        self._trace(lanes)

    def _launch(self, count: int) -> None:
        """The body of the trace, as an iteration begins."""
        lanes = Lanes(count, self._text.rows(0, count), self.length.rows(0, count))
        self._runtime.launch(begin_tree, **lanes.texts, **self.merged.parts(count))
        self._drafter.draw(lanes)
        drawn, merged = self._drafter.tree.parts(count), self.merged.parts(count, "into_")
        self._runtime.launch(add_tree, **drawn, **merged)


class StepPart:
    """The LLM's pass over trees, up to the logits.

    Args:
        llm: computes them.
        draft: draws them.
    """

    def __init__(self, llm: Decoder, draft: DraftPart) -> None:
        self._llm = llm
        self._draft = draft
        self._pool = Pool(llm.model.runtime, llm)
        self._trace = llm.model.runtime.trace("bench.step", self._launch)

    @contextmanager
    def loaded(self, texts: Texts) -> Iterator[None]:
        """Compute trees of these texts."""
        runtime, count = self._llm.model.runtime, len(texts)
        with self._draft.loaded(texts), pages_of(self._llm, count) as pages:
            runtime.launch(load_table, table=self._pool.pages.part(), values=matrix(pages))
            self._draft.issue(count)
            runtime.launch(
                verify_batch,
                length=self._draft.length.rows(0, count),
                **self._draft.merged.parts(count),
                lane_pages=self._pool.pages.rows(0, count),
                **self._llm.model.inputs(self._shape(count)),
                **self._pool.scratch,
            )
            yield

    def issue(self, lanes: int) -> None:
        """Compute; nothing is committed."""
        self._trace(lanes)

    def _shape(self, count: int) -> StepShape:
        rows = count * (1 + self._draft.nodes)
        return StepShape(rows, count, rows)

    def _launch(self, count: int) -> None:
        """The body of the trace."""
        self._llm.model.compute(self._shape(count))


class IterationPart:
    """Whole iterations, as an engine issues them.

    Args:
        llm: the model whose text is written.
        ssm: draws the trees.
        lanes: at most.
    """

    def __init__(self, llm: Decoder, ssm: SSMSpeculator, lanes: int) -> None:
        self._decoders = llm, ssm.decoder
        self._loop = LaneLoop(llm, [ssm], [full_rung([ssm], lanes)])
        self._lacking = self._loop.chain

    @contextmanager
    def loaded(self, texts: Texts) -> Iterator[None]:
        """Go on with these texts."""
        llm, ssm = self._decoders
        with pages_of(llm, len(texts)) as of_llm, pages_of(ssm, len(texts)) as of_ssm:
            self._loop.load(texts, [GREEDY] * len(texts), [of_llm, of_ssm])
            self._loop.set_drafted([[len(text) - self._lacking for text in texts]])
            yield

    def issue(self, lanes: int) -> None:
        """Write some tokens more; nobody reads what came of it."""
        self._loop.issue(lanes, 0)
