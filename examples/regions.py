"""Regions, fields and parts of them: tasks that touch different data do not wait for each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specinfer.runtime.context import Runtime
from specinfer.runtime.executor.record import RecordingExecutor
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.privilege import RW, R
from specinfer.runtime.task import task


@task(part=RW)
def update(part: NDArray[np.float32]) -> None:
    """Change what is there."""


@task(part=R)
def look(part: NDArray[np.float32]) -> None:
    """Look at what is there."""


recorder = RecordingExecutor()  # runs nothing, and keeps what it was told
runtime = Runtime(recorder)
memory = {"key": np.zeros((4, 8), np.float32), "value": np.zeros((4, 8), np.float32)}
cache = runtime.region("cache", (4, 8), dict.fromkeys(memory, "float32"), memory)

runtime.launch(update, part=cache.rows(0, 2))  # two rows, both fields
runtime.launch(update, part=cache.rows(2, 4))  # the other two rows
runtime.launch(update, part=cache.part(IndexSpace((0, 0), (4, 3)), "key"))  # three columns
runtime.launch(look, part=cache.part(IndexSpace((0, 4), (4, 8)), "key"))  # other columns
runtime.launch(look, part=cache.part(None, "value"))  # the other field
runtime.launch(look, part=cache.part())  # everything

for number, launch in recorder.graph.nodes(data="launch"):
    print(f"{number}: {launch!s:38} waits for {sorted(recorder.graph.predecessors(number))}")
