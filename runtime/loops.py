"""Finds loops of launches that come again and again without a trace, and says so.

A program that repeats itself pays for the analysis of every launch each time. Legion's automatic
traces (Yadav et al., "Automatic tracing in task-based runtime systems", ASPLOS 2025) would record
such a loop; here the program is told where a trace would help.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from specinfer.runtime.binding import Binding

logger = logging.getLogger("specinfer.runtime")

WINDOW = 3072
"""Launches that are looked at together."""

EVERY = 512
"""Launches between two looks."""

SHORTEST = 16
"""Launches of a loop that is worth a trace."""

TIMES = 3
"""Repetitions that make a loop."""


MOST_TOLD = 32768
"""Launches of loops that were told; beyond these a loop may be told again."""


class LoopWatch:
    """Is told every launch outside of traces."""

    def __init__(self) -> None:
        self._seen: list[Binding] = []
        self._next = EVERY
        self._told: set[Binding] = set()

    def saw(self, binding: Binding) -> None:
        """Take in a launch."""
        self._seen.append(binding)
        if len(self._seen) >= self._next:
            self._look()

    def _look(self) -> None:
        del self._seen[:-WINDOW]
        self._next = len(self._seen) + EVERY
        period = find_period(self._seen)
        if period is None or not self._told.isdisjoint(self._seen[-period:]):
            return
        loop = self._seen[-period:]
        self._told = set(loop) if len(self._told) > MOST_TOLD else self._told.union(loop)
        logger.warning(
            "%d launches, from %s to %s, have come %d times in a row without a trace: "
            "Runtime.trace would replay them without analysis",
            period,
            loop[0],
            loop[-1],
            TIMES,
        )


def find_period(seen: Sequence[object], shortest: int = SHORTEST) -> int | None:
    """Length of the loop that a sequence ends with, the shortest if there are several.

    >>> find_period("xabababab", shortest=2), find_period("abcd" * 2, shortest=2)
    (2, None)
    """
    end = len(seen)
    for period in range(shortest, end // TIMES + 1):
        last = seen[end - period :]
        if all(seen[end - period * (n + 1) : end - period * n] == last for n in range(1, TIMES)):
            return period
    return None
