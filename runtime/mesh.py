"""The mesh: all ranks as a grid with named axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from specinfer.runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Mesh:
    """Ranks in a grid; the last axis runs fastest.

    Attributes:
        axes: name and size of each axis.

    >>> mesh = Mesh.of({"data": 2, "tensor": 2})
    >>> mesh.num_ranks, mesh.coordinate(3, "tensor"), mesh.groups({"tensor"})
    (4, 1, (3, 12))
    """

    axes: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, axes: Mapping[str, int]) -> Mesh:
        """A mesh of these sizes.

        Raises:
            ConfigError: a size below 1.
        """
        for name, size in axes.items():
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ConfigError(f"mesh.{name} is {size!r}, expected a number of ranks from 1 on")
        return cls(tuple(axes.items()))

    @property
    def num_ranks(self) -> int:
        """How many ranks there are."""
        return prod(size for _, size in self.axes)

    @property
    def everyone(self) -> int:
        """The set of all ranks."""
        return (1 << self.num_ranks) - 1

    def __str__(self) -> str:
        return " x ".join(f"{name}={size}" for name, size in self.axes)

    def check_ranks(self, num_ranks: int) -> None:
        """Refuse another number of ranks.

        Raises:
            ConfigError: it is another.
        """
        if self.num_ranks != num_ranks:
            ranks = "1 rank" if self.num_ranks == 1 else f"{self.num_ranks} ranks"
            raise ConfigError(
                f"mesh {self} has {ranks}, but the program runs on {num_ranks}; "
                f"start it with `mpirun -n {self.num_ranks}`"
            )

    def size(self, axis: str) -> int:
        """Ranks along an axis.

        Raises:
            ConfigError: there is no such axis.
        """
        for name, size in self.axes:
            if name == axis:
                return size
        raise self._no_axis(axis)

    def coordinate(self, rank: int, axis: str) -> int:
        """Where a rank stands along an axis.

        Raises:
            ConfigError: there is no such axis.
        """
        stride = 1
        for name, size in reversed(self.axes):
            if name == axis:
                return rank // stride % size
            stride *= size
        raise self._no_axis(axis)

    def groups(self, axes: Iterable[str]) -> tuple[int, ...]:
        """Sets of ranks that differ along these axes only.

        Raises:
            ConfigError: there is no such axis.
        """
        differing, known = set(axes), [name for name, _ in self.axes]
        if unknown := differing - set(known):
            raise self._no_axis(min(unknown))
        others = [name for name in known if name not in differing]
        groups: dict[tuple[int, ...], int] = {}
        for rank in range(self.num_ranks):
            place = tuple(self.coordinate(rank, name) for name in others)
            groups[place] = groups.get(place, 0) | 1 << rank
        return tuple(groups.values())

    def _no_axis(self, axis: str) -> ConfigError:
        known = ", ".join(name for name, _ in self.axes)
        return ConfigError(f"mesh {self} has no axis {axis!r}, expected one of {known}")


def line(num_ranks: int, axis: str = "ranks") -> Mesh:
    """All ranks along one axis."""
    return Mesh(((axis, num_ranks),))
