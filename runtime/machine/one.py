"""One rank: this process alone. Nothing ever moves."""

from __future__ import annotations

from typing import Any

from specinfer.runtime.executor import Operation
from specinfer.runtime.instances import Instances
from specinfer.runtime.placement import Transfer
from specinfer.runtime.region import Region


class OneRank:
    """The machine of a program that was not started with ``mpirun``."""

    num_ranks = 1
    ranks = (0,)
    control = None

    def __init__(self) -> None:
        self._regions: dict[int, Region] = {}
        self._instances = Instances(0, self._regions)

    def add_region(self, region: Region) -> None:
        """Take in a new region."""
        self._regions[region.id] = region

    def instances(self, rank: int) -> Instances:
        """The only memory."""
        return self._instances

    def transfer(self, transfer: Transfer, *, as_messages: bool) -> Operation | None:
        """Nothing: there is nobody to send to."""
        return None

    def send_value(self, value: Any, root: int) -> Any:
        """The value itself."""
        return value

    def gather_values(self, value: Any) -> list[Any]:
        """The value alone."""
        return [value]

    def close(self) -> None:
        """Do nothing."""
