"""What every point does, the same in every system: check its inputs, calculate, sign its output.

An output is the pair (step, point). A point finds in each input the pair that must be there: a
system that runs points in a wrong order is found out, at less than a microsecond a point.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
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
    pair = out.reshape(2)
    pair[0] = step
    pair[1] = point if x > 0 else -1


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
    """Calculate for a while, then write the pair into ``out``, (2,) or (1, 2)."""
    _compute(out, step, point, iterations)


def seconds_on_busy_cores(cores: int, repeats: int = 20) -> float:
    """Of an iteration of the calculation, while so many threads calculate: the least that is seen.

    Cores may share a unit or a clock, so that one alone would promise too much.
    """
    iterations = 2_000_000

    def calculate(point: int) -> float:
        out = np.zeros(2, np.int64)
        start = perf_counter()
        compute(out, 0, point, iterations)
        return perf_counter() - start

    calculate(0)  # compiles
    with ThreadPoolExecutor(cores) as threads:
        return min(max(threads.map(calculate, range(cores))) for _ in range(repeats)) / iterations


def signed(step: int, point: int, iterations: int, inputs: Any, points: list[int]) -> Pairs:
    """A point as a function of the outputs that it needs, for systems that pass them on."""
    for row, expected in zip(inputs, points, strict=True):
        check(row[None], step - 1, expected)
    out = np.empty(2, np.int64)
    compute(out, step, point, iterations)
    return out
