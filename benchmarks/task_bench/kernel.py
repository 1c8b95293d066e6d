"""What every point does, the same in every system: check its inputs, calculate, sign its output.

An output is the pair (step, point). A point finds in each input the pair that must be there: a
system that runs points in a wrong order is found out, at less than a microsecond a point.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Pairs = NDArray[np.int64]


@njit(cache=True, nogil=True)
def _compute(out, step, point, iterations):  # type: ignore[no-untyped-def]
    x = 1.0 + point * 1e-9
    for _ in range(iterations):
        x = x * 0.999999 + 1e-9
    out[0] = step
    out[1] = point if x > 0 else -1


@njit(cache=True, nogil=True)
def _is_right(rows, step, first):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):  # noqa: SIM110  (compiled)
        if rows[i, 0] != step or rows[i, 1] != first + i:
            return False
    return True


def check(rows: Pairs, step: int, first: int) -> None:
    """Raise unless these are the outputs of points from ``first`` on, of ``step``."""
    if not _is_right(rows, step, first):
        raise AssertionError(
            f"inputs from point {first} on are {rows.tolist()}, expected those of step {step}"
        )


def compute(out: Pairs, step: int, point: int, iterations: int) -> None:
    """Calculate for a while, then write the pair into ``out`` (2,)."""
    _compute(out, step, point, iterations)


def seconds_per_iteration(repeats: int = 5) -> float:
    """Of the calculation, on one core that does nothing else."""
    out, iterations = np.zeros(2, np.int64), 2_000_000
    compute(out, 0, 0, 10)
    check(out[None], 0, 0)
    best = np.inf
    for _ in range(repeats):
        start = perf_counter()
        compute(out, 0, 0, iterations)
        best = min(best, perf_counter() - start)
    return float(best / iterations)


def signed(step: int, point: int, iterations: int, inputs: Any, points: list[int]) -> Pairs:
    """A point as a function of the outputs that it needs, for systems that pass them on."""
    for row, expected in zip(inputs, points, strict=True):
        check(row[None], step - 1, expected)
    out = np.empty(2, np.int64)
    compute(out, step, point, iterations)
    return out
