"""Systems under test. Each is a module with ``NAME``-d classes of one protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Shape:
    """A graph.

    Attributes:
        pattern: its dependences.
        width: points of a full step.
        steps: from its first to its last.
    """

    pattern: str
    width: int
    steps: int


class System(Protocol):
    """Runs graphs on ``cores`` cores."""

    name: str
    cores: int
    steps: int
    """Steps of a graph, so that it runs long enough to be timed and not for minutes."""

    def prepare(self, shape: Shape) -> None:
        """Do what is done once for a graph: compile it, record it."""
        ...

    def run(self, iterations: int) -> float:
        """Seconds that the prepared graph takes with so many iterations a task."""
        ...

    def close(self) -> None:
        """Stop processes and threads."""
        ...
