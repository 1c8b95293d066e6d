"""Puts the profiles of several ranks on one clock, and together.

Each process counts nanoseconds from a moment of its own. Rank 0 sends each other rank a message,
which is answered with the time there: the reply lies between sending and receiving, most likely in
the middle. The quickest of several tries bounds the difference most tightly (Cristian, 1989).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import Any, Protocol

from specinfer.runtime.profile.record import Profile

Sample = tuple[int, int, int]
"""When a message was sent, when it was answered by the other clock, and when that came back."""

DEFAULT_TRIES = 16
MPI_TAG = 7_301


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """How far another clock is ahead, in ns, and by how much this may be wrong."""

    ahead: int
    error: int


class Link(Protocol):
    """Carries objects between ranks, in order."""

    def send(self, obj: Any, rank: int) -> None:
        """Give an object to another rank."""
        ...

    def receive(self, rank: int) -> Any:
        """The next object that another rank gave; waits for it."""
        ...


class MPILink:
    """A link over an mpi4py communicator.

    Args:
        comm: the communicator; no one else may use ``tag`` on it.
        tag: of the messages.
    """

    def __init__(self, comm: Any, tag: int = MPI_TAG) -> None:
        self._comm = comm
        self._tag = tag

    def send(self, obj: Any, rank: int) -> None:
        """Give an object to another rank."""
        self._comm.send(obj, dest=rank, tag=self._tag)

    def receive(self, rank: int) -> Any:
        """The next object that another rank gave."""
        return self._comm.recv(source=rank, tag=self._tag)


def clock_offset(samples: Sequence[Sample]) -> ClockOffset:
    """How far the other clock is ahead, by the sample whose round trip was shortest.

    >>> clock_offset([(0, 1_090, 100), (200, 1_210, 220)])
    ClockOffset(ahead=1000, error=10)

    Args:
        samples: at least one, in ns.
    """
    sent, remote, back = min(samples, key=lambda sample: sample[2] - sample[0])
    return ClockOffset(remote - (sent + back) // 2, (back - sent + 1) // 2)


def merge(profiles: Sequence[Profile], ahead: Mapping[int, int]) -> Profile:
    """One profile of several, by one clock.

    Args:
        profiles: of different ranks.
        ahead: by rank, how far its clock is ahead of that of the result, in ns; default 0.
    """
    shifted = [_shifted(profile, ahead) for profile in profiles]
    return Profile(
        tuple(span for profile in shifted for span in profile.spans),
        tuple(instant for profile in shifted for instant in profile.instants),
        tuple(sample for profile in shifted for sample in profile.samples),
        tuple(request for profile in shifted for request in profile.requests),
        sum(profile.num_dropped for profile in shifted),
    )


def gather(
    profile: Profile, link: Link, rank: int, num_ranks: int, *, tries: int = DEFAULT_TRIES
) -> Profile | None:
    """Bring all ranks' profiles to rank 0, by its clock. Every rank calls this.

    Args:
        profile: of this rank.
        link: between the ranks.
        rank: of this process.
        num_ranks: of the program.
        tries: messages by which each clock is compared.

    Returns:
        All of it on rank 0, None on the others.
    """
    if rank:
        for _ in range(tries):
            link.receive(0)
            link.send(perf_counter_ns(), 0)
        link.send(profile, 0)
        return None
    profiles, ahead = [profile], {}
    for other in range(1, num_ranks):
        samples = [_ping(link, other) for _ in range(tries)]
        ahead[other] = clock_offset(samples).ahead
        profiles.append(link.receive(other))
    return merge(profiles, ahead)


def _ping(link: Link, rank: int) -> Sample:
    sent = perf_counter_ns()
    link.send(None, rank)
    remote: int = link.receive(rank)
    return sent, remote, perf_counter_ns()


def _shifted(profile: Profile, ahead: Mapping[int, int]) -> Profile:
    if not any(ahead.values()):
        return profile

    def by(rank: int, time: int) -> int:
        return time - ahead.get(rank, 0)

    return replace(
        profile,
        spans=tuple(
            replace(s, start=by(s.rank, s.start), stop=by(s.rank, s.stop)) for s in profile.spans
        ),
        instants=tuple(replace(i, time=by(i.rank, i.time)) for i in profile.instants),
        samples=tuple(replace(s, time=by(s.rank, s.time)) for s in profile.samples),
        requests=tuple(
            replace(r, start=by(r.rank, r.start), stop=by(r.rank, r.stop)) for r in profile.requests
        ),
    )
