"""How long work tells its caller that it moves: one callback, so that the library prints nothing.

Who draws it (the command line does, with rich) is not decided here.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called again and again while bytes are fetched or weights are read."""

    def __call__(self, what: str, done_bytes: int, total_bytes: int) -> None:
        """Take note of the state.

        Args:
            what: the thing in work now: a wheel, a tensor.
            done_bytes: bytes finished so far, over everything.
            total_bytes: bytes in all; 0 where nobody knows.
        """


def silent(what: str, done_bytes: int, total_bytes: int) -> None:
    """Show nothing."""
