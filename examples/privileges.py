"""Privileges decide what may run at once: four launches, with other privileges each time.

python examples/privileges.py
"""

from __future__ import annotations

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from specinfer.runtime.context import Runtime
from specinfer.runtime.executor.record import RecordingExecutor
from specinfer.runtime.privilege import RW, WD, Privilege, R, Reduce
from specinfer.runtime.task import task


def task_graph(privileges: list[Privilege]) -> nx.DiGraph:
    """The dependences between tasks that use the same counter, each with one privilege."""
    recorder = RecordingExecutor()
    runtime = Runtime(recorder)
    counter = runtime.region("counter", (1,), {"count": "int64"})
    for privilege in privileges:

        @task(count=privilege)
        def use(count: NDArray[np.int64]) -> None:
            """Do with the counter what the privilege allows."""

        runtime.launch(use, count=counter.part())
    return recorder.graph


add, largest = Reduce("+"), Reduce("max")
for privileges in (
    [R, R, R, R],  # readers do not change what others see
    [WD, R, R, WD],  # the readers run at once, between the writers
    [RW, RW, RW, RW],  # one after another
    [WD, add, add, R],  # additions may come in any order,
    [WD, add, largest, R],  # but not an addition and a maximum
):
    waves = list(nx.topological_generations(task_graph(privileges)))
    order = ", then ".join(" with ".join(str(privileges[i]) for i in wave) for wave in waves)
    print(f"steps: {len(waves)}  {order}")

# Prints:
# steps: 1  R with R with R with R
# steps: 3  WD, then R with R, then WD
# steps: 4  RW, then RW, then RW, then RW
# steps: 3  WD, then Reduce(+) with Reduce(+), then R
# steps: 4  WD, then Reduce(+), then Reduce(max), then R
