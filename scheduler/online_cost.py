"""What a phase costs by its size, measured while the engine runs.

A curve known beforehand gives the shape; what is measured stretches it, size by size. Times are
noisy in one direction: a pass may be slow for many reasons (the first of a size is recorded), never
too fast. So the lower quartile of the last few counts, and what is old does not.
"""

from __future__ import annotations

from collections import deque
from itertools import accumulate

import numpy as np

from specinfer.scheduler.step_cost import StepCost

KEPT = 9
"""Times of a size that are kept."""
ENOUGH = 3
"""Times that a size needs to be believed."""
OLD = 512
"""Measurements after which a time is forgotten, unless nothing else is known."""
SIZES = (*range(1, 8), *(n << shift for shift in range(1, 9) for n in range(4, 8)))
"""Sizes at which a curve is told: three binary digits."""


class OnlineCurve:
    """The cost of one phase.

    Args:
        prior: its shape, in any unit.
    """

    def __init__(self, prior: StepCost) -> None:
        self._prior = prior
        self._factors: dict[int, deque[tuple[int, float]]] = {}
        self._num_times = 0

    def add(self, size: int, seconds: float) -> None:
        """Take a measurement."""
        self._num_times += 1
        kept = self._factors.setdefault(_rounded(size), deque(maxlen=KEPT))
        kept.append((self._num_times, seconds / self._prior.time(size)))

    def curve(self) -> StepCost | None:
        """Seconds by size, never falling; None before the first measurement."""
        if not self._factors:
            return None
        factors = self._known(ENOUGH, self._num_times - OLD) or self._known(1, 0)
        at = sorted(factors)
        stretched = np.interp(SIZES, at, [factors[size] for size in at]).tolist()
        times = [f * self._prior.time(size) for f, size in zip(stretched, SIZES, strict=True)]
        return StepCost(SIZES, tuple(accumulate(times, max)))

    def _known(self, enough: int, since: int) -> dict[int, float]:
        found = {}
        for size, kept in self._factors.items():
            recent = sorted(factor for number, factor in kept if number > since)
            if len(recent) >= enough:
                found[size] = recent[(len(recent) - 1) // 4]
        return found


def _rounded(size: int) -> int:
    """To three binary digits.

    >>> _rounded(7), _rounded(9), _rounded(23)
    (7, 8, 20)
    """
    shift = max(0, size.bit_length() - 3)
    return size >> shift << shift
