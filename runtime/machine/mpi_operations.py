"""What one rank does for a transfer over MPI, prepared once and run as often as its launch repeats.

Buffers are allocated and messages are persistent requests. What MPI's collectives do is done with
them: all-reduce, reduce-scatter, all-gather and broadcast. Everything else is a set of messages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from specinfer.runtime.arrays import bits, store, values
from specinfer.runtime.dependence import Requirement
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.instances import Instances
from specinfer.runtime.placement import Copy, Fold, Reset, Transfer, is_local
from specinfer.runtime.reduction import reduction
from specinfer.runtime.region import FieldKey
from specinfer.runtime.watchdog import Place

_OPERATORS = {"+": MPI.SUM, "*": MPI.PROD, "min": MPI.MIN, "max": MPI.MAX}


@dataclass(frozen=True, slots=True)
class Site:
    """A transfer's field, on this rank.

    Attributes:
        name: of the field, for people.
        requirements: what the transfer does to the memory of this rank.
        instances: the memory.
        place: is told while the rank waits for others.
    """

    name: str
    requirements: tuple[Requirement, ...]
    instances: Instances
    place: Place


class Operation:
    """This rank's share of a transfer.

    Args:
        transfer: of which this rank is a part.
        site: where.
    """

    def __init__(self, transfer: Transfer, site: Site) -> None:
        self.transfer = transfer
        self.is_communication = not is_local(transfer)
        self.requirements = site.requirements
        self.instances = site.instances
        self._name = site.name
        self._place = site.place

    @property
    def num_bytes(self) -> int:
        """Of the data that this rank sends or receives."""
        key = self.transfer.key
        points = sum(r.space.volume for r in self.requirements if r.key[:2] == key)  # type: ignore[index, misc]
        return points * int(bits(self.instances.main(key)).itemsize)

    def run(self) -> None:
        """Do it, and be seen to wait for the others meanwhile."""
        place = self._place
        place.visits += 1
        place.at = self
        try:
            self._move()
        finally:
            place.at = None

    def _move(self) -> None:
        raise NotImplementedError

    def bound(self) -> Callable[[], Any]:
        """The same as a plain function."""
        return self.run

    def as_of_now(self) -> Self:
        """The same."""
        return self

    def __str__(self) -> str:
        return f"{self.transfer.kind} of {self._name}"


class Local(Operation):
    """Nothing but this rank's own memory."""

    def run(self) -> None:
        """Do it; nobody waits."""
        assert isinstance(self.transfer, Reset)
        self.instances.reset(self.transfer.key, self.transfer.space, self.transfer.op)


class AllReduce(Operation):
    """Parts of a reduction, made whole on every rank of a group."""

    def __init__(self, fold: Fold, site: Site, comm: MPI.Intracomm) -> None:
        super().__init__(fold, site)
        instances = self.instances
        self._comm = comm
        self._op = _OPERATORS[fold.op]
        self._fold = reduction(fold.op).fold
        self._partial = instances.view(fold.key, fold.space, is_partial=True)
        self._main = instances.view(fold.key, fold.space)
        self._holds_base = instances.rank in fold.bases
        self._buffer = np.empty(fold.space.shape, values(self._partial).dtype)

    def _move(self) -> None:
        self._buffer[...] = values(self._partial)
        if self._holds_base:
            self._fold(self._buffer, values(self._main), out=self._buffer)
        if self._comm.size > 1:
            self._comm.Allreduce(MPI.IN_PLACE, self._buffer, self._op)
        store(self._main, self._buffer)


class ReduceScatter(Operation):
    """Parts of a reduction, of which every rank of a group gets a block."""

    def __init__(self, fold: Fold, site: Site, comm: MPI.Intracomm, ranks: Sequence[int]) -> None:
        super().__init__(fold, site)
        instances = self.instances
        assert fold.blocks is not None
        self._comm = comm
        self._op = _OPERATORS[fold.op]
        self._fold = reduction(fold.op).fold
        wanted = dict(fold.blocks)
        blocks = [wanted.get(rank) for rank in ranks]
        self._counts = [0 if block is None else block.volume for block in blocks]
        self._parts = [
            (instances.view(fold.key, b, is_partial=True), instances.view(fold.key, b), b.volume)
            for b in blocks
            if b is not None
        ]
        self._holds_base = instances.rank in fold.bases
        own = wanted.get(instances.rank)
        self._target = None if own is None else instances.view(fold.key, own)
        self._shape = () if own is None else own.shape
        dtype = values(self._parts[0][0]).dtype
        self._send = np.empty(sum(self._counts), dtype)
        self._receive = np.empty(0 if own is None else own.volume, dtype)

    def _move(self) -> None:
        at = 0
        for partial, main, volume in self._parts:
            part = self._send[at : at + volume].reshape(partial.shape)
            part[...] = values(partial)
            if self._holds_base:
                self._fold(part, values(main), out=part)
            at += volume
        self._comm.Reduce_scatter(self._send, self._receive, self._counts, self._op)
        if self._target is not None:
            store(self._target, self._receive.reshape(self._shape))


