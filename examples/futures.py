"""Futures: what a task returns, given to other tasks without waiting for it.

python examples/futures.py
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specinfer.runtime.context import Runtime
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.partition import equal
from specinfer.runtime.privilege import RW, R
from specinfer.runtime.task import task

Numbers = NDArray[np.float64]


@task(x=R)
def largest(x: Numbers) -> float:
    """Return a value: the launch gives a future of it."""
    return float(x.max())


@task(x=RW)
def divide(x: Numbers, by: float) -> None:
    """Take a value; where it comes from is not the task's business."""
    x /= by


@task()
def is_above(value: float, limit: float) -> bool:
    """Decide. A task needs no region."""
    return value > limit


with Runtime(ThreadedExecutor(workers=2)) as runtime:
    x = runtime.region("x", (6,), {"value": "float64"}, {"value": np.array([1.0, 2, 8, 4, 4, 8])})

    # A future as an argument: `divide` waits for `largest`, and this program for neither.
    top = runtime.launch(largest, x=x)
    runtime.launch(divide, x=x, by=top)
    print("x / 8:", *runtime.read(x.part()))

    # An index launch gives a future for each point.
    tops = runtime.index_launch(largest, 3, x=equal(x, 3))
    print("of each pair:", tops.get())
    print("their sum:", tops.reduce(lambda one, other: one + other))

    # The same map as an argument of another index launch: each point gets the value of its own.
    runtime.index_launch(divide, 3, x=equal(x, 3), by=tops)
    print("each pair by its largest:", *runtime.read(x.part()))

    # A predicate: a launch that runs, or does not, by a value that is not known yet.
    for limit in (5, 50):
        is_large = runtime.launch(is_above, value=top, limit=limit)
        runtime.launch(divide, predicate=is_large, x=x, by=10)
        print(f"divided if 8 is above {limit}:", *runtime.read(x.part()))
    found = runtime.launch(largest, predicate=is_large, otherwise="not asked", x=x)
    print("a launch that does not run gives:", found.get())

# Prints:
# x / 8: 0.125 0.25 1.0 0.5 0.5 1.0
# of each pair: {0: 0.25, 1: 1.0, 2: 1.0}
# their sum: 2.25
# each pair by its largest: 0.5 1.0 1.0 0.5 0.5 1.0
# divided if 8 is above 5: 0.05 0.1 0.1 0.05 0.05 0.1
# divided if 8 is above 50: 0.05 0.1 0.1 0.05 0.05 0.1
# a launch that does not run gives: not asked
