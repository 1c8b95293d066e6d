"""What draws trees in lanes: one method for each part of an iteration."""

from __future__ import annotations

from typing import Protocol

from specinfer.runtime.future import Future
from specinfer.runtime.region import Subregion
from specinfer.scheduler.lanes.tables import IntArray, Lanes, TreeTables
from specinfer.scheduler.late_tree import FlatTree


class LaneDrafter(Protocol):
    """A drafter all of whose data are in tables.

    Attributes:
        tree: what it draws.
        depth: most levels of that.
    """

    @property
    def tree(self) -> TreeTables:
        """What it draws."""
        ...

    @property
    def depth(self) -> int:
        """Most levels of that."""
        ...

    def draw(self, lanes: Lanes) -> None:
        """Issue what writes the trees."""
        ...

    def take(self, lanes: Lanes, outcome: Subregion, moves: Subregion) -> None:
        """Issue what must be done with an outcome before texts grow by it.

        Args:
            lanes: as they were told to :meth:`draw`.
            outcome: see :mod:`specinfer.scheduler.lanes.taking`, as for ``moves``.
            moves: may be written.
        """
        ...

    def fetch(self, lanes: int) -> Future:
        """Issue what brings the trees to the host; a future of a ``Fetched``."""
        ...

    def drawn(self, fetched: dict[str, IntArray], lane: int) -> FlatTree:
        """The tree of a lane, of what was fetched."""
        ...
