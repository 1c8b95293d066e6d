"""A loop of launches that comes again and again without a trace is told once."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from specinfer.runtime import loops
from specinfer.runtime.context import Runtime
from specinfer.runtime.loops import EVERY, SHORTEST, find_period
from specinfer.runtime.privilege import RW
from specinfer.runtime.task import task


@task(x=RW)
def increment(x: Any) -> None:
    x += 1


def run(runtime: Runtime, length: int, times: int, *, traced: bool = False) -> None:
    """Launch on ``length`` rows, one after another, many times."""
    x = runtime.region("x", (length,), {"v": "int64"}, {"v": np.zeros(length, int)})

    def body() -> None:
        for row in range(length):
            runtime.launch(increment, x=x.rows(row, row + 1))

    step = runtime.trace("step", body) if traced else body
    for _ in range(times):
        step()


def test_a_loop_without_a_trace_is_told_with_its_ends(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "specinfer.runtime"):
        run(Runtime(), 64, EVERY // 64)
    (told,) = caplog.messages
    assert told.startswith(
        "64 launches, from increment(x=RW x[0:1]) to increment(x=RW x[63:64]), have come 3 times "
        "in a row without a trace"
    )


def test_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "specinfer.runtime"):
        run(Runtime(), 64, 5 * EVERY // 64)
    assert len(caplog.messages) == 1


def test_loops_that_were_told_are_forgotten_some_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "MOST_TOLD", 100)
    runtime = Runtime()
    for _ in range(4):
        run(runtime, 64, 2 * EVERY // 64)
    assert 64 <= len(runtime._loops._told) <= 128


@pytest.mark.parametrize("waits_every", [10, 40])
def test_what_no_trace_can_have_ends_a_loop(
    caplog: pytest.LogCaptureFixture, waits_every: int
) -> None:
    runtime = Runtime()
    x = runtime.region("x", (40,), {"v": "int64"}, {"v": np.zeros(40, int)})
    with caplog.at_level(logging.WARNING, "specinfer.runtime"):
        for number in range(3 * EVERY):
            runtime.launch(increment, x=x.rows(number % 40, number % 40 + 1))
            if number % waits_every == 5:
                runtime.fence()
    told = [message.partition(",")[0] for message in caplog.messages]
    assert told == (["40 launches"] if waits_every == 40 else [])


@pytest.mark.parametrize(("length", "traced"), [(64, True), (SHORTEST // 2 - 1, False)])
def test_a_trace_and_a_short_loop_are_not_told_as_they_are(
    caplog: pytest.LogCaptureFixture, length: int, traced: bool
) -> None:
    with caplog.at_level(logging.WARNING, "specinfer.runtime"):
        run(Runtime(), length, 5 * EVERY // length, traced=traced)
    assert not any(message.startswith(f"{length} launches") for message in caplog.messages)


@pytest.mark.parametrize(
    ("seen", "period"),
    [("abcabcabc", 3), ("xyabcabcabc", 3), ("abcabcabx", None), ("abcabc", None), ("", None)],
)
def test_a_period_is_three_times_the_same_at_the_end(seen: str, period: int | None) -> None:
    assert find_period(seen, shortest=3) == period
