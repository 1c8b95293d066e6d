"""How much may be guessed for one request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Speculation:
    """What a request allows. It changes how fast its text is written, never the text.

    Attributes:
        enabled: whether anything is guessed.
        max_nodes: most nodes of a tree, the root not counted; 0: as many as speculators propose.
        max_depth: most levels below the root; 0: as deep as speculators go.

    >>> Speculation(max_depth=3).depth(20), Speculation(enabled=False).depth(20)
    (3, 0)

    Raises:
        ValueError: a number below 0.
    """

    enabled: bool = True
    max_nodes: int = 0
    max_depth: int = 0

    def __post_init__(self) -> None:
        for name in ("max_nodes", "max_depth"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"{name} is {value}, expected at least 1, or 0 for no limit")

    def depth(self, room: int) -> int:
        """Levels that may be guessed where there is room for so many."""
        if not self.enabled:
            return 0
        return min(room, self.max_depth) if self.max_depth else room


UNLIMITED = Speculation()
"""Whatever speculators propose."""
