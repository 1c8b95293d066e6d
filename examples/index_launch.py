"""Index launches: one launch of a task for many points, each with its own part of the data.

python examples/index_launch.py
"""

from __future__ import annotations

from textwrap import fill

import numpy as np
from numpy.typing import NDArray

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import LaunchError
from specinfer.runtime.partition import ID, equal, shift
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.task import task

Numbers = NDArray[np.int64]


@task(part=WD)
def number(part: Numbers, point: int) -> None:
    """Write the point's number over its part."""
    part[:] = point


@task(left=R, right=R, out=WD)
def add(left: Numbers, right: Numbers, out: Numbers) -> None:
    """Add up two parts."""
    out[:] = left + right


runtime = Runtime()
x = runtime.region("x", (8,), {"value": "int64"})
y = runtime.region("y", (8,), {"value": "int64"})
xs, ys = equal(x, 4), equal(y, 4)

# Point p gets part p. ID, as a value, is the point itself.
runtime.index_launch(number, 4, part=xs, point=ID)
print("x:", runtime.read(x.part()))

# A projection says which part a point gets instead: point p adds parts p and p + 1.
runtime.index_launch(add, 3, left=xs, right=xs[shift(1)], out=ys)
print("y:", runtime.read(y.part()))

# The points of a launch may run at the same time, on any rank: they must not be in each other's
# way. It is checked before any of them runs.
for domain, out in ((4, ys), (2, y)):
    try:
        runtime.index_launch(add, domain, left=xs, right=xs[shift(1)], out=out)
    except LaunchError as error:
        print(fill(f"refused: {error}", 90, subsequent_indent="  "))

# Prints:
# x: [0 0 1 1 2 2 3 3]
# y: [1 1 3 3 5 5 0 0]
# refused: x.parts[shift(1)]: point 3 is sent to colour 4, which leaves the partition's 4
#   colours 0..3
# refused: task add: points 0 (WD [0:8]) and 1 (WD [0:8]) of one launch overlap in argument
#   out, y
