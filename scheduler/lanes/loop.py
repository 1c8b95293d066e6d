"""The launches of an iteration over lanes, and the tables that it works on.

For each SSM: catch up with the text, then level by level the likeliest children of each node. The
LLM computes the merged trees, the walk along its likeliest tokens is taken, and the K/V of what was
accepted are moved to where they stay. Everything is on the device; what came of it is fetched
without waiting, and looked at later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specinfer.models.batch import StepShape
from specinfer.ops.attention import move_kv
from specinfer.ops.kernels import tables_cuda
from specinfer.ops.sample import likeliest, top_k
from specinfer.runtime.context import Runtime
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.region import Region, Subregion
from specinfer.runtime.task import task
from specinfer.scheduler.decoder import Decoder
from specinfer.scheduler.kv_pages import num_pages
from specinfer.scheduler.lanes.batches import chain_batch, level_batch, verify_batch
from specinfer.scheduler.lanes.taking import take, take_draft, walk_greedy
from specinfer.scheduler.lanes.trees import add_tree, begin_tree, grow_tree
from specinfer.scheduler.speculators.ssm import SSMSpeculator, level_sizes

LOOPS = 16
"""Numbers of lanes whose iterations are kept as traces."""
IntArray = NDArray[np.int64]


class Fetched:
    """Values on their way from the device."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._here: dict[str, Tensor] = {}
        self._event: Any = None
        for name, tensor in tensors.items():
            if tensor.is_cuda:
                here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                self._here[name] = here.copy_(tensor, non_blocking=True)
            else:
                self._here[name] = tensor.clone()
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def get(self) -> dict[str, IntArray]:
        """The values, once they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        return {name: tensor.numpy() for name, tensor in self._here.items()}


@task(outcome=R, path=R)
def fetch(outcome: Tensor, path: Tensor) -> Fetched:
    """Begin to bring an iteration's outcome to the host."""
    return Fetched({"outcome": outcome, "path": path})


@task(tokens=R)
def fetch_tree(tokens: Tensor) -> Fetched:
    """Begin to bring the tokens of a drafter's trees to the host."""
    return Fetched({"tokens": tokens})


@task(table=WD)
def load_table(table: Tensor, values: IntArray) -> None:
    """Write host values to the beginning of a table, and 0 to the rest."""
    table.zero_()
    table[tuple(map(slice, values.shape))] = torch.from_numpy(values)


@load_table.variant("cuda")
def _load_table_on_gpu(table: Tensor, values: IntArray) -> None:
    tables_cuda.fill_tables([table], [values], [0])


@dataclass(frozen=True, slots=True, eq=False)
class _Tree:
    """Tables of a tree in each lane: fields ``tokens`` and ``parents``, and how many nodes."""

    nodes: Region
    count: Region

    @classmethod
    def of(cls, runtime: Runtime, name: str, lanes: int, nodes: int) -> _Tree:
        shape = (lanes, 1 + nodes)
        fields = {"tokens": torch.int64, "parents": torch.int64}
        return cls(
            runtime.region(f"{name}.tree", shape, fields),
            runtime.region(f"{name}.count", (lanes,), {"n": torch.int64}),
        )

    def parts(self, lanes: int, prefix: str = "") -> dict[str, Any]:
        """As arguments of a task: tokens, parents and count."""
        space = IndexSpace((0, 0), (lanes, self.nodes.shape[1]))
        return {
            f"{prefix}tokens": self.nodes.part(space, "tokens"),
            f"{prefix}parents": self.nodes.part(space, "parents"),
            f"{prefix}count": self.count.rows(0, lanes),
        }


class _Pool:
    """Where a model's K/V lie: page table of the lanes, and scratch.

    Attributes:
        decoder: the model.
        pages: (lanes, pages) table.
    """

    def __init__(self, runtime: Runtime, decoder: Decoder) -> None:
        limits = decoder.model.limits
        width = num_pages(limits.context)
        self.decoder = decoder
        name = f"{decoder.model.program.name}.lanes"
        self.pages = runtime.region(f"{name}.pages", (limits.requests, width), {"i": torch.int64})
        self._scratch_start = decoder.slots.scratch_start
        self._scratch_nodes = decoder.slots.scratch_nodes

    @property
    def scratch(self) -> dict[str, Any]:
        """As arguments of a task."""
        return {"scratch_start": self._scratch_start, "scratch_nodes": self._scratch_nodes}


