"""The end of a program: nothing that raised is lost, and nothing is issued behind it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from unit.runtime.setups import MAKERS, everywhere, later

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import LaunchError, PoisonedError
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.privilege import RW, R
from specinfer.runtime.region import Region
from specinfer.runtime.task import task

TIMEOUT_SECONDS = 20.0


@task(x=RW)
def increment(x: Any) -> int:
    x += 1
    return int(x[0])


@task(x=RW)
def fail(x: Any) -> int:
    raise ArithmeticError("no such number")


@task(x=R, y=RW)
def copy(x: Any, y: Any) -> None:
    y[:] = x


def line(runtime: Runtime, name: str = "x") -> Region:
    return runtime.region(name, (4,), {"value": "int64"})


@later
def test_what_raised_is_told_at_the_end(kind: str) -> None:
    with pytest.raises(PoisonedError, match="no such number"), MAKERS[kind]() as runtime:
        runtime.launch(fail, x=line(runtime))
    with pytest.raises(LaunchError, match="closed"):
        runtime.fence()


@later
def test_what_was_told_is_not_told_again(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with MAKERS[kind]() as runtime:
        made = runtime.launch(fail, x=line(runtime))
        with pytest.raises(PoisonedError):
            made.get()
    assert not caplog.messages


@everywhere
def test_everything_has_run_at_the_end(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = line(runtime)
        for _ in range(20):
            made = runtime.launch(increment, x=x)
    assert made.get() == 20  # it is here, and needs nobody any more


@later
def test_an_error_of_the_program_goes_first_and_what_raised_is_logged(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def program() -> None:
        with MAKERS[kind]() as runtime:
            x, y = line(runtime), line(runtime, "y")
            runtime.launch(fail, x=x)
            runtime.launch(copy, x=x, y=y)
            runtime._stream.executor.wait(None)
            raise KeyError

    with pytest.raises(KeyError):
        program()
    (told,) = caplog.messages
    assert told.startswith("closed, and nobody was told: fail(x=RW x) raised ArithmeticError: no")


def test_close_drops_what_has_not_started_and_logs_what_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    running, gate = threading.Event(), threading.Event()

    @task(x=RW)
    def wait_and_fail(x: Any) -> None:
        running.set()
        assert gate.wait(TIMEOUT_SECONDS)
        raise ArithmeticError("too late")

    runtime = Runtime(ThreadedExecutor(1))
    x, y = line(runtime), line(runtime, "y")
    runtime.launch(wait_and_fail, x=x)
    runtime.launch(increment, x=y)
    assert running.wait(TIMEOUT_SECONDS)
    threading.Timer(0.05, gate.set).start()
    with caplog.at_level(logging.ERROR, "specinfer.runtime"):
        runtime.close()
        runtime.close()
    assert not runtime.array(y, "value")[:].any()
    (told,) = caplog.messages
    assert "wait_and_fail(x=RW x) raised ArithmeticError: too late" in told


USES: dict[str, Callable[[Runtime, Region, Any], object]] = {
    r"launch of increment\(x=RW x\): the runtime was closed": (
        lambda runtime, x, step: runtime.launch(increment, x=x)
    ),
    r"launch of copy\(x=R x.0:1., y=RW x.1:2.\)": (
        lambda runtime, x, step: runtime.launch(copy, x=x.rows(0, 1), y=x.rows(1, 2))
    ),
    "trace step: the runtime was closed": lambda runtime, x, step: step(),
    r"a program that reads x\b.*: the runtime was closed": lambda runtime, x, step: runtime.read(x),
    "a program that waits at a fence": lambda runtime, x, step: runtime.fence(),
    "a program that agrees on a value": lambda runtime, x, step: runtime.agree(1),
    "the runtime was closed, expected it before": (
        lambda runtime, x, step: runtime.attach(x, "value", runtime.array(x, "value"))
    ),
}


@everywhere
@pytest.mark.parametrize("refused", USES)
def test_a_closed_runtime_is_not_used(kind: str, refused: str) -> None:
    runtime = MAKERS[kind]()
    x = line(runtime)
    step = runtime.trace("step", lambda: runtime.launch(increment, x=x))
    for _ in range(3):
        step()
    runtime.fence()
    runtime.close()
    with pytest.raises(LaunchError, match=refused):
        USES[refused](runtime, x, step)
    assert runtime.array(x, "value").tolist() == [3, 3, 3, 3]


def test_a_value_that_never_arrived_is_refused_behind_the_end() -> None:
    runtime = MAKERS["shuffled"]()
    x = line(runtime)
    made = [runtime.launch(increment, x=x) for _ in range(20)][-1]
    runtime.close()
    with pytest.raises(LaunchError, match="a program that reads a future: the runtime was closed"):
        made.get()
