"""Several ranks in one process, each with a memory of its own.

With an executor that shuffles operations it finds data that were not moved, or moved too late.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from specinfer.runtime.arrays import bits, store, values
from specinfer.runtime.dependence import Requirement
from specinfer.runtime.errors import ConfigError
from specinfer.runtime.executor import Operation
from specinfer.runtime.instances import Instances
from specinfer.runtime.machine import transfer_requirements
from specinfer.runtime.placement import Copy, Fold, Reset, Transfer, is_local, members
from specinfer.runtime.reduction import reduction
from specinfer.runtime.region import Region


class SimulatedRanks:
    """As many ranks as are wanted, in this process.

    Args:
        num_ranks: how many.

    Raises:
        ConfigError: fewer than one.
    """

    control = None

    def __init__(self, num_ranks: int) -> None:
        if num_ranks < 1:
            raise ConfigError(f"simulated ranks: {num_ranks}, expected 1 or more")
        self.num_ranks = num_ranks
        self.ranks = tuple(range(num_ranks))
        self._regions: dict[int, Region] = {}
        self._instances = [
            Instances(rank, self._regions, copies=rank > 0) for rank in range(num_ranks)
        ]

    def add_region(self, region: Region) -> None:
        """Take in a new region."""
        self._regions[region.id] = region

    def instances(self, rank: int) -> Instances:
        """The memory of a rank."""
        return self._instances[rank]

    def transfer(self, transfer: Transfer, *, as_messages: bool) -> Operation | None:
        """The whole transfer, between all of its ranks."""
        region = self._regions[transfer.key[0]]
        requirements = transfer_requirements(transfer, region, self.ranks)
        name = f"{region.name}.{transfer.key[1]}"
        return _Transfer(transfer, self._instances, requirements, name)

    def send_value(self, value: Any, root: int) -> Any:
        """The value itself: all ranks are here."""
        return value

    def gather_values(self, value: Any) -> list[Any]:
        """The value alone: there is one process."""
        return [value]

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class _Transfer:
    transfer: Transfer
    instances: list[Instances]
    requirements: tuple[Requirement, ...]
    name: str

    @property
    def is_communication(self) -> bool:
        """Whether anything moves between ranks."""
        return not is_local(self.transfer)

    def run(self) -> None:
        match self.transfer:
            case Copy(key, moves):
                # All at once, as messages are: what one move brings is not there for another.
                sent = [
                    bits(self.instances[move.source].view(key, move.space)).copy() for move in moves
                ]
                for move, data in zip(moves, sent, strict=True):
                    bits(self.instances[move.target].view(key, move.space))[...] = data
            case Fold():
                self._fold(self.transfer)
            case Reset(key, rank, space, op):
                self.instances[rank].reset(key, space, op)

    def bound(self) -> Callable[[], Any]:
        return self.run

    def as_of_now(self) -> Self:
        return self

    def _fold(self, fold: Fold) -> None:
        op = reduction(fold.op).fold
        for group, base in zip(fold.groups, fold.bases, strict=True):
            ranks = members(group)
            parts = [
                values(self.instances[r].view(fold.key, fold.space, is_partial=True)) for r in ranks
            ]
            if base is not None:
                parts.append(values(self.instances[base].view(fold.key, fold.space)))
            total = np.array(parts[0], copy=True)
            for part in parts[1:]:
                op(total, part, out=total)
            for rank, space in fold.results():
                if group >> rank & 1:
                    inside = tuple(
                        slice(low - start, high - start)
                        for low, high, start in zip(space.lo, space.hi, fold.space.lo, strict=True)
                    )
                    store(self.instances[rank].view(fold.key, space), total[inside])

    def __str__(self) -> str:
        return f"{self.transfer.kind} of {self.name}"
