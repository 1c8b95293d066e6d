"""Debug mode: tasks that do more, or less, than they declare are refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from meaning import meaning_of
from random_mapper import RandomMapper
from running import Run
from strategies import random_program

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import LaunchError, PoisonedError
from specinfer.runtime.executor import Executor
from specinfer.runtime.executor.serial import SerialExecutor
from specinfer.runtime.executor.shuffled import ShuffledExecutor
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.machine.one import OneRank
from specinfer.runtime.machine.sim import SimulatedRanks
from specinfer.runtime.partition import ID, equal
from specinfer.runtime.privilege import RW, WD, R, Reduce
from specinfer.runtime.region import Region
from specinfer.runtime.task import task

KINDS = ["int64", "float32", torch.float32, torch.bfloat16, torch.int32, "bool"]
kinds = pytest.mark.parametrize("kind", KINDS, ids=str)


def region(runtime: Runtime, name: str, kind: Any, *shape: int) -> Region:
    is_torch = isinstance(kind, torch.dtype)
    array = torch.ones(shape, dtype=kind) if is_torch else np.ones(shape, kind)
    return runtime.region(name, shape, {"v": kind}, {"v": array})


def here() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


@task(x=RW)
def negate(x: Any) -> None:
    x[...] = x == 0


@task(x=R)
def writes_what_it_reads(x: Any) -> None:
    x[0, 1] = 0


@task(x=R, y=WD)
def writes_what_it_reads_through_its_base(x: Any, y: Any) -> None:
    y[...] = 0
    x.base[1, 1] = 0


@task(y=WD)
def leaves_one_out(y: Any) -> None:
    y[:1] = 0
    y[1, 1:] = 0


@task(y=WD, pure=True)
def leaves_one_out_purely(y: Any) -> None:
    y[:1] = 0
    y[1, 1:] = 0


@task(x=R, y=WD, pure=True)
def adds_to_what_it_discards(x: Any, y: Any) -> None:
    y[...] = x + y


@task(x=R, y=WD, z=RW, pure=True)
def is_fine(x: Any, y: Any, z: Any) -> Any:
    y[...] = x
    z[...] = z == x
    return float(y.sum())


@task(x=RW)
def reaches_beside(x: Any) -> None:
    if isinstance(x, np.ndarray):
        (x if x.base is None else x.base)[0, 0] = 0
    else:
        torch.as_strided(x, (1,), (1,), 0).zero_()


@kinds
def test_refuses_a_task_that_writes_what_it_only_reads(kind: Any) -> None:
    with Runtime(debug=True) as runtime:
        x = region(runtime, "x", kind, 4, 3)
        line = here() + 2
        with pytest.raises(LaunchError) as refused:
            runtime.launch(writes_what_it_reads, x=x.rows(1, 3))
        text = str(refused.value)
        assert text.startswith(
            f"task writes_what_it_reads, launched at test_debug.py:{line}: writes "
        )
        assert "x=x[1:3,0:3]" in text
        if isinstance(kind, torch.dtype):
            assert text.endswith("x=x[1:3,0:3] at [1, 1], which it only reads (R)")


def test_refuses_it_also_through_an_arrays_base() -> None:
    with Runtime(debug=True) as runtime:
        x, y = region(runtime, "x", "int64", 4, 3), region(runtime, "y", "int64", 2)
        expected = r"writes x=x\[1:2,0:3\] at \[1, 1\], which it only reads \(R\)"
        with pytest.raises(LaunchError, match=expected):
            runtime.launch(writes_what_it_reads_through_its_base, x=x.rows(1, 2), y=y)


@kinds
@pytest.mark.parametrize("launched", [leaves_one_out, leaves_one_out_purely])
def test_refuses_a_task_that_leaves_points_unwritten(kind: Any, launched: Any) -> None:
    with Runtime(debug=True) as runtime:
        y = region(runtime, "y", kind, 5, 3)
        if kind == "bool" and launched is leaves_one_out:
            runtime.launch(launched, y=y.rows(2, 4))  # it could have meant it
            return
        expected = r"leaves 1 of 6 points of y=y\[2:4,0:3\] unwritten, first \[3, 0\], expected all"
        with pytest.raises(LaunchError, match=expected):
            runtime.launch(launched, y=y.rows(2, 4))


@kinds
def test_refuses_a_task_that_reads_what_it_discards(kind: Any) -> None:
    with Runtime(debug=True) as runtime:
        x, y = region(runtime, "x", kind, 4), region(runtime, "y", kind, 4)
        runtime.launch(negate, x=x)
        with pytest.raises(LaunchError, match=r"task adds_to_what_it_discards.*(discards|unwri)"):
            runtime.launch(adds_to_what_it_discards, x=x, y=y)


@kinds
def test_refuses_a_task_that_reaches_beside_its_points(kind: Any) -> None:
    with Runtime(debug=True) as runtime:
        x = region(runtime, "x", kind, 4, 3)
        runtime.launch(reaches_beside, x=x.part())
        x = region(runtime, "x", kind, 4, 3)
        expected = r"writes beside the points that it was given, in the memory of x=x\[2:4,0:3\]"
        with pytest.raises(LaunchError, match=expected):
            runtime.launch(reaches_beside, x=x.rows(2, 4))


@kinds
def test_lets_a_task_do_what_it_declares(kind: Any) -> None:
    with Runtime(debug=True) as runtime:
        x, y, z = (region(runtime, name, kind, 4) for name in "xyz")
        total = runtime.launch(is_fine, x=x.rows(0, 2), y=y.rows(0, 2), z=y.rows(2, 4))
        runtime.launch(is_fine, x=x, y=z, z=y)
        assert total.get() in (2.0, 1.0)
        assert [bool(v) for v in runtime.read(y.part())] == [True] * 4


@pytest.mark.parametrize("executor", [SerialExecutor, ShuffledExecutor, ThreadedExecutor])
@pytest.mark.parametrize("what", ["launch", "read", "fence", "future"])
def test_refuses_a_task_that_launches_or_waits(executor: Callable[[], Executor], what: str) -> None:
    with Runtime(executor(), debug=True) as runtime:
        x, y = region(runtime, "x", "int64", 4), region(runtime, "y", "int64", 4)
        future = runtime.launch(is_fine, x=x.rows(0, 1), y=x.rows(1, 2), z=x.rows(2, 3))

        @task(x=RW)
        def parent(x: Any) -> None:
            match what:
                case "launch":
                    runtime.launch(negate, x=y)
                case "read":
                    runtime.read(y.part())
                case "fence":
                    runtime.fence()
                case "future":
                    future.get()

        expected = r"task parent, launched at test_debug.py:\d+: .* but tasks are leaves"

        def launch_and_wait() -> None:
            runtime.launch(parent, x=x)
            runtime.fence()

        with pytest.raises((LaunchError, PoisonedError), match=expected):
            launch_and_wait()


def test_tells_the_point_of_an_index_launch() -> None:
    @task(x=WD)
    def skips_the_second(x: Any, at: int) -> None:
        if at != 1:
            x[...] = 0

    with Runtime(ThreadedExecutor(2), debug=True) as runtime:
        x = region(runtime, "x", "float32", 6)
        runtime.index_launch(skips_the_second, 3, x=equal(x, 3), at=ID)
        expected = r"at point 1, launched at test_debug.py:\d+: leaves 2 of 2 points of x=x\[2:4\]"
        with pytest.raises(PoisonedError, match=expected):
            runtime.fence()


@pytest.mark.parametrize("executor", [SerialExecutor, ShuffledExecutor])
def test_watches_replays(executor: Callable[[], Executor]) -> None:
    @task(x=WD)
    def fills(x: Any, by: int) -> None:
        if by < 3:
            x[...] = by

    with Runtime(executor(), debug=True) as runtime:
        x = region(runtime, "x", "float32", 6)
        trace = runtime.trace("fill", lambda by: runtime.launch(fills, x=x, by=by))
        for by in range(3):
            trace(by=by)
        assert trace.stats.replayed == 1

        def replay_and_wait() -> None:
            trace(by=3)
            runtime.fence()

        with pytest.raises((LaunchError, PoisonedError), match="leaves 6 of 6 points"):
            replay_and_wait()


def test_reductions_are_not_disturbed() -> None:
    @task(x=R, total=Reduce("+"), seen=WD, pure=True)
    def adds(x: Any, total: Any, seen: Any) -> None:
        total += x.sum()
        seen[...] = x

    for machine in (OneRank(), SimulatedRanks(2)):
        with Runtime(ShuffledExecutor(1), machine=machine, debug=True) as runtime:
            x, y = region(runtime, "x", "int64", 6), region(runtime, "y", "int64", 6)
            total = region(runtime, "total", "int64", 1)
            runtime.index_launch(adds, 3, x=equal(x, 3), total=total, seen=equal(y, 3))
            assert runtime.read(total.part()).tolist() == [7]


@pytest.mark.parametrize("kind", ["serial", "threads", "sim"])
def test_random_programs_mean_the_same(kind: str) -> None:
    for seed in range(12):
        program = random_program(seed)
        machine = SimulatedRanks(3) if kind == "sim" else OneRank()
        executors = {"serial": SerialExecutor, "threads": ThreadedExecutor}
        mapper = RandomMapper(machine.num_ranks, seed)
        executor = executors.get(kind, ShuffledExecutor)()
        with Runtime(executor, machine=machine, mapper=mapper, debug=True) as runtime:
            run = Run(program, meaning_of(program), runtime, machine, traced=seed % 2 == 1)
            run.execute()
            run.compare()
