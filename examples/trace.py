"""Traces: a part of a program that repeats is recorded, verified, and then replayed.

python examples/trace.py
"""

from __future__ import annotations

from textwrap import fill

import numpy as np
from numpy.typing import NDArray

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import TraceError
from specinfer.runtime.executor.shuffled import ShuffledExecutor
from specinfer.runtime.future import Future
from specinfer.runtime.machine.sim import SimulatedRanks
from specinfer.runtime.partition import equal
from specinfer.runtime.privilege import RW, R
from specinfer.runtime.task import task


@task(x=RW)
def increase(x: NDArray[np.int64], by: int) -> None:
    """Add to every point."""
    x += by


@task(x=R, pure=True)
def add_up(x: NDArray[np.int64]) -> int:
    """Give the sum of all points."""
    return int(x.sum())


def say(text: str) -> None:
    """Print lines that may be long."""
    for line in text.splitlines():
        print(fill(line, 90, subsequent_indent="      "))


runtime = Runtime(ShuffledExecutor(seed=1), machine=SimulatedRanks(2))
x = runtime.region("x", (4,), {"value": "int64"})


def step(times: int, by: int) -> Future:
    """Launch tasks, and wait for nothing: this is Python that a replay does not run."""
    print("  the body runs")
    for _ in range(times):
        runtime.index_launch(increase, 2, x=equal(x, 2), by=by)
    return runtime.launch(add_up, x=x)


# `times` decides what is launched: it is a bucket, given by position, and each has its own trace.
# `by` is only handed on to tasks: it is a parameter, given by name, and may differ in each run.
trace = runtime.trace("step", step)
for by in (1, 10, 100, 1000, 10000):
    total = trace(2, by=by)
    print(f"by {by}: total {total.get()}")
say(trace.explain())

# A precondition: the data must lie as they did when the trace was recorded. This launch runs on one
# rank, which then holds everything; the run behind it is analysed again.
runtime.launch(increase, x=x, by=1)
print("moved: total", trace(2, by=0).get())
print("again: total", trace(2, by=0).get())
print("because:", *trace.stats.missed)

# What the body looks at is not seen again by replays, so looking is refused.
try:
    runtime.trace("waits", lambda: runtime.launch(add_up, x=x).get())()
except TraceError as error:
    say(f"refused: {error}")
try:
    runtime.trace("looks", lambda by: runtime.launch(increase, x=x, by=by + 1))(by=1)
except TraceError as error:
    say(f"refused: {error}")

# What differs between two runs and is no parameter is found, and said.
count = iter(range(10))
counting = runtime.trace("count", lambda: runtime.launch(increase, x=x, by=next(count)))
for _ in range(3):
    counting()
say(counting.explain())

# Prints:
#   the body runs
# by 1: total 8
#   the body runs
# by 10: total 88
# by 100: total 888
# by 1000: total 8888
# by 10000: total 88888
# trace step: 1 recorded, 1 verified, 3 replayed (2 without a fence)
#   bucket (2,): 3 launches, 7 operations, idempotent
#   the body runs
# moved: total 88892
# again: total 88892
# because: precondition: x.value does not lie where it did
# refused: the body of a trace reads a future, which a replay could not do: return it, and
#       read it behind the trace
# refused: parameter by is read inside a trace, expected it as an argument of a launch only;
#       what the body must know belongs in the trace's bucket
# trace count: 3 recorded, 0 verified, 0 replayed (0 without a fence)
#   1 x diverged: by of launch 0, increase(x=RW x, by=2), was 1, then 2; what differs from
#       run to run must be a parameter of the trace
