"""Executors carry launches out: one by one, several at once, or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import ConfigError, PoisonedError
from specinfer.runtime.executor.record import RecordingExecutor
from specinfer.runtime.executor.serial import SerialExecutor
from specinfer.runtime.executor.shuffled import ShuffledExecutor
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.privilege import RW, WD, R, Reduce
from specinfer.runtime.region import Region
from specinfer.runtime.task import task
from specinfer.runtime.waiting import Observation

TIMEOUT_SECONDS = 20.0  # only a bug makes a test wait so long


@task(x=RW)
def increment(x: Any) -> None:
    x += 1


@task(x=R, y=WD)
def copy(x: Any, y: Any) -> None:
    y[...] = x


@task(x=R, total=Reduce("+"))
def add_up(x: Any, total: Any) -> None:
    total += x.sum()


@task(x=RW)
def fail(x: Any, gate: threading.Event) -> None:
    """Wait for the gate, and raise."""
    assert gate.wait(TIMEOUT_SECONDS)
    raise ArithmeticError("no such number")


@task(x=RW)
def hold(x: Any, gate: threading.Event) -> None:
    """Wait for the gate, and increment."""
    assert gate.wait(TIMEOUT_SECONDS)
    x += 1


@pytest.fixture
def threads() -> Iterator[Runtime]:
    with Runtime(ThreadedExecutor(workers=2)) as runtime:
        yield runtime


def zeros(runtime: Runtime, name: str) -> Region:
    return runtime.region(name, (4,), {"value": "int64"}, {"value": np.zeros(4, np.int64)})


def opened() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


class TestSerial:
    def test_runs_a_launch_as_it_is_issued(self) -> None:
        runtime = Runtime(SerialExecutor())
        x = zeros(runtime, "x")
        runtime.launch(increment, x=x.rows(1, 3))
        assert runtime.array(x, "value")[:].tolist() == [0, 1, 1, 0]

    def test_raises_what_a_task_raised_and_names_the_launch(self) -> None:
        runtime = Runtime(SerialExecutor())
        x = zeros(runtime, "x")
        runtime.launch(increment, x=x.part())
        with pytest.raises(ArithmeticError, match="no such number") as raised:
            runtime.launch(fail, x=x.rows(1, 3), gate=opened())
        assert "raised by fail(x=RW x[1:3], gate=" in raised.value.__notes__[0]

    def test_what_a_failed_task_should_have_made_is_not_read(self) -> None:
        runtime = Runtime(SerialExecutor())
        x, y = zeros(runtime, "x"), zeros(runtime, "y")
        with pytest.raises(ArithmeticError):
            runtime.launch(fail, x=x.rows(1, 3), gate=opened())
        with pytest.raises(PoisonedError, match=r"never made: .*fail.* raised ArithmeticError"):
            runtime.launch(copy, x=x.part(), y=y.part())
        assert runtime.read(x.rows(0, 1)).tolist() == [0]  # it never was the failed task's
        with pytest.raises(PoisonedError, match="never made"):
            runtime.read(y.part())

    def test_goes_on_when_it_is_overwritten(self) -> None:
        runtime = Runtime(SerialExecutor())
        x, y = zeros(runtime, "x"), zeros(runtime, "y")
        with pytest.raises(ArithmeticError):
            runtime.launch(fail, x=x.part(), gate=opened())
        runtime.launch(copy, x=y.part(), y=x.part())
        runtime.launch(increment, x=x.part())
        assert runtime.read(x.part()).tolist() == [1, 1, 1, 1]


class TestThreads:
    def test_independent_launches_run_at_once(self, threads: Runtime) -> None:
        together = threading.Barrier(2)

        @task(x=RW)
        def meet(x: Any) -> None:
            together.wait(TIMEOUT_SECONDS)
            x += 1

        x = zeros(threads, "x")
        threads.launch(meet, x=x.rows(0, 2))
        threads.launch(meet, x=x.rows(2, 4))
        assert threads.read(x.part()).tolist() == [1, 1, 1, 1]

    def test_a_launch_is_issued_without_waiting_for_it(self, threads: Runtime) -> None:
        gate = threading.Event()
        x = zeros(threads, "x")
        threads.launch(hold, x=x.part(), gate=gate)
        assert threads.array(x, "value")[0] == 0
        gate.set()
        assert threads.read(x.rows(0, 1)).tolist() == [1]

    def test_a_read_waits_for_no_more_than_it_must(self, threads: Runtime) -> None:
        gate = threading.Event()
        x, y = zeros(threads, "x"), zeros(threads, "y")
        threads.launch(hold, x=x.part(), gate=gate)
        threads.launch(increment, x=y.part())
        assert threads.read(y.part()).tolist() == [1, 1, 1, 1]  # while the other is held
        gate.set()

    def test_raises_at_the_next_fence_and_names_the_launch(self, threads: Runtime) -> None:
        x = zeros(threads, "x")
        threads.launch(fail, x=x.rows(1, 3), gate=opened())
        with pytest.raises(PoisonedError, match=r"fail\(x=RW x\[1:3\], gate=") as raised:
            threads.fence()
        assert isinstance(raised.value.__cause__, ArithmeticError)

    def test_raises_at_the_next_read_even_of_another_region(self, threads: Runtime) -> None:
        x, y = zeros(threads, "x"), zeros(threads, "y")
        threads.launch(fail, x=x.part(), gate=opened())
        threads.launch(copy, x=x.part(), y=y.part())
        with pytest.raises(PoisonedError, match="no such number"):
            threads.read(y.part())

    def test_skips_what_depends_on_a_failure_and_nothing_else(self, threads: Runtime) -> None:
        gate = threading.Event()
        x, y, z = (zeros(threads, name) for name in "xyz")
        threads.launch(fail, x=x.part(), gate=gate)
        threads.launch(increment, x=x.part())
        threads.launch(copy, x=x.part(), y=y.part())
        threads.launch(increment, x=z.part())
        gate.set()
        with pytest.raises(PoisonedError):
            threads.fence()
        threads.fence()
        assert not threads.array(x, "value").any()
        assert threads.read(z.part()).tolist() == [1, 1, 1, 1]
        with pytest.raises(PoisonedError, match=r"y was never made: .*no such number"):
            threads.read(y.part())

    def test_goes_on_when_the_data_are_overwritten(self, threads: Runtime) -> None:
        x, y = zeros(threads, "x"), zeros(threads, "y")
        threads.launch(fail, x=x.part(), gate=opened())
        with pytest.raises(PoisonedError):
            threads.fence()
        threads.launch(copy, x=y.part(), y=x.part())
        threads.launch(increment, x=x.part())
        assert threads.read(x.part()).tolist() == [1, 1, 1, 1]

    def test_raises_the_first_of_several_errors_once(self, threads: Runtime) -> None:
        x, y = zeros(threads, "x"), zeros(threads, "y")
        gate = threading.Event()
        threads.launch(fail, x=x.part(), gate=gate)
        threads.launch(fail, x=y.part(), gate=gate)
        gate.set()
        with pytest.raises(PoisonedError):
            threads.fence()
        threads.fence()

    def test_a_task_that_exits_does_not_hang_the_program(self, threads: Runtime) -> None:
        @task(x=RW)
        def leave(x: Any) -> None:
            raise SystemExit(3)

        x = zeros(threads, "x")
        threads.launch(leave, x=x.part())
        with pytest.raises(SystemExit):
            threads.fence()

    def test_each_worker_is_started_once(self) -> None:
        started: list[str] = []
        executor = ThreadedExecutor(
            workers=3, start_worker=lambda: started.append(threading.current_thread().name)
        )
        executor.close()
        assert sorted(started) == ["worker 0", "worker 1", "worker 2"]

    def test_close_lets_a_running_task_finish_and_joins_the_threads(self) -> None:
        before = set(threading.enumerate())
        running, gate = threading.Event(), threading.Event()

        @task(x=RW)
        def run(x: Any) -> None:
            running.set()
            assert gate.wait(TIMEOUT_SECONDS)
            x += 1

        runtime = Runtime(ThreadedExecutor(workers=2))
        x = zeros(runtime, "x")
        runtime.launch(run, x=x.part())
        runtime.launch(increment, x=x.part())
        assert running.wait(TIMEOUT_SECONDS)
        assert len(set(threading.enumerate()) - before) == 2
        threading.Timer(0.05, gate.set).start()
        runtime.close()
        assert runtime.array(x, "value")[:].tolist() == [1, 1, 1, 1]  # the second never started
        assert not set(threading.enumerate()) - before

    def test_waiting_after_close_returns(self) -> None:
        executor = ThreadedExecutor(workers=1)
        executor.close()
        executor.submit(0, Observation((), "nothing"), ())
        executor.wait(None)

    @pytest.mark.parametrize("workers", [0, -1])
    def test_refuses_to_have_no_worker(self, workers: int) -> None:
        with pytest.raises(ConfigError, match=f"threads: {workers} workers, expected 1 or more"):
            ThreadedExecutor(workers)


class TestShuffled:
    @pytest.mark.parametrize("seed", range(4))
    def test_keeps_dependences_in_every_order(self, seed: int) -> None:
        with Runtime(ShuffledExecutor(seed)) as runtime:
            x, y = zeros(runtime, "x"), zeros(runtime, "y")
            for _ in range(5):
                runtime.launch(increment, x=x.part())
                runtime.launch(copy, x=x.part(), y=y.part())
            assert runtime.read(y.part()).tolist() == [5, 5, 5, 5]

    def test_the_orders_of_one_seed_are_the_same(self) -> None:
        assert shuffled_order(3) == shuffled_order(3)
        assert len({tuple(shuffled_order(seed)) for seed in range(8)}) > 1

    def test_waiting_after_close_returns(self) -> None:
        executor = ShuffledExecutor()
        runtime = Runtime(executor)
        x = zeros(runtime, "x")
        for _ in range(20):
            runtime.launch(increment, x=x.part())
        runtime.close()
        executor.wait(None)


def shuffled_order(seed: int) -> list[int]:
    """In which order independent launches run."""
    order: list[int] = []

    @task(x=RW)
    def note(x: Any, number: int) -> None:
        order.append(number)

    with Runtime(ShuffledExecutor(seed)) as runtime:
        x = zeros(runtime, "x")
        for number in range(4):
            runtime.launch(note, x=x.rows(number, number + 1), number=number)
        runtime.fence()
    return order


class TestRecording:
    def test_keeps_the_task_graph_and_runs_nothing(self) -> None:
        executor = RecordingExecutor()
        runtime = Runtime(executor)
        x, y, total = (zeros(runtime, name) for name in ("x", "y", "total"))
        runtime.launch(increment, x=x.part())
        runtime.launch(copy, x=x.part(), y=y.part())
        runtime.launch(add_up, x=x.part(), total=total.part())
        runtime.launch(add_up, x=y.part(), total=total.part())
        runtime.launch(increment, x=x.part())
        runtime.fence()
        assert set(executor.graph.edges) == {(0, 1), (0, 2), (1, 3), (0, 4), (1, 4), (2, 4)}
        assert not runtime.array(total, "value")[:].any()

    def test_each_node_carries_its_launch(self) -> None:
        executor = RecordingExecutor()
        runtime = Runtime(executor)
        x = zeros(runtime, "x")
        runtime.launch(increment, x=x.rows(0, 2))
        assert str(executor.graph.nodes[0]["launch"]) == "increment(x=RW x[0:2])"


def test_reductions_with_one_operator_lose_nothing() -> None:
    @task(x=Reduce("+"))
    def slow_increment(x: Any) -> None:
        before = x.copy()
        time.sleep(0.0005)  # long enough for another worker to come between
        x[:] = before + 1

    with Runtime(ThreadedExecutor(4)) as runtime:
        x = runtime.region("x", (2,), {"value": "int64"}, {"value": np.zeros(2, np.int64)})
        for _ in range(50):
            runtime.launch(slow_increment, x=x.part())
        assert runtime.read(x.part()).tolist() == [50, 50]
