"""What a trace says of runs that are no replays, and which values it takes for the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from specinfer.runtime.context import Runtime
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.machine.sim import SimulatedRanks
from specinfer.runtime.partition import Partition, equal
from specinfer.runtime.privilege import RW
from specinfer.runtime.task import task
from specinfer.runtime.trace import Trace


@task(x=RW)
def use(x: NDArray[np.int64], value: Any) -> None:
    x += 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: (1, (2, "a")),
        lambda: np.int64(3),
        lambda: 2.5,
        lambda: None,
        lambda: "".join(["a", "b"]),
    ],
)
def test_equal_plain_values_are_the_same(make: Callable[[], Any]) -> None:
    runtime = Runtime()
    x = runtime.region("x", (2,), {"value": "int64"})
    trace = runtime.trace("step", lambda: runtime.launch(use, x=x, value=make()), strict=True)
    for _ in range(3):
        trace()
    assert trace.stats.replayed == 1


def reason(trace: Trace) -> str:
    (told,) = trace.stats.missed
    return told


def test_says_what_another_object_is() -> None:
    runtime = Runtime()
    x = runtime.region("x", (2,), {"value": "int64"})
    trace = runtime.trace("step", lambda: runtime.launch(use, x=x, value=[1, 2]))
    trace()
    trace()
    assert "was [1, 2], then another object like it; what differs" in reason(trace)


def test_says_that_partitions_of_one_name_differ() -> None:
    runtime = Runtime()
    x = runtime.region("x", (2,), {"value": "int64"})

    def body() -> None:
        parts = Partition(x, {0: IndexSpace((0,), (2,))}, name="all")
        runtime.index_launch(use, 1, x=parts, value=0)

    trace = runtime.trace("step", body)
    trace()
    trace()
    assert reason(trace) == (
        "diverged: launch 0 was use(x=RW all[ID], value=0), then the same of another partition, "
        "projection or task of that name"
    )


def test_says_by_name_what_lies_elsewhere() -> None:
    runtime = Runtime(machine=SimulatedRanks(2))
    x = runtime.region("x", (2,), {"value": "int64"})
    trace = runtime.trace("step", lambda: runtime.index_launch(use, 2, x=equal(x, 2), value=0))
    for _ in range(4):
        trace()
    assert not trace.stats.missed
    runtime.launch(use, x=x, value=0)
    trace()
    assert reason(trace) == "precondition: x.value does not lie where it did"
