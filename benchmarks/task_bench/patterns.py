"""Dependence patterns: which points of the step before each point needs.

A graph has steps and points; a point of a step depends on points of the step before it. The
formulas are those of Task Bench (Slaughter et al., SC 2020); what is random is drawn otherwise.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from math import ceil, log2

PATTERNS = (
    "trivial",
    "no_comm",
    "stencil_1d",
    "periodic",
    "sweep",
    "tree",
    "fft",
    "all_to_all",
    "nearest",
    "spread",
    "random_nearest",
)
RADIX = 3
"""Dependences of ``nearest`` and ``spread``, and the window of ``random_nearest``."""

FRACTION = 0.6
"""Of the window that ``random_nearest`` takes."""

RANDOM_PERIOD = 4
"""Steps after which ``random_nearest`` starts again."""


def active(pattern: str, width: int, steps: int, step: int) -> range:
    """The points that a step has."""
    if pattern == "tree":
        return range(min(width, 2**step)) if step < 62 else range(width)
    if pattern == "sweep":
        first = max(0, step + width - steps)
        return range(first, first + min(width, step + 1, steps - step))
    return range(width)


def period(pattern: str, width: int) -> int:
    """Steps after which the dependences repeat, once all points are active."""
    match pattern:
        case "fft":
            return max(1, ceil(log2(width)))
        case "spread":
            return width
        case "random_nearest":
            return RANDOM_PERIOD
    return 1


def dependences(pattern: str, width: int, steps: int, step: int, point: int) -> list[int]:
    """The points of the step before that a point needs, in order.

    >>> dependences("stencil_1d", 4, 9, 1, 0), dependences("periodic", 4, 9, 1, 0)
    ([0, 1], [0, 1, 3])
    """
    if step == 0:
        return []
    before = active(pattern, width, steps, step - 1)
    wanted = _wanted(pattern, width, step, point)
    return sorted({at for at in wanted if at in before})


def num_tasks(pattern: str, width: int, steps: int) -> int:
    """Points of all steps."""
    return sum(len(active(pattern, width, steps, step)) for step in range(steps))


def intervals(points: Sequence[int]) -> list[tuple[int, int]]:
    """Points in order as intervals ``low <= p < high``.

    >>> intervals([0, 1, 3])
    [(0, 2), (3, 4)]
    """
    found: list[tuple[int, int]] = []
    for point in points:
        if found and found[-1][1] == point:
            found[-1] = (found[-1][0], point + 1)
        else:
            found.append((point, point + 1))
    return found


def _wanted(pattern: str, width: int, step: int, point: int) -> Iterator[int]:
    turn = period(pattern, width)
    number = step % turn
    match pattern:
        case "no_comm":
            yield point
        case "stencil_1d":
            yield from (point - 1, point, point + 1)
        case "periodic":
            yield from ((point + shift) % width for shift in (-1, 0, 1))
        case "sweep":
            yield from (point - 1, point)
        case "tree":
            yield point // 2
        case "fft":
            stride = 2 ** ((step - 1) % turn)
            yield from (point - stride, point, point + stride)
        case "all_to_all":
            yield from range(width)
        case "nearest":
            yield from range(point - RADIX // 2, point + (RADIX - 1) // 2 + 1)
        case "spread":
            for k in range(RADIX):
                yield (point + k * width // RADIX + (number if k else 0)) % width
        case "random_nearest":
            for at in range(point - RADIX // 2, point + (RADIX - 1) // 2 + 1):
                if at == point or _chance(number, point, at) < FRACTION:
                    yield at


def _chance(*numbers: int) -> float:
    return zlib.crc32(repr(numbers).encode()) / 2**32