class _Blocks(Operation):
    """The blocks of some ranks, on all ranks of a group.

    Args:
        copy: that is so.
        site: where.
        comm: of the group.
        ranks: in the group.
        blocks: of those that have one, by rank.
    """

    def __init__(
        self,
        copy: Copy,
        site: Site,
        comm: MPI.Intracomm,
        ranks: Sequence[int],
        blocks: dict[int, IndexSpace],
    ) -> None:
        super().__init__(copy, site)
        self._comm = comm
        self._prepare(copy.key, ranks, blocks)

    def _prepare(self, key: FieldKey, ranks: Sequence[int], blocks: dict[int, IndexSpace]) -> None:
        raise NotImplementedError


class Broadcast(_Blocks):
    """One rank's data, on all ranks of a group."""

    def _prepare(self, key: FieldKey, ranks: Sequence[int], blocks: dict[int, IndexSpace]) -> None:
        instances = self.instances
        ((source, space),) = blocks.items()
        self._root = ranks.index(source)
        self._array = bits(instances.view(key, space))
        self._is_source = instances.rank == source
        self._buffer = np.empty(space.shape, self._array.dtype)

    def _move(self) -> None:
        if self._is_source:
            self._buffer[...] = self._array
        self._comm.Bcast(self._buffer, self._root)
        if not self._is_source:
            self._array[...] = self._buffer


class AllGather(_Blocks):
    """The blocks of some ranks, on all ranks of a group."""

    def _prepare(self, key: FieldKey, ranks: Sequence[int], blocks: dict[int, IndexSpace]) -> None:
        instances = self.instances
        self._counts = [blocks[rank].volume if rank in blocks else 0 for rank in ranks]
        own = blocks.get(instances.rank)
        self._own = None if own is None else bits(instances.view(key, own))
        dtype = bits(instances.main(key)).dtype
        self._send = np.empty(0 if own is None else own.shape, dtype)
        self._receive = np.empty(sum(self._counts), dtype)
        self._targets: list[tuple[NDArray[Any], NDArray[Any]]] = []
        at = 0
        for rank in ranks:
            if rank not in blocks:
                continue
            space = blocks[rank]
            if rank != instances.rank:
                view = bits(instances.view(key, space))
                self._targets.append(
                    (view, self._receive[at : at + space.volume].reshape(space.shape))
                )
            at += space.volume

    def _move(self) -> None:
        if self._own is not None:
            self._send[...] = self._own
        self._comm.Allgatherv(self._send, (self._receive, self._counts))
        for target, received in self._targets:
            target[...] = received


class Messages(Operation):
    """Messages between pairs of ranks, all at once.

    Attributes:
        requests: persistent; whoever made this gives them back.
    """

    def __init__(self, copy: Copy, site: Site, comm: MPI.Intracomm) -> None:
        super().__init__(copy, site)
        instances = self.instances
        self._sent: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._received: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self.requests: list[MPI.Prequest] = []
        own = instances.rank
        # Messages between two ranks arrive in the order in which they are sent.
        for move in copy.moves:
            if own not in (move.source, move.target):
                continue
            array = bits(instances.view(copy.key, move.space))
            lies_together = array.flags.c_contiguous
            buffer = array if lies_together else np.empty(move.space.shape, array.dtype)
            if own == move.source:
                self.requests.append(comm.Send_init(buffer, move.target))
                if not lies_together:
                    self._sent.append((buffer, array))
            else:
                self.requests.append(comm.Recv_init(buffer, move.source))
                if not lies_together:
                    self._received.append((array, buffer))

    def _move(self) -> None:
        for buffer, array in self._sent:
            buffer[...] = array
        MPI.Prequest.Startall(self.requests)
        MPI.Request.Waitall(self.requests)
        for array, buffer in self._received:
            array[...] = buffer
