"""Finds loops of launches that come again and again without a trace, and says so.

A program that repeats itself pays for the analysis of every launch each time. Legion's automatic
traces (Yadav et al., "Automatic tracing in task-based runtime systems", ASPLOS 2025) would record
such a loop; here the program is told where a trace would help.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

from specinfer.runtime.binding import Binding

logger = logging.getLogger("specinfer.runtime")

_Item = TypeVar("_Item")

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
    """Is told every launch outside of traces, and what no trace can have between its launches."""

    def __init__(self) -> None:
        self._seen: list[Binding | None] = []
        self._next = EVERY
        self._told: set[Binding] = set()

    def saw(self, binding: Binding) -> None:
        """Take in a launch."""
        self._seen.append(binding)
        if len(self._seen) >= self._next:
            self._look()

    def broke(self) -> None:
        """Take in that the program waits, or replays a trace."""
        if self._seen and self._seen[-1] is not None:
            self._seen.append(None)

    def _look(self) -> None:
        del self._seen[:-WINDOW]
        self._next = len(self._seen) + EVERY
        period = find_period(self._seen)
        if period is None:
            return
        loop = longest_run(self._seen[-period:])
        if len(loop) < SHORTEST or not self._told.isdisjoint(loop):
            return
        self._told = set(loop) if len(self._told) > MOST_TOLD else self._told.union(loop)
        logger.warning(
            "%d launches, from %s to %s, have come %d times in a row without a trace: "
            "Runtime.trace would replay them without analysis",
            len(loop),
            loop[0],
            loop[-1],
            TIMES,
        )


def longest_run(loop: Sequence[_Item | None]) -> list[_Item]:
    """What comes without a break in a loop, round its end too.

    >>> longest_run([*"abc"]), longest_run(["a", None, "b", "c"]), longest_run([None])
    (['a', 'b', 'c'], ['b', 'c', 'a'], [])
    """
    if None not in loop:
        return [item for item in loop if item is not None]
    first = loop.index(None)
    longest: list[_Item] = []
    run: list[_Item] = []
    for item in (*loop[first:], *loop[:first]):
        run = [] if item is None else [*run, item]
        longest = max(longest, run, key=len)
    return longest


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
