"""Regions, fields and parts of them: tasks that touch different data do not wait for each other.

python examples/regions.py
"""

from __future__ import annotations

from typing import Any

from specinfer.runtime.context import Runtime
from specinfer.runtime.executor.record import RecordingExecutor
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.privilege import RW, R
from specinfer.runtime.task import task


@task(part=RW)
def update(part: Any) -> None:
    """Change what is there: the array of a field, or `part.key` and `part.value` of both."""


@task(part=R)
def look(part: Any) -> None:
    """Look at what is there."""


recorder = RecordingExecutor()  # runs nothing, and keeps what it was told
runtime = Runtime(recorder)
cache = runtime.region("cache", (4, 8), {"key": "float32", "value": "float32"})

runtime.launch(update, part=cache.rows(0, 2))  # two rows, both fields
runtime.launch(update, part=cache.rows(2, 4))  # the other two rows
runtime.launch(update, part=cache.part(IndexSpace((0, 0), (4, 3)), "key"))  # three columns
runtime.launch(look, part=cache.part(IndexSpace((0, 4), (4, 8)), "key"))  # other columns
runtime.launch(look, part=cache.part(None, "value"))  # the other field
runtime.launch(look, part=cache.part())  # everything

for number, launch in recorder.graph.nodes(data="launch"):
    print(f"{number}: {launch!s:38} waits for {sorted(recorder.graph.predecessors(number))}")

# Prints:
# 0: update(part=RW cache[0:2,0:8].key,value) waits for []
# 1: update(part=RW cache[2:4,0:8].key,value) waits for []
# 2: update(part=RW cache[0:4,0:3].key)     waits for [0, 1]
# 3: look(part=R cache[0:4,4:8].key)        waits for [0, 1]
# 4: look(part=R cache.value)               waits for [0, 1]
# 5: look(part=R cache.key,value)           waits for [0, 1, 2]
