"""What a step costs by its rows, and how many guessed nodes are worth it.

On a GPU that waits for memory the rows of a tree are nearly free; on a CPU each of them costs. The
curve is measured when an engine is made: on a CPU on the weights themselves, on a GPU on whole
steps, for each of the few sizes that are computed there. It decides how much is guessed, never what
is written.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from time import perf_counter

import torch
from torch import Tensor

from specinfer.ops.kernels.packed import product

MEASURED_ROWS = (1, 2, 4, 8, 16, 32, 64)
MEASURED_BYTES = 1 << 26
"""Weights that a measurement streams: more than a cache holds, little enough to take no time."""
WARM = 3
"""Steps that do not count: one is recorded, one captured as a graph, one replayed."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """Time of a step by its rows, linear between measured points.

    Attributes:
        rows: increasing numbers of rows.
        times: of steps with these rows, in any unit.

    >>> cost = StepCost((1, 2, 4), (10.0, 11.0, 15.0))
    >>> cost(1), cost(3), cost(8)
    (1.0, 1.3, 2.3)
    """

    rows: tuple[int, ...]
    times: tuple[float, ...]

    def __call__(self, rows: int) -> float:
        """The cost of a step relative to the shortest one."""
        return self.time(rows) / self.times[0]

    def time(self, rows: int) -> float:
        """Of a step, in the unit of the times; beyond the last point the last slope goes on."""
        if len(self.rows) == 1:
            return self.times[0]
        right = min(max(bisect_left(self.rows, rows), 1), len(self.rows) - 1)
        left = right - 1
        slope = (self.times[right] - self.times[left]) / (self.rows[right] - self.rows[left])
        return self.times[left] + slope * (rows - self.rows[left])

    def best_size(self, probabilities: Sequence[float], requests: int) -> int:
        """How many nodes to verify for the most tokens in a given time.

        Args:
            probabilities: of acceptance, of the nodes of one request, the likeliest first.
            requests: in the step; each is taken to add as many nodes.

        >>> StepCost((1, 2, 4), (1.0, 1.1, 2.0)).best_size([0.5, 0.2, 0.1], requests=1)
        1
        """
        gains = [1.0, *(1 + total for total in accumulate(probabilities))]
        rates = [gain / self(requests * (1 + n)) for n, gain in enumerate(gains)]
        return rates.index(max(rates))


FREE = StepCost((1,), (1.0,))
"""Every node is worth verifying."""


def stairs(sizes: Sequence[int], times: Sequence[float]) -> StepCost:
    """The cost where a step of any rows takes as long as the next of these sizes.

    >>> cost = stairs((1, 2, 4, 8), (1.0, 1.1, 1.2, 1.5))
    >>> [cost(rows) for rows in (1, 2, 3, 4, 5, 8, 9)]
    [1.0, 1.1, 1.2, 1.2, 1.5, 1.5, 1.5]
    """
    corners: dict[int, float] = {}
    below = 0
    for size, time in zip(sizes, accumulate(times, max), strict=True):
        corners[below + 1] = corners[size] = time
        below = size
    return StepCost(tuple(corners), tuple(corners.values()))


def measure_steps(
    step: Callable[[int], object],
    finish: Callable[[], object],
    sizes: Sequence[int],
    *,
    repeats: int = 5,
    clock: Callable[[], float] = perf_counter,
) -> StepCost:
    """Time whole steps that are only issued, at each size that is computed.

    Args:
        step: issues a step of so many rows.
        finish: returns when all that was issued is done.
        sizes: of steps; any number of rows between costs as much as the next of them.
        repeats: steps that are timed together, waited for at their ends only.
        clock: in seconds.
    """
    times = []
    for rows in sizes:
        for _ in range(WARM):
            step(rows)
        finish()
        start = clock()
        for _ in range(repeats):
            step(rows)
        finish()
        times.append((clock() - start) / repeats)
    return stairs(sizes, times)


def measure_step_cost(weights: Sequence[Tensor], repeats: int = 3) -> StepCost:
    """Time the matrix products of a model at growing numbers of rows.

    Args:
        weights: (features, in) matrices; the first ones of :data:`MEASURED_BYTES` are used.
        repeats: of each measurement, of which the fastest counts.
    """
    used: list[Tensor] = []
    for weight in weights:
        if sum(w.numel() * w.itemsize for w in used) < MEASURED_BYTES:
            used.append(weight)
    times = [_time(used, rows, repeats) for rows in MEASURED_ROWS]
    return StepCost(MEASURED_ROWS, tuple(accumulate(times, max)))


def _time(weights: Sequence[Tensor], rows: int, repeats: int) -> float:
    best = math.inf
    inputs = {
        w.shape[1]: torch.ones(rows, w.shape[1], dtype=w.dtype, device=w.device) for w in weights
    }
    for _ in range(repeats + 1):  # the first warms up
        start = perf_counter()
        for weight in weights:
            x = inputs[weight.shape[1]]
            product(x, weight) if weight.is_mkldnn else torch.mm(x, weight.t())
        best = min(best, perf_counter() - start)
    return best