class _Drafter:
    """An SSM with the tables of its trees.

    Attributes:
        pool: of its K/V.
        have: (lanes,) committed tokens of its K/V.
        tree: its own.
        expansion: children of a node, by level.
    """

    def __init__(self, runtime: Runtime, ssm: SSMSpeculator, lanes: int) -> None:
        self.pool = _Pool(runtime, ssm.decoder)
        self.expansion = ssm.expansion
        name = f"{ssm.name}.lanes"
        self.have = runtime.region(f"{name}.have", (lanes,), {"n": torch.int64})
        self.tree = _Tree.of(runtime, name, lanes, sum(level_sizes(ssm.expansion)))
        sizes = [1, *level_sizes(ssm.expansion)]
        self.drawn = [
            runtime.region(
                f"{name}.drawn{level}",
                (lanes * frontier, width),
                {"token": torch.int64, "log_prob": torch.float32},
            )
            for level, (frontier, width) in enumerate(zip(sizes[:-1], ssm.expansion, strict=True))
        ]


def most_lacking(ssms: Sequence[SSMSpeculator]) -> int:
    """Tokens that an SSM may lack of a text behind an iteration."""
    if len(ssms) == 1:
        return 2  # a leaf of its own, and the LLM's token
    # What it has not proposed, another one may have.
    return 1 + max((len(ssm.expansion) for ssm in ssms), default=0)


