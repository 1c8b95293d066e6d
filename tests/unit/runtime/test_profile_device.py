"""What a GPU did is told with its own time, read in batches; the clock is a fake."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from specinfer.runtime import call
from specinfer.runtime.context import Runtime
from specinfer.runtime.executor.serial import SerialExecutor
from specinfer.runtime.privilege import RW
from specinfer.runtime.profile import device
from specinfer.runtime.profile.device import DeviceSpans
from specinfer.runtime.profile.executor import ProfilingExecutor
from specinfer.runtime.profile.profiler import Profiler
from specinfer.runtime.profile.summary import summarize
from specinfer.runtime.task import task


class FakeClock:
    """A device that takes 7 us from each mark to the next, and is always some marks behind.

    Attributes:
        waits: how often it was waited for.
    """

    def __init__(self, behind: int = 0) -> None:
        self.waits = self.made = self.reached = 0
        self._behind = behind

    def mark(self) -> int:
        self.made += 1
        self.reached = max(self.reached, self.made - self._behind)
        return self.made

    def is_reached(self, mark: int) -> bool:
        return mark <= self.reached

    def between(self, mark: int, later: int) -> int:
        assert max(mark, later) <= self.reached
        return 7_000 * (later - mark)

    def wait(self, mark: int) -> None:
        self.waits += 1
        self.reached = max(self.reached, mark)


@task(x=RW)
def step(x: Any) -> None:
    x += 1


@task(x=RW)
def fail(x: Any) -> None:
    raise ArithmeticError("no")


def test_spans_are_told_later_in_order_from_one_anchor() -> None:
    told: list[tuple[int, int]] = []
    spans = DeviceSpans(FakeClock(behind=4), now=iter(range(1_000, 9_000, 1_000)).__next__)
    spans.settle()  # nothing was issued: nobody is waited for
    for _ in range(3):
        spans.end(spans.begin(), lambda start, stop: told.append((start, stop)))
    assert told == []
    spans.settle()
    # The anchor lies between 1000 and 2000 ns; marks 1 to 7 are the anchor, begin, end, ...
    assert told == [(1_500 + 7_000 * n, 1_500 + 7_000 * (n + 1)) for n in (1, 3, 5)]


def test_nobody_waits_for_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "BATCH", 10)
    clock, told = FakeClock(behind=4), list[int]()
    spans = DeviceSpans(clock)
    for _ in range(100):
        spans.end(spans.begin(), lambda start, stop: told.append(stop - start))
    assert clock.waits == 1  # for the anchor
    assert 90 <= len(told) < 100
    assert set(told) == {7_000}


@pytest.mark.parametrize("replays", [False, True])
def test_a_gpu_has_a_row_and_its_tasks_their_own_time(
    monkeypatch: pytest.MonkeyPatch, *, replays: bool
) -> None:
    monkeypatch.setattr(call, "is_on_gpu", lambda array: array.dtype == np.float32)
    profiler, clock = Profiler(), FakeClock(behind=2)
    runtime = Runtime(ProfilingExecutor(SerialExecutor(), profiler, clock))
    x = runtime.region("x", (4,), {"v": "float32"}, {"v": np.zeros(4, np.float32)})
    y = runtime.region("y", (4,), {"v": "int64"}, {"v": np.zeros(4, np.int64)})

    def body() -> None:
        runtime.launch(step, x=x.part())
        runtime.launch(step, x=y.part())
        runtime.launch(step, x=x.part())

    run = runtime.trace("body", body) if replays else body
    for _ in range(4):
        run()
    profile = profiler.profile()
    on_gpu = [span for span in profile.spans if span.row == "gpu"]
    assert [(s.name, s.kind, s.duration) for s in on_gpu] == [("step", "task", 7_000)] * 8
    assert all(a.stop <= b.start for a, b in pairwise(on_gpu))
    assert on_gpu[1].waits_for == ((0, on_gpu[0].id),)
    main = [span for span in profile.spans if span.row == "main"]
    assert [span.kind for span in main if span.id is None] == ["host"] * 8
    assert len([span for span in main if span.id is not None]) == 4
    assert {task.name for task in summarize(profile).tasks} == {"step"}


def test_what_raises_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "is_on_gpu", lambda array: True)
    profiler = Profiler()
    runtime = Runtime(ProfilingExecutor(SerialExecutor(), profiler, FakeClock()))
    x = runtime.region("x", (4,), {"v": "float32"}, {"v": np.zeros(4, np.float32)})
    with pytest.raises(ArithmeticError):
        runtime.launch(fail, x=x.part())
    assert [s.name for s in profiler.profile().spans if s.row == "gpu"] == ["fail"]
