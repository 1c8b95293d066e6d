"""What the machine could do: how fast it reads, copies and multiplies, measured and not looked up.

A step cannot be faster than reading what it must read, nor than its products; that is its floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import torch

from specinfer.scheduler.bench.report import Row, repeated
from specinfer.scheduler.bench.timing import Clock, captured, waiter

BYTES = {"cuda": 4 << 30, "cpu": 256 << 20}
"""Of the array that is read and copied: more than any cache holds."""
SIDES = {"cuda": 8192, "cpu": 1024}
"""Of the square matrices that are multiplied."""
UNITS = {"read": "GB/s", "copy": "GB/s", "product": "GFLOP/s"}
PREFIX = "ceilings/"
"""What the names of these figures start with."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Speeds of a device.

    Attributes:
        read: bytes a second of a plain read.
        product: operations a second of a large matrix product.
        rows: both, and the speed of a copy, as results.
    """

    read: float
    product: float
    rows: tuple[Row, ...]

    def floor(self, num_bytes: float, operations: float) -> float:
        """Seconds that reading and computing so much takes at least."""
        return max(num_bytes / self.read, operations / self.product)


def measure_ceilings(
    device: str, dtype: torch.dtype, clock: Clock, *, num_bytes: int = 0, side: int = 0
) -> Ceilings:
    """Measure the speeds of a device.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: of the product.
        clock: how often.
        num_bytes: of the array; 0: more than caches hold.
        side: of the matrices; 0: large.
    """
    size = num_bytes or BYTES[device]
    # Ones: memory that was never written may not be there yet.
    array = torch.ones(size // 4, dtype=torch.int32, device=device)
    half = array.numel() // 2
    source, target = array[:half], array[half : 2 * half]
    side = side or SIDES[device]
    a, b, c = torch.randn(3, side, side, device=device).to(dtype)
    cases = {
        "read": captured(array.amax, device),
        "copy": captured(lambda: target.copy_(source), device),
        "product": captured(lambda: torch.mm(a, b, out=c), device),
    }
    seconds = clock.seconds(cases, waiter(device), "ceilings")
    # A copy of half of the array reads that half, and writes the other.
    work = {"read": array.nbytes, "copy": 2 * source.nbytes, "product": 2 * side**3}
    speeds = {name: [work[name] / one for one in found] for name, found in seconds.items()}
    rows = tuple(
        repeated(f"{PREFIX}{name}", [speed / 1e9 for speed in found], UNITS[name])
        for name, found in speeds.items()
    )
    return Ceilings(median(speeds["read"]), median(speeds["product"]), rows)