class LaneLoop:
    """Iterations over lanes.

    Args:
        llm: the model whose text is written.
        ssms: draw full trees of the likeliest tokens; at least one, or none for decoding alone.

    Attributes:
        depth: most tokens that an iteration accepts, the LLM's own not counted.
        chain: tokens that an SSM may lack of a text when an iteration begins.
    """

    def __init__(self, llm: Decoder, ssms: Sequence[SSMSpeculator]) -> None:
        runtime = self._runtime = llm.model.runtime
        limits = llm.model.limits
        lanes = limits.requests
        self.depth = max((len(ssm.expansion) for ssm in ssms), default=0)
        self.chain = most_lacking(ssms)
        self._llm = _Pool(runtime, llm)
        self._drafters = [_Drafter(runtime, ssm, lanes) for ssm in ssms]
        nodes = sum(ssm.max_nodes for ssm in ssms)
        self._nodes = nodes
        self._text = runtime.region("lanes.text", (lanes, limits.context), {"i": torch.int64})
        self._length = runtime.region("lanes.length", (lanes,), {"n": torch.int64})
        self._merged = _Tree.of(runtime, "lanes", lanes, nodes)
        self._best = runtime.region("lanes.best", (lanes * (1 + nodes),), {"i": torch.int64})
        width = max(1, self.depth)
        self._path = runtime.region("lanes.path", (lanes, width), {"i": torch.int64})
        self._outcome = runtime.region("lanes.outcome", (lanes, width + 2), {"i": torch.int64})
        self._moves = runtime.region("lanes.moves", (2, lanes * width), {"i": torch.int64})
        self._trace = runtime.trace("lanes", self._launch, keeps=LOOPS)

    def load(self, texts: Sequence[Sequence[int]], pools: Sequence[Sequence[IntArray]]) -> None:
        """Begin with these texts.

        Args:
            texts: of the lanes, prompt and output.
            pools: of the LLM, then of each SSM: the pages of each lane.
        """
        longest = max(map(len, texts))
        rows = np.zeros((len(texts), longest), np.int64)
        for row, text in zip(rows, texts, strict=True):
            row[: len(text)] = text
        self._load(self._text.part(), rows)
        self.set_lengths([len(text) for text in texts])
        for pool, pages in zip(self._pools, pools, strict=True):
            table = np.zeros((len(pages), max(map(len, pages))), np.int64)
            for row, of_lane in zip(table, pages, strict=True):
                row[: len(of_lane)] = of_lane
            self._load(pool.pages.part(), table)

    def set_lengths(self, lengths: Sequence[int]) -> None:
        """How long the lanes' texts are; 0: nothing is written there any more."""
        self._load(self._length.part(), np.array(lengths, np.int64))

    def set_drafted(self, have: Sequence[Sequence[int]]) -> None:
        """How many tokens each SSM has of the lanes' texts, by SSM."""
        for drafter, lengths in zip(self._drafters, have, strict=True):
            self._load(drafter.have.part(), np.array(lengths, np.int64))

    def drafted(self) -> list[list[int]]:
        """How many tokens each SSM has of the lanes' texts, by SSM; waits for it."""
        return [self._runtime.read(d.have.part()).tolist() for d in self._drafters]

    def clear(self, lane: int) -> None:
        """Write nothing more in a lane."""
        self._load(self._length.rows(lane, lane + 1), np.zeros(1, np.int64))

    def issue(self, lanes: int) -> list[Fetched]:
        """Issue an iteration of the first lanes.

        Returns:
            The outcome, with the path; then the tokens of each SSM's trees.
        """
        futures = self._trace(lanes)
        return [future.get() for future in futures]

    @property
    def _pools(self) -> list[_Pool]:
        return [self._llm, *(drafter.pool for drafter in self._drafters)]

    def _load(self, table: Subregion, values: IntArray) -> None:
        self._runtime.launch(load_table, table=table, values=values)

    def _launch(self, lanes: int) -> list[Any]:
        """The body of the trace."""
        launch = self._runtime.launch
        text, length = self._text.rows(0, lanes), self._length.rows(0, lanes)
        merged = self._merged.parts(lanes)
        launch(begin_tree, length=length, text=text, **merged)
        for drafter in self._drafters:
            tree = self._drawn(drafter, lanes)
            into = self._merged.parts(lanes, "into_")
            launch(add_tree, **tree, **into)
        llm = self._llm
        rows = lanes * (1 + self._nodes)
        shape = StepShape(rows, lanes, rows)
        inputs = llm.decoder.model.inputs(shape)
        pages = llm.pages.rows(0, lanes)
        launch(verify_batch, length=length, **merged, lane_pages=pages, **inputs, **llm.scratch)
        logits = llm.decoder.model.compute(shape)
        best = self._best.rows(0, rows)
        launch(likeliest, logits=logits, tokens=best)
        path, outcome = self._path.rows(0, lanes), self._outcome.rows(0, lanes)
        launch(walk_greedy, best=best, **merged, path=path, outcome=outcome)
        moves = self._moves.part(IndexSpace((0, 0), (2, lanes * self._path.shape[1])))
        for drafter in self._drafters:
            pool = drafter.pool
            launch(
                take_draft,
                outcome=outcome,
                length=length,
                **drafter.tree.parts(lanes),
                have=drafter.have.rows(0, lanes),
                lane_pages=pool.pages.rows(0, lanes),
                moves=moves,
                computed=drafter.tree.nodes.shape[1] - level_sizes(drafter.expansion)[-1],
                **pool.scratch,
            )
            launch(move_kv, kv=pool.decoder.model.kv.part(), moves=moves)
        launch(
            take,
            outcome=outcome,
            path=path,
            lane_pages=pages,
            text=text,
            length=length,
            moves=moves,
            **llm.scratch,
        )
        launch(move_kv, kv=llm.decoder.model.kv.part(), moves=moves)
        fetched = [launch(fetch, outcome=outcome, path=path)]
        for drafter in self._drafters:
            fetched.append(launch(fetch_tree, tokens=drafter.tree.parts(lanes)["tokens"]))
        return fetched

    def _drawn(self, drafter: _Drafter, lanes: int) -> dict[str, Any]:
        """Issue what draws an SSM's trees; where they are."""
        launch = self._runtime.launch
        text, length = self._text.rows(0, lanes), self._length.rows(0, lanes)
        pool, model = drafter.pool, drafter.pool.decoder.model
        tree, pages = drafter.tree.parts(lanes), pool.pages.rows(0, lanes)
        shape = StepShape(lanes * self.chain, lanes, lanes)
        have = drafter.have.rows(0, lanes)
        inputs = model.inputs(shape)
        launch(chain_batch, length=length, text=text, have=have, lane_pages=pages, **inputs)
        launch(begin_tree, length=length, text=text, **tree)
        first, frontier = 0, 1
        for level, width in enumerate(drafter.expansion):
            if level > 0:
                rows = lanes * frontier
                shape = StepShape(rows, lanes, rows)
                nodes: dict[str, Any] = {"first": first, "last": first + frontier}
                launch(
                    level_batch,
                    length=length,
                    **tree,
                    lane_pages=pages,
                    **model.inputs(shape),
                    **nodes,
                    **pool.scratch,
                )
            logits = model.compute(shape)
            drawn = drafter.drawn[level]
            space = IndexSpace((0, 0), (lanes * frontier, width))
            tokens, log_probs = drawn.part(space, "token"), drawn.part(space, "log_prob")
            launch(top_k, logits=logits, tokens=tokens, log_probs=log_probs)
            launch(grow_tree, drawn=tokens, **tree, first=first, width=width)
            first, frontier = first + frontier, frontier * width
        return tree
