"""A mapper that answers at random, but always the same to the same question.

It looks for programs whose result depends on where they run: there must be none.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from specinfer.runtime.binding import Binding
from specinfer.runtime.errors import LaunchError
from specinfer.runtime.mapper import (
    Divided,
    Everywhere,
    Mapper,
    On,
    Shardings,
    Where,
    divisible_axes,
)
from specinfer.runtime.mesh import Mesh
from specinfer.runtime.partition import Colour
from specinfer.runtime.sharding import Block


class RandomMapper(Mapper):
    """Any place that the rules allow.

    Args:
        mesh: how the ranks are arranged.
        seed: tells such mappers apart.
        processors: kinds of processor, the preferred first.
    """

    def __init__(self, mesh: Mesh, seed: int, processors: Sequence[str] = ("cpu",)) -> None:
        super().__init__(mesh, processors)
        self._seed = seed

    def _number(self, below: int, *told: object) -> int:
        text = repr((self._seed, *map(str, told)))
        return zlib.crc32(text.encode()) // 7 % below

    def place(self, launch: Binding, shardings: Shardings) -> Where:
        """One rank; for pure tasks also every one, or blocks along some axes."""
        if self._number(4, "follow", launch) == 0:
            return super().place(launch, shardings)
        told = str(launch), str(sorted(shardings.items())) if self._seed % 2 else ""
        if launch.task.is_pure:
            divided = self._divided(launch, told)
            if divided.axes and self._number(6, "divided", told):
                return divided
            if self._number(2, "everywhere", told):
                return Everywhere()
        return On(self._number(self.mesh.num_ranks, "on", told))

    def _divided(self, launch: Binding, told: object) -> Divided:
        axes: dict[str, tuple[str, tuple[Block, ...] | None]] = {}
        names = divisible_axes(launch.task)
        for mesh_axis, size in self.mesh.axes:
            if not names or self._number(4, "skip", mesh_axis, told) == 0:
                continue
            name = names[self._number(len(names), "axis", mesh_axis, told)]
            if name in {axis for axis, _ in axes.values()}:
                continue
            try:
                count = launch.units(name).count
            except LaunchError:  # the arguments do not fit along this axis
                continue
            cuts = sorted(
                self._number(count + 1, "cut", mesh_axis, i, told) for i in range(size - 1)
            )
            blocks = tuple(zip((0, *cuts), (*cuts, count), strict=True))
            axes[mesh_axis] = name, blocks if self._number(3, "equal", told) else None
        return Divided(axes)

    def shard(self, launch: Binding, point: Colour, number: int, count: int) -> int | None:
        """Any rank; all of them for all points of a launch, if it is pure.

        Points that run at the same time get a rank each, in any order.
        """
        if launch.task.is_collective:
            ranks = range(self.mesh.num_ranks)
            shuffled = sorted(ranks, key=lambda rank: self._number(1 << 24, "order", launch, rank))
            return shuffled[number % len(ranks)]
        if launch.task.is_pure and self._number(4, "all", launch) == 0:
            return None
        return self._number(self.mesh.num_ranks, "point", launch, point)

    def as_messages(self, kind: str, num_bytes: int) -> bool:
        """For some kinds."""
        return self._number(2, "messages", kind) == 0

    def replays(self, trace: str) -> bool:
        """Most."""
        return self._number(8, "replays", trace) > 0
