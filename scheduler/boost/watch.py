"""How long work may take, and how it tells that it moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol


class Watch(Protocol):
    """Called again and again while something is worked on."""

    def __call__(self, what: str, done: float, total: float, note: str) -> None:
        """Take note of the state.

        Args:
            what: the phase.
            done: of it.
            total: in the unit of ``done``.
            note: figures for people.
        """


def unwatched(what: str, done: float, total: float, note: str) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Seconds from now; 0: as many as it takes.

    Attributes:
        seconds: how many.
    """

    seconds: float = 0.0
    _start: float = field(default_factory=monotonic)

    @property
    def left(self) -> float:
        """Seconds; infinite without a limit."""
        return self._start + self.seconds - monotonic() if self.seconds else float("inf")

    @property
    def is_spent(self) -> bool:
        """Whether none is left."""
        return self.left <= 0

    def within(self, seconds: float) -> Budget:
        """A budget of its own for a part of the work, no larger than what is left here."""
        left = self.left
        if left == float("inf"):
            return Budget(seconds)
        return Budget(max(1e-9, min(left, seconds) if seconds else left))
