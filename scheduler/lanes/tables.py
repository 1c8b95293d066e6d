"""Tables that the host loads and looks at, and how both go on without waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specinfer.ops.kernels import tables_cuda
from specinfer.runtime.context import Runtime
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.privilege import WD
from specinfer.runtime.region import Region, Subregion
from specinfer.runtime.task import task
from specinfer.scheduler.decoder import Decoder
from specinfer.scheduler.kv_pages import num_pages

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


@task(table=WD)
def load_table(table: Tensor, values: IntArray) -> None:
    """Write host values to the beginning of a table, and 0 to the rest."""
    table.zero_()
    table[tuple(map(slice, values.shape))] = torch.from_numpy(values)


@load_table.variant("cuda")
def _load_table_on_gpu(table: Tensor, values: IntArray) -> None:
    tables_cuda.fill_tables([table], [values], [0])


def matrix(rows: Sequence[Sequence[int] | IntArray]) -> IntArray:
    """Rows of different lengths, with 0 behind the shorter ones.

    >>> matrix([[1, 2], [3]]).tolist()
    [[1, 2], [3, 0]]
    """
    table = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, given in zip(table, rows, strict=True):
        row[: len(given)] = given
    return table


@dataclass(frozen=True, slots=True, eq=False)
class TreeTables:
    """Tables of a tree in each lane: fields ``tokens`` and ``parents``, and how many nodes."""

    nodes: Region
    count: Region

    @classmethod
    def of(cls, runtime: Runtime, name: str, lanes: int, nodes: int) -> TreeTables:
        """For trees of so many nodes, the root not counted."""
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


class Pool:
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


@dataclass(frozen=True, slots=True)
class Lanes:
    """What drafters are told of the lanes of an iteration.

    Attributes:
        count: how many.
        text: (count, context) tokens.
        length: (count,) of each text.
        choices: (count, 5) how tokens are picked, see :mod:`specinfer.scheduler.lanes.racing`;
            None: all are the likeliest.
    """

    count: int
    text: Subregion
    length: Subregion
    choices: Subregion | None = None

    @property
    def texts(self) -> dict[str, Any]:
        """As arguments of a task."""
        return {"length": self.length, "text": self.text}
