"""Mappers: where launches run. A mapper may change how fast a program is, never what it computes.

A mapper is asked a few questions. Its answers must be a pure function of what it is told: every
rank asks its own copy, and all must hear the same. :class:`Mapper` answers them all; others inherit
from it and change some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from specinfer.runtime.binding import Binding
from specinfer.runtime.mesh import Mesh
from specinfer.runtime.partition import Colour
from specinfer.runtime.region import Region
from specinfer.runtime.sharding import Block, Sharded, Sharding
from specinfer.runtime.task import Task

Shardings = Mapping[str, Mapping[str, Sharding] | None]
"""How the region arguments of a launch lie now: by parameter, then by mesh axis; None if it is
nothing regular."""


@dataclass(frozen=True, slots=True)
class Everywhere:
    """Every rank runs the launch for itself: for pure tasks only."""


@dataclass(frozen=True, slots=True)
class On:
    """One rank runs the launch."""

    rank: int


@dataclass(frozen=True, slots=True)
class Divided:
    """Each rank runs its part, by the axes that the task declares.

    Attributes:
        axes: for each mesh axis that is used, the task's axis and the blocks of it, one for each
            coordinate; None: blocks as equal as can be.
    """

    axes: Mapping[str, tuple[str, tuple[Block, ...] | None]]


Where = Everywhere | On | Divided


def divisible_axes(task: Task) -> list[str]:
    """The axes that launches of a task can be divided along.

    Not every axis that it declares: a task that reads what it writes cannot write summands, and
    what it writes must be divided too, see :func:`written_whole`.

    >>> from specinfer.runtime.privilege import RW, R
    >>> from specinfer.runtime.task import task
    >>> @task(x=R, y=RW, pure=True, axes={"x": ("rows", "in"), "y": ("rows",)}, sums=["in"])
    ... def add_rows(x, y) -> None:
    ...     y += x.sum(1)
    >>> divisible_axes(add_rows)
    ['rows']
    """
    if not task.is_pure or task.returns:
        return []
    updates = any(privilege.reads and privilege.writes for privilege in task.privileges.values())
    return [
        name
        for name in task.division.names
        if not (updates if name in task.division.sums else written_whole(task, name))
    ]


def written_whole(task: Task, axis: str) -> list[str]:
    """Arguments that every part of a launch, divided along an axis, would write whole.

    They lack the axis, and are no sums over it. A reduction is none of them: the operator puts
    together what parts contribute.

    >>> from specinfer.runtime.privilege import WD, R
    >>> from specinfer.runtime.task import task
    >>> @task(x=R, y=WD, pure=True, axes={"x": ("rows", "columns"), "y": ("columns",)})
    ... def largest_rows(x, y) -> None:
    ...     y[:] = x.max(0)
    >>> written_whole(largest_rows, "rows"), divisible_axes(largest_rows)
    (['y'], ['columns'])
    """
    if axis in task.division.sums:
        return []
    return [
        name
        for name, privilege in task.privileges.items()
        if privilege.writes
        and all(dim is None or dim.name != axis for dim in task.division.axes.get(name, ()))
    ]


class Mapper:
    """The questions, with answers that suit most programs.

    Args:
        mesh: how the ranks are arranged.
        processors: kinds of processor whose variants may run, the preferred first.

    Attributes:
        epoch: rises when answers change: those of before are not used again, nor what was recorded.
    """

    epoch = 0

    def __init__(self, mesh: Mesh, processors: Sequence[str] = ("cpu",)) -> None:
        self.mesh = mesh
        self._processors = tuple(processors)

    def place(self, launch: Binding, shardings: Shardings) -> Where:
        """Where a single launch runs.

        By default it follows its data: if an argument that it reads lies in blocks along an axis of
        the task, the launch is divided in the same blocks. Else every rank runs a pure task, and
        the first rank any other.
        """
        return self.follow(launch, shardings) or (Everywhere() if launch.task.is_pure else On(0))

    def follow(self, launch: Binding, shardings: Shardings) -> Divided | None:
        """The division that leaves an argument where it is, if there is one."""
        divisible = divisible_axes(launch.task)
        if not divisible:
            return None
        for name, dims in launch.task.division.axes.items():
            if not launch.task.privileges[name].reads:
                continue
            found: dict[str, tuple[str, tuple[Block, ...] | None]] = {}
            for mesh_axis, sharding in (shardings.get(name) or {}).items():
                if not isinstance(sharding, Sharded):
                    continue
                axis = dims[sharding.dim]
                if axis is None or axis.name not in divisible:
                    continue
                blocks = launch.units(axis.name).blocks_of(name, sharding)
                if blocks is not None and axis.name not in {a for a, _ in found.values()}:
                    found[mesh_axis] = (axis.name, blocks)
            if found:
                return Divided(found)
        return None

    def shard(self, launch: Binding, point: Colour, number: int, count: int) -> int | None:
        """The rank that runs a point of an index launch; None: every rank does, if it is pure.

        Args:
            launch: the index launch.
            point: of its domain.
            number: of the point, in order.
            count: of points.
        """
        return number * self.mesh.num_ranks // count

    def processors(self, launch: Binding) -> tuple[str, ...]:
        """Kinds of processor for a launch, the preferred first."""
        return self._processors

    def memory(self, region: Region) -> str:
        """The memory that holds a region."""
        return "cpu"

    def as_messages(self, kind: str, num_bytes: int) -> bool:
        """Whether a transfer is done with messages between pairs, not with MPI's collective."""
        return False

    def replays(self, trace: str) -> bool:
        """Whether a trace of that name may be replayed."""
        return True
