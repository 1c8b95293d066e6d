"""One process a rank, over MPI: every process runs the same program and does its own share.

Transfers are prepared once and used for as long as their launches repeat: buffers are allocated and
messages are persistent requests.

What MPI's collectives do is done with them: all-reduce, reduce-scatter, all-gather and broadcast.
Everything else is a set of messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self
from weakref import finalize

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from specinfer.runtime.arrays import bits, store, values
from specinfer.runtime.dependence import Requirement
from specinfer.runtime.executor import Operation
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.instances import Instances
from specinfer.runtime.machine import transfer_requirements
from specinfer.runtime.machine.control import MPIControl
from specinfer.runtime.placement import Copy, Fold, Reset, Transfer, is_local, members
from specinfer.runtime.reduction import reduction
from specinfer.runtime.region import FieldKey, Region
from specinfer.runtime.watchdog import Place

_OPERATORS = {"+": MPI.SUM, "*": MPI.PROD, "min": MPI.MIN, "max": MPI.MAX}


class MPIRanks:
    """The ranks of an MPI communicator.

    Args:
        comm: by default all processes of ``mpirun``.
        patience_seconds: how long a rank may wait for others that wait, too, before the job is
            ended (:mod:`specinfer.runtime.watchdog`); None: for ever.

    Attributes:
        place: where this rank is.
        control: how ranks find out whether they run the same program; None if there is but one.
    """

    def __init__(
        self,
        comm: MPI.Intracomm | None = None,
        *,
        patience_seconds: float | None = 10.0,
    ) -> None:
        self._comm = (comm or MPI.COMM_WORLD).Dup()
        self.place = Place()
        self.num_ranks = self._comm.Get_size()
        self.rank = self._comm.Get_rank()
        self.ranks = (self.rank,)
        self._regions: dict[int, Region] = {}
        self._instances = Instances(self.rank, self._regions)
        self._groups: dict[int, MPI.Intracomm] = {}
        self._requests: dict[int, list[MPI.Prequest]] = {}
        self._dropped: deque[int] = deque()
        self.control = (
            MPIControl(self._comm, self.place, patience_seconds) if self.num_ranks > 1 else None
        )
        self._is_open = True

    def add_region(self, region: Region) -> None:
        """Take in a new region."""
        self._regions[region.id] = region

    def region_name(self, id: int) -> str:
        """Of a region by its number."""
        return self._regions[id].name

    def instances(self, rank: int) -> Instances:
        """The memory of this process."""
        return self._instances

    def transfer(self, transfer: Transfer, *, as_messages: bool) -> Operation | None:
        """This rank's share of a transfer."""
        while self._dropped:
            _free(self._requests.pop(self._dropped.popleft()))
        if not transfer.ranks >> self.rank & 1:
            return None
        requirements = transfer_requirements(transfer, self._regions[transfer.key[0]], self.ranks)
        match transfer:
            case Reset():
                return _Local(transfer, requirements, self)
            case Fold():
                (group,) = (g for g in transfer.groups if g >> self.rank & 1)
                comm = self._group(group)
                if transfer.blocks is None:
                    return _AllReduce(transfer, requirements, self, comm)
                return _ReduceScatter(transfer, requirements, self, comm, members(group))
            case Copy():
                blocks = None if as_messages or len(transfer.moves) == 1 else transfer.blocks()
                if blocks:
                    ranks = transfer.ranks
                    comm = self._group(ranks)
                    kind = _Broadcast if len(blocks) == 1 else _AllGather
                    return kind(transfer, requirements, self, comm, members(ranks), blocks)
                return _Messages(transfer, requirements, self, self._comm)

    def keep(self, operation: object, requests: list[MPI.Prequest]) -> None:
        """Give an operation's requests back when it is gone, or the machine is closed.

        Requests that are not given back keep their communicator. Operations may go while MPI is at
        work, wherever Python collects garbage: a call of MPI from there may wait for ever. It is
        only noted then, and done where the next transfer is made.
        """
        self._requests[id(requests)] = requests
        finalize(operation, self._dropped.append, id(requests)).atexit = False

    def send_value(self, value: Any, root: int) -> Any:
        """A Python value of one rank, on all of them."""
        return self._wait_in("the broadcast of a value", self._comm.bcast, value, root)

    def gather_values(self, value: Any) -> list[Any]:
        """One Python value of each rank, on all of them."""
        gathered: list[Any] = self._wait_in("the exchange of values", self._comm.allgather, value)
        return gathered

    def close(self) -> None:
        """Free the communicators; does not wait for other ranks, nor need them to be well."""
        if not self._is_open or MPI.Is_finalized():
            return
        self._is_open = False
        for requests in self._requests.values():
            _free(requests)
        self._requests.clear()
        self._dropped.clear()
        if self.control is not None:
            self.control.close()
        for comm in self._groups.values():
            if comm != self._comm:
                comm.Free()
        self._groups.clear()
        self._comm.Free()

    def _group(self, ranks: int) -> MPI.Intracomm:
        """A communicator of some ranks; they all ask for it at the same point of the program."""
        if ranks not in self._groups:
            if ranks == (1 << self.num_ranks) - 1:
                self._groups[ranks] = self._comm
            else:
                group = self._comm.Get_group().Incl(members(ranks))
                self._groups[ranks] = self._wait_in(
                    f"the making of a group of ranks {members(ranks)}",
                    self._comm.Create_group,
                    group,
                    ranks % 30000,
                )
                group.Free()
        return self._groups[ranks]

    def _wait_in(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call something that waits for other ranks."""
        self.place.visits += 1
        self.place.at = what
        try:
            return function(*arguments)
        finally:
            self.place.at = None


class _Operation:
    """This rank's share of a transfer."""

    def __init__(
        self, transfer: Transfer, requirements: tuple[Requirement, ...], machine: MPIRanks
    ) -> None:
        self.transfer = transfer
        self.is_communication = not is_local(transfer)
        self.requirements = requirements
        self.instances = machine.instances(machine.rank)
        self._machine = machine
        self._place = machine.place

    @property
    def num_bytes(self) -> int:
        """Of the data that this rank sends or receives."""
        key = self.transfer.key
        points = sum(r.space.volume for r in self.requirements if r.key[:2] == key)  # type: ignore[index, misc]
        return points * _itemsize(self.instances, key)

    def run(self) -> None:
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
        return self.run

    def as_of_now(self) -> Self:
        return self

    def __str__(self) -> str:
        region, field = self.transfer.key
        return f"{self.transfer.kind} of {self._machine.region_name(region)}.{field}"


class _Local(_Operation):
    """Nothing but this rank's own memory."""

    def run(self) -> None:
        assert isinstance(self.transfer, Reset)
        self.instances.reset(self.transfer.key, self.transfer.space, self.transfer.op)


class _AllReduce(_Operation):
    """Parts of a reduction, made whole on every rank of a group."""

    def __init__(
        self,
        fold: Fold,
        requirements: tuple[Requirement, ...],
        machine: MPIRanks,
        comm: MPI.Intracomm,
    ) -> None:
        super().__init__(fold, requirements, machine)
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


class _ReduceScatter(_Operation):
    """Parts of a reduction, of which every rank of a group gets a block."""

    def __init__(
        self,
        fold: Fold,
        requirements: tuple[Requirement, ...],
        machine: MPIRanks,
        comm: MPI.Intracomm,
        ranks: Sequence[int],
    ) -> None:
        super().__init__(fold, requirements, machine)
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


class _Broadcast(_Operation):
    """One rank's data, on all ranks of a group."""

    def __init__(
        self,
        copy: Copy,
        requirements: tuple[Requirement, ...],
        machine: MPIRanks,
        comm: MPI.Intracomm,
        ranks: Sequence[int],
        blocks: dict[int, IndexSpace],
    ) -> None:
        super().__init__(copy, requirements, machine)
        instances = self.instances
        ((source, space),) = blocks.items()
        self._comm = comm
        self._root = ranks.index(source)
        self._array = bits(instances.view(copy.key, space))
        self._is_source = instances.rank == source
        self._buffer = np.empty(space.shape, self._array.dtype)

    def _move(self) -> None:
        if self._is_source:
            self._buffer[...] = self._array
        self._comm.Bcast(self._buffer, self._root)
        if not self._is_source:
            self._array[...] = self._buffer


class _AllGather(_Operation):
    """The blocks of some ranks, on all ranks of a group."""

    def __init__(
        self,
        copy: Copy,
        requirements: tuple[Requirement, ...],
        machine: MPIRanks,
        comm: MPI.Intracomm,
        ranks: Sequence[int],
        blocks: dict[int, IndexSpace],
    ) -> None:
        super().__init__(copy, requirements, machine)
        instances = self.instances
        self._comm = comm
        self._counts = [blocks[rank].volume if rank in blocks else 0 for rank in ranks]
        own = blocks.get(instances.rank)
        self._own = None if own is None else bits(instances.view(copy.key, own))
        dtype = bits(instances.main(copy.key)).dtype
        self._send = np.empty(0 if own is None else own.shape, dtype)
        self._receive = np.empty(sum(self._counts), dtype)
        self._targets: list[tuple[NDArray[Any], NDArray[Any]]] = []
        at = 0
        for rank in ranks:
            if rank not in blocks:
                continue
            space = blocks[rank]
            if rank != instances.rank:
                view = bits(instances.view(copy.key, space))
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


class _Messages(_Operation):
    """Messages between pairs of ranks, all at once."""

    def __init__(
        self,
        copy: Copy,
        requirements: tuple[Requirement, ...],
        machine: MPIRanks,
        comm: MPI.Intracomm,
    ) -> None:
        super().__init__(copy, requirements, machine)
        instances = self.instances
        self._sent: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._received: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._requests: list[MPI.Prequest] = []
        machine.keep(self, self._requests)
        own = instances.rank
        # Messages between two ranks arrive in the order in which they are sent.
        for move in copy.moves:
            if own not in (move.source, move.target):
                continue
            array = bits(instances.view(copy.key, move.space))
            lies_together = array.flags.c_contiguous
            buffer = array if lies_together else np.empty(move.space.shape, array.dtype)
            if own == move.source:
                self._requests.append(comm.Send_init(buffer, move.target))
                if not lies_together:
                    self._sent.append((buffer, array))
            else:
                self._requests.append(comm.Recv_init(buffer, move.source))
                if not lies_together:
                    self._received.append((array, buffer))

    def _move(self) -> None:
        for buffer, array in self._sent:
            buffer[...] = array
        MPI.Prequest.Startall(self._requests)
        MPI.Request.Waitall(self._requests)
        for array, buffer in self._received:
            array[...] = buffer


def _free(requests: Sequence[MPI.Prequest]) -> None:
    for request in requests:
        request.Free()


def _itemsize(instances: Instances, key: FieldKey) -> int:
    return int(bits(instances.main(key)).itemsize)
