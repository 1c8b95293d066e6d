"""Failures: a task that raises stops what depends on it, and nothing else.

python examples/failure.py
"""

from __future__ import annotations

from textwrap import fill

import numpy as np
from numpy.typing import NDArray

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import PoisonedError
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.partition import ID, equal
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.region import Subregion
from specinfer.runtime.task import task

Numbers = NDArray[np.int64]


@task(out=WD)
def load(out: Numbers, point: int, broken: int) -> None:
    """Fill a part; one of them fails."""
    if point == broken:
        raise OSError("no such file")
    out[:] = point + 1


@task(x=R, out=WD)
def double(x: Numbers, out: Numbers) -> None:
    """Read one part, write another."""
    out[:] = 2 * x


def say(text: str) -> None:
    """Print a text that may be long."""
    print(fill(text, 90, subsequent_indent="      "))


def show(part: Subregion) -> None:
    """Values, or why there are none."""
    try:
        print(f"  {part}:", *runtime.read(part))
    except PoisonedError as error:
        say(f"  {part}: {type(error).__name__}: {error}")


with Runtime(ThreadedExecutor(workers=2)) as runtime:
    x = runtime.region("x", (6,), {"value": "int64"})
    y = runtime.region("y", (6,), {"value": "int64"})
    xs, ys = equal(x, 3), equal(y, 3)
    runtime.index_launch(load, 3, out=xs, point=ID, broken=1)
    runtime.index_launch(double, 3, x=xs, out=ys)

    print("Launching did not raise; the program learns of it where it waits.")
    try:
        runtime.fence()
    except PoisonedError as error:
        say(f"  fence: {error}")
        print(f"  caused by {error.__cause__!r}")

    print("Point 1 of `double` was skipped; the other points ran.")
    for part in ys:
        show(part)

    print("What is written anew (WD) is whole again; what was made of it is not yet.")
    runtime.launch(load, out=xs[1], point=1, broken=-1)
    show(x.part())
    show(ys[1])
    runtime.index_launch(double, 3, x=xs, out=ys)
    show(y.part())

# Without an executor that runs things later, the launch itself raises: easiest to debug.
serial = Runtime()
z = serial.region("z", (2,), {"value": "int64"})
try:
    serial.launch(load, out=z, point=0, broken=0)
except OSError as error:
    print("serial:", error, error.__notes__)

# Prints:
# Launching did not raise; the program learns of it where it waits.
#   fence: load(out=WD x.parts[ID], point=1, broken=1) at point 1 raised OSError: no such
#       file
#   caused by OSError('no such file')
# Point 1 of `double` was skipped; the other points ran.
#   y[0:2]: 2 2
#   y[2:4]: PoisonedError: y[2:4] was never made: load(out=WD x.parts[ID], point=1,
#       broken=1) at point 1 raised OSError: no such file
#   y[4:6]: 6 6
# What is written anew (WD) is whole again; what was made of it is not yet.
#   x: 1 1 2 2 3 3
#   y[2:4]: PoisonedError: y[2:4] was never made: load(out=WD x.parts[ID], point=1,
#       broken=1) at point 1 raised OSError: no such file
#   y: 2 2 4 4 6 6
# serial: no such file ['raised by load(out=WD z, point=0, broken=0)']
