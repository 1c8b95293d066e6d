"""What would fit where what was asked for does not: sizes of a batch, one changed at a time.

Memory grows with every size of a batch, so the largest that fits is found by halving. It is only
arithmetic over what models say that they would take; nothing is allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from specinfer.ops.attention import PAGE_SLOTS
from specinfer.scheduler.config import BatchConfig
from specinfer.scheduler.kv_pages import num_pages

Needs = Callable[[BatchConfig, int], int]
"""Bytes that all models take together, by sizes of the batch and tokens of a request."""

SPARE = 1 << 20
"""Bytes that a suggested budget has over what is counted beforehand, for what a step finds."""


def what_fits(batch: BatchConfig, length: int, needs: Needs, budget: int) -> list[str]:
    """Changes each of which makes it fit, in words.

    Args:
        batch: what was asked for.
        length: most tokens of a request.
        needs: bytes by sizes.
        budget: bytes that there are.

    >>> def needs(batch, length):
    ...     return 500 + batch.max_requests * length
    >>> what_fits(BatchConfig(max_requests=8, max_rows=64), 256, needs, budget=1600)
    ['batch.max_requests=4', 'batch.max_length=137']
    >>> what_fits(BatchConfig(max_requests=8, max_rows=64), 2048, needs, budget=600)
    ['batch.max_requests=1 with batch.max_length=100']
    >>> what_fits(BatchConfig(), 2048, needs, budget=400)
    []
    """

    def fits(batch: BatchConfig, length: int) -> bool:
        return needs(batch, length) <= budget

    found = {
        "max_requests": largest(
            1, batch.max_requests, lambda n: fits(replace(batch, max_requests=n), length)
        ),
        "max_length": largest(PAGE_SLOTS, length, lambda n: fits(batch, n)),
        "max_rows": largest(1, batch.max_rows, lambda n: fits(replace(batch, max_rows=n), length)),
    }
    if batch.kv_pages:
        found["kv_pages"] = largest(
            num_pages(length) + 1,
            batch.kv_pages,
            lambda n: fits(replace(batch, kv_pages=n), length),
        )
    if listed := [f"batch.{name}={most}" for name, most in found.items() if most is not None]:
        return listed
    alone = replace(batch, max_requests=1)
    tokens = largest(PAGE_SLOTS, length, lambda n: fits(alone, n))
    return [] if tokens is None else [f"batch.max_requests=1 with batch.max_length={tokens}"]


def enough(num_bytes: int) -> str:
    """A budget for so many bytes, as a configuration says it.

    >>> enough(5 << 20)
    '6 MiB'
    """
    return f"{-(-(num_bytes + SPARE) // (1 << 20))} MiB"


def largest(least: int, most: int, fits: Callable[[int], bool]) -> int | None:
    """The largest number that fits, if all below it do; None: none does.

    >>> largest(1, 100, lambda n: n * n <= 50), largest(9, 100, lambda n: n * n <= 50)
    (7, None)
    """
    if least > most or not fits(least):
        return None
    low, high = least, most + 1  # low fits, high does not, as far as anybody asks
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
