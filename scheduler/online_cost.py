"""What a phase costs by its size, measured while the engine runs.

A curve known beforehand gives the shape; what is measured stretches it, size by size. Times are
noisy in one direction: a pass may be slow for many reasons (the first of a size is recorded), never
too fast. So the lower quartile of the last few of each size counts.
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
SIZES = (*range(1, 8), *(n << shift for shift in range(1, 9) for n in range(4, 8)))
"""Sizes at which a curve is told: three binary digits."""


class OnlineCurve:
    """The cost of one phase.

    Args:
        prior: its shape, in any unit.
    """

    def __init__(self, prior: StepCost) -> None:
        self._prior = prior
        self._factors: dict[int, deque[float]] = {}

    def add(self, size: int, seconds: float) -> None:
        """Take a measurement."""
        kept = self._factors.setdefault(_rounded(size), deque(maxlen=KEPT))
        kept.append(seconds / self._prior.time(size))

    def curve(self) -> StepCost | None:
        """Seconds by size, never falling; None before the first measurement."""
        if not self._factors:
            return None
        factors = self._known(ENOUGH) or self._known(1)
        at = sorted(factors)
        sizes = sorted({*SIZES, *self._prior.rows})  # the corners of its stairs, too
        stretched = np.interp(sizes, at, [factors[size] for size in at]).tolist()
        times = [f * self._prior.time(size) for f, size in zip(stretched, sizes, strict=True)]
        return StepCost(tuple(sizes), tuple(accumulate(times, max)))

    def _known(self, enough: int) -> dict[int, float]:
        return {
            size: sorted(kept)[(len(kept) - 1) // 4]
            for size, kept in self._factors.items()
            if len(kept) >= enough
        }


def _rounded(size: int) -> int:
    """To three binary digits.

    >>> _rounded(7), _rounded(9), _rounded(23)
    (7, 8, 20)
    """
    shift = max(0, size.bit_length() - 3)
    return size >> shift << shift
