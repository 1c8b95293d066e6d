"""The ranks' talk beside the data, over MPI: what they issued, and what their watchdogs ask.

Both go over communicators of their own, so that they cannot be taken for data.
"""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from specinfer.runtime.replication import History
from specinfer.runtime.watchdog import Message, Place, Watchdog

WORDS = 3
"""Numbers in an exchange."""


class MPIControl:
    """Exchanges what ranks issued.

    Args:
        comm: the ranks; they all make their control at the same point of the program.
        place: where this rank is; kept here, too.
        patience_seconds: of the watchdog; None: there is none.
    """

    def __init__(self, comm: MPI.Intracomm, place: Place, patience_seconds: float | None) -> None:
        self._comm = comm.Dup()
        self._place = place
        self.rank = self._comm.Get_rank()
        self._send = np.zeros(WORDS, np.int64)
        self._receive = np.zeros((self._comm.Get_size(), WORDS), np.int64)
        self._watchdog: Watchdog | None = None
        if patience_seconds is not None and MPI.Query_thread() == MPI.THREAD_MULTIPLE:
            watchdog = self._watchdog = Watchdog(MPIWire(comm), place, patience_seconds)
            atexit.register(watchdog.finish)
            watchdog.start()

    def exchange(self, words: tuple[int, ...]) -> Sequence[tuple[int, ...]]:
        """The few numbers of every rank, on all of them."""
        place = self._place
        place.visits += 1
        place.at = "the comparison with other ranks"
        try:
            self._send[:] = words
            self._comm.Allgather(self._send, self._receive)
        finally:
            place.at = None
        return [tuple(row) for row in self._receive.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """A value of every rank, on all of them."""
        place = self._place
        place.visits += 1
        place.at = "the exchange of what went wrong"
        try:
            gathered: list[Any] = self._comm.allgather(value)
        finally:
            place.at = None
        return gathered

    def follow(self, history: History) -> None:
        """Tell others of this history, if ranks wait for each other."""
        if self._watchdog is not None:
            self._watchdog.history = history

    def close(self) -> None:
        """Free what this rank holds, without waiting for others."""
        self._comm.Free()
        if self._watchdog is not None:
            self._watchdog.leave()


class MPIWire:
    """Messages between watchdogs.

    Args:
        comm: the ranks.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm.Dup()
        self.rank = self._comm.Get_rank()
        self.num_ranks = self._comm.Get_size()
        self._sent: list[MPI.Request] = []
        self._leaving: MPI.Request | None = None

    def post(self, rank: int, message: Message) -> None:
        """Send without waiting."""
        self._sent = [request for request in self._sent if not request.test()[0]]
        self._sent.append(self._comm.isend(message, rank))

    def take(self) -> tuple[int, Message] | None:
        """The next message and who sent it, if there is one."""
        status = MPI.Status()
        arrived = self._comm.improbe(status=status)
        return None if arrived is None else (status.Get_source(), arrived.recv())

    def all_left(self) -> bool:
        """Whether every rank has asked this; does not wait."""
        if self._leaving is None:
            self._leaving = self._comm.Ibarrier()
        return bool(self._leaving.Test())

    def abort(self, code: int) -> None:
        """End all processes."""
        self._comm.Abort(code)

    def free(self) -> None:
        """Give back what it took; every rank has left."""
        for request in self._sent:
            request.test()
        self._comm.Free()
