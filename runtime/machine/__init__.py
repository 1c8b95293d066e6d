"""Machines: the ranks a program runs on, their memories, and how data move between them.

``one`` is this process alone. ``sim`` is several ranks in this process, each with a memory of its
own. ``mpi`` is one process a rank: every process runs the same program and does its own share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from specinfer.runtime.dependence import Requirement
from specinfer.runtime.executor import Operation
from specinfer.runtime.instances import Instances
from specinfer.runtime.placement import Copy, Fold, Reset, Transfer, members
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.region import FieldKey, Region
from specinfer.runtime.replication import History

PhysicalKey = tuple[int, str, int, str]
"""Region, field, rank, and whether it is its ``main`` memory or its ``partial`` reductions."""


class Control(Protocol):
    """How processes that run the same program exchange what they issued."""

    @property
    def rank(self) -> int:
        """This one."""
        ...

    def exchange(self, words: tuple[int, ...]) -> Sequence[tuple[int, ...]]:
        """A few numbers of every rank, on all of them."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """A value of every rank, on all of them."""
        ...

    def follow(self, history: History) -> None:
        """Tell others of this history, if ranks wait for each other."""
        ...


class Machine(Protocol):
    """Ranks and their memories."""

    @property
    def num_ranks(self) -> int:
        """How many there are."""
        ...

    @property
    def ranks(self) -> tuple[int, ...]:
        """Those whose memory is in this process."""
        ...

    @property
    def control(self) -> Control | None:
        """How processes find out whether they run the same program; None if there is but one."""
        ...

    def add_region(self, region: Region) -> None:
        """Take in a new region."""
        ...

    def instances(self, rank: int) -> Instances:
        """The memory of a rank of this process."""
        ...

    def transfer(self, transfer: Transfer, *, as_messages: bool) -> Operation | None:
        """What this process does for a transfer; None if nothing."""
        ...

    def send_value(self, value: Any, root: int) -> Any:
        """A Python value of one rank, on all of them; all take part."""
        ...

    def gather_values(self, value: Any) -> list[Any]:
        """One Python value of each process, on all of them; all take part."""
        ...

    def close(self) -> None:
        """Give back what communication took."""
        ...


def physical_key(key: FieldKey, rank: int, *, is_partial: bool = False) -> PhysicalKey:
    """What dependences between operations on a rank's memory are looked up by."""
    return (*key, rank, "partial" if is_partial else "main")


def transfer_requirements(
    transfer: Transfer, region: Region, ranks: Sequence[int]
) -> tuple[Requirement, ...]:
    """What a transfer of a region's field does to the memories of these ranks."""
    found: list[Requirement] = []
    match transfer:
        case Copy(key, moves):
            for move in moves:
                found.append(Requirement(physical_key(key, move.source), move.space, R))
                found.append(Requirement(physical_key(key, move.target), move.space, WD))
        case Fold(key, space, _, groups, bases):
            for group, base in zip(groups, bases, strict=True):
                for rank in members(group):
                    found.append(Requirement(physical_key(key, rank, is_partial=True), space, R))
                if base is not None:
                    found.append(Requirement(physical_key(key, base), space, R))
            for rank, part in transfer.results():
                found.append(Requirement(physical_key(key, rank), part, WD))
        case Reset(key, rank, space):
            found.append(Requirement(physical_key(key, rank, is_partial=True), space, WD))
    if (storage := region.storage) is not None:  # also to other regions with the same bytes
        found += [
            Requirement(
                physical_key(storage.key, r.key[2]),  # type: ignore[index, arg-type]
                storage.interval(region.shape, r.space),
                r.privilege,
                is_data=False,
            )
            for r in found
            if r.key[3] == "main"  # type: ignore[index]
        ]
    return tuple(r for r in found if r.key[2] in ranks)  # type: ignore[index]
