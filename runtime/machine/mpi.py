"""One process a rank, over MPI: every process runs the same program and does its own share.

What a rank does for a transfer is in :mod:`specinfer.runtime.machine.mpi_operations`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from weakref import finalize

from mpi4py import MPI

from specinfer.runtime.executor import Operation
from specinfer.runtime.instances import Instances
from specinfer.runtime.machine import transfer_requirements
from specinfer.runtime.machine.control import MPIControl
from specinfer.runtime.machine.mpi_operations import (
    AllGather,
    AllReduce,
    Broadcast,
    Local,
    Messages,
    ReduceScatter,
    Site,
)
from specinfer.runtime.placement import Copy, Fold, Reset, Transfer, members
from specinfer.runtime.region import Region
from specinfer.runtime.watchdog import Place


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

    def instances(self, rank: int) -> Instances:
        """The memory of this process."""
        return self._instances

    def transfer(self, transfer: Transfer, *, as_messages: bool) -> Operation | None:
        """This rank's share of a transfer."""
        while self._dropped:
            _free(self._requests.pop(self._dropped.popleft()))
        if not transfer.ranks >> self.rank & 1:
            return None
        id, field = transfer.key
        region = self._regions[id]
        requirements = transfer_requirements(transfer, region, self.ranks)
        site = Site(f"{region.name}.{field}", requirements, self._instances, self.place)
        match transfer:
            case Reset():
                return Local(transfer, site)
            case Fold():
                (group,) = (g for g in transfer.groups if g >> self.rank & 1)
                comm = self._group(group)
                if transfer.blocks is None:
                    return AllReduce(transfer, site, comm)
                return ReduceScatter(transfer, site, comm, members(group))
            case Copy():
                blocks = None if as_messages or len(transfer.moves) == 1 else transfer.blocks()
                if blocks:
                    ranks = transfer.ranks
                    kind = Broadcast if len(blocks) == 1 else AllGather
                    return kind(transfer, site, self._group(ranks), members(ranks), blocks)
                messages = Messages(transfer, site, self._comm)
                self._keep(messages, messages.requests)
                return messages

    def _keep(self, operation: object, requests: list[MPI.Prequest]) -> None:
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


def _free(requests: Sequence[MPI.Prequest]) -> None:
    for request in requests:
        request.Free()
