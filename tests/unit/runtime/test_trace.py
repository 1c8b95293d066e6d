"""Traces: a body is recorded, verified, and from then on replayed without being called."""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import copy as copy_of
from copy import deepcopy
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from unit.runtime.setups import MAKERS, Listing, everywhere, later, on_ranks

from specinfer.runtime.binding import Binding
from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import LaunchError, PoisonedError, TraceError
from specinfer.runtime.executor.shuffled import ShuffledExecutor
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.future import Future, Parameter
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.mapper import Mapper, On, Shardings, Where
from specinfer.runtime.mesh import line as ranks_in_line
from specinfer.runtime.partition import ID, equal, restricted
from specinfer.runtime.privilege import RW, WD, R, Reduce
from specinfer.runtime.region import Region
from specinfer.runtime.task import task
from specinfer.runtime.trace import Trace

Ints = NDArray[np.int64]


@task(x=RW)
def add(x: Ints, by: int) -> None:
    x += by


@task(x=R, y=WD)
def copy(x: Ints, y: Ints) -> None:
    y[...] = x


@task(x=R)
def total(x: Ints) -> int:
    return int(x.sum())


@task(x=R, total=Reduce("+"))
def add_up(x: Ints, total: Ints) -> None:
    total += x.sum()


@task(x=RW)
def fail_at_nine(x: Ints, by: int) -> None:
    if by == 9:
        raise ArithmeticError("no such number")
    x += by


@task(x=RW, capturable=False)
def look_at_the_clock(x: Ints) -> None:
    x += 1


def vector(runtime: Runtime, name: str = "x", size: int = 4) -> Region:
    return runtime.region(name, (size,), {"value": "int64"})


def counts(trace: Trace) -> tuple[int, int, int]:
    return trace.stats.recorded, trace.stats.verified, trace.stats.replayed


def reasons(trace: Trace) -> list[str]:
    return list(trace.stats.missed)


# Life


@everywhere
def test_the_first_run_is_recorded_the_second_verified_the_others_replayed(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = vector(runtime)
        runtime.launch(add, x=x, by=0)  # from now on the data lie where the trace leaves them
        trace = runtime.trace("step", lambda: runtime.launch(add, x=x, by=1), strict=True)
        seen = []
        for _ in range(5):
            trace()
            seen.append(counts(trace))
        assert seen == [(1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 1, 2), (1, 1, 3)]
        assert runtime.read(x).tolist() == [5, 5, 5, 5]


def test_a_replay_does_not_call_the_body() -> None:
    runtime, calls = Runtime(), []
    trace = runtime.trace("step", lambda: calls.append(1))
    for _ in range(5):
        trace()
    assert len(calls) == 2


@everywhere
def test_replays_keep_dependences_within_and_between_them(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x, y, z = (vector(runtime, name) for name in "xyz")

        def body() -> None:
            runtime.launch(add, x=x, by=1)
            runtime.launch(copy, x=x, y=y)
            runtime.launch(copy, x=y, y=z)
            runtime.launch(copy, x=z.rows(0, 2), y=x.rows(2, 4))

        trace = runtime.trace("step", body)
        for _ in range(10):
            trace()
        assert trace.stats.replayed > 0
        assert runtime.read(x).tolist() == [10, 10, 10, 10]
        assert runtime.read(z).tolist() == [10, 10, 10, 10]


@everywhere
def test_what_follows_a_replay_waits_for_it(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x, y = vector(runtime, "x"), vector(runtime, "y")
        trace = runtime.trace("step", lambda: runtime.launch(add, x=x, by=1))
        for expected in range(1, 8):
            trace()
            runtime.launch(copy, x=x, y=y)
            assert runtime.read(y).tolist() == [expected] * 4


@everywhere
def test_a_replay_waits_for_what_it_follows(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x, y = vector(runtime, "x"), vector(runtime, "y")
        trace = runtime.trace("step", lambda: runtime.launch(copy, x=x, y=y))
        for expected in range(1, 8):
            runtime.launch(add, x=x, by=1)
            trace()
            assert runtime.read(y).tolist() == [expected] * 4


@everywhere
def test_two_traces_may_take_turns(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = vector(runtime)
        runtime.launch(add, x=x, by=0)
        plus = runtime.trace("plus", lambda: runtime.launch(add, x=x, by=2))
        minus = runtime.trace("minus", lambda: runtime.launch(add, x=x, by=-1))
        for _ in range(6):
            plus()
            minus()
        assert runtime.read(x).tolist() == [6, 6, 6, 6]
        assert counts(plus)[1:] == counts(minus)[1:] == (1, 4)


@everywhere
def test_index_launches_and_reductions_are_replayed(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x, sums = vector(runtime), vector(runtime, "sums", 1)

        def body() -> None:
            runtime.index_launch(add, 2, x=equal(x, 2), by=ID)
            runtime.index_launch(add_up, 2, x=equal(x, 2), total=sums)

        trace = runtime.trace("step", body)
        for _ in range(6):
            trace()
        assert trace.stats.replayed > 0
        assert runtime.read(sums).tolist() == [2 * (1 + 2 + 3 + 4 + 5 + 6)]


# Values


@everywhere
def test_parameters_may_differ_in_each_run(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = vector(runtime)
        trace = runtime.trace("step", lambda by: runtime.launch(add, x=x, by=by), strict=True)
        for by in (1, 10, 100, 1000, 10000):
            trace(by=by)
        assert runtime.read(x).tolist() == [11111] * 4


@everywhere
def test_results_are_renewed_by_each_replay(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = vector(runtime)

        def body() -> Future:
            runtime.launch(add, x=x, by=1)
            return runtime.launch(total, x=x)

        trace = runtime.trace("step", body)
        assert [trace().get() for _ in range(6)] == [4, 8, 12, 16, 20, 24]
        assert trace.stats.replayed > 0


@everywhere
def test_results_of_points_are_renewed_by_each_replay(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        halves = equal(vector(runtime), 2)

        def body() -> Any:
            runtime.index_launch(add, 2, x=halves, by=ID)
            return runtime.index_launch(total, 2, x=halves)

        trace = runtime.trace("step", body)
        for run in range(1, 7):
            assert trace().get() == {0: 0, 1: 2 * run}


@everywhere
def test_a_value_within_a_body_is_passed_on_in_each_replay(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = vector(runtime)
        runtime.launch(add, x=x, by=1)

        def body() -> None:
            runtime.launch(add, x=x.rows(0, 1), by=runtime.launch(total, x=x.rows(0, 1)))

        trace = runtime.trace("double", body)
        for _ in range(6):
            trace()
        assert runtime.read(x.rows(0, 1)).tolist() == [2**6]


@everywhere
def test_a_predicate_is_looked_at_in_each_replay(kind: str) -> None:
    @task(x=R)
    def is_below(x: Ints, limit: int) -> bool:
        return bool(x[0] < limit)

    with MAKERS[kind]() as runtime:
        x = vector(runtime)

        def body() -> None:
            runtime.launch(add, x=x, by=1, predicate=runtime.launch(is_below, x=x, limit=4))

        trace = runtime.trace("until four", body)
        for _ in range(8):
            trace()
        assert trace.stats.replayed > 0
        assert runtime.read(x).tolist() == [4, 4, 4, 4]


@everywhere
def test_what_is_given_otherwise_may_be_a_parameter(kind: str) -> None:
    @task(x=R)
    def never(x: Ints) -> bool:
        return False

    with MAKERS[kind]() as runtime:
        x = vector(runtime)

        def body(value: Any) -> Future:
            no = runtime.launch(never, x=x)
            return runtime.launch(total, x=x, predicate=no, otherwise=value)

        trace = runtime.trace("step", body)
        assert [trace(value=value).get() for value in range(5)] == [0, 1, 2, 3, 4]
        assert trace.stats.replayed > 0


# Buckets


def test_what_the_body_must_know_is_a_bucket_with_a_recording_of_its_own() -> None:
    runtime = Runtime()
    x = vector(runtime)

    def body(size: int) -> None:
        for row in range(size):
            runtime.launch(add, x=x.rows(row, row + 1), by=1)

    trace = runtime.trace("step", body, strict=True)
    for size in (1, 2, 1, 2, 1, 2, 4):
        trace(size)
    assert counts(trace) == (3, 2, 2)
    assert runtime.read(x).tolist() == [10 - 3, 4, 1, 1]


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (0, 0.0), (0.0, -0.0), ((2, (1,)), (2, (True,))), ("1", b"1")],
)
def test_buckets_that_are_equal_but_not_the_same_have_recordings_of_their_own(
    one: Any, other: Any
) -> None:
    runtime = Runtime()
    x = vector(runtime)
    told: list[Any] = []

    def body(bucket: Any) -> None:
        told.append(bucket)
        runtime.launch(add, x=x, by=1)

    trace = runtime.trace("step", body)
    for bucket in (one, other, one, other, one, other):
        trace(bucket)
    assert list(map(repr, told)) == list(map(repr, [one, other, one, other]))
    assert counts(trace) == (2, 2, 2)


def test_a_value_that_is_equal_but_not_the_same_is_a_divergence() -> None:
    runtime = Runtime()
    x = vector(runtime)
    values = iter([1, True])
    trace = runtime.trace("step", lambda: runtime.launch(add, x=x, by=next(values)))
    trace()
    trace()
    assert "was 1, then True" in reasons(trace)[0]


def test_the_order_of_parameters_does_not_matter() -> None:
    runtime = Runtime()
    x = vector(runtime)

    def body(one: Any, other: Any) -> None:
        runtime.launch(add, x=x, by=one)
        runtime.launch(add, x=x, by=other)

    trace = runtime.trace("step", body)
    trace(one=1, other=2)
    trace(other=20, one=10)
    trace(other=200, one=100)
    assert counts(trace) == (1, 1, 1)
    assert runtime.read(x).tolist() == [333] * 4


def test_a_bucket_that_cannot_be_hashed_is_refused() -> None:
    trace = Runtime().trace("step", lambda bucket: None)
    message = r"trace step: bucket \(\[1\],\): unhashable type: 'list', expected values that can"
    with pytest.raises(TraceError, match=message):
        trace(cast(Any, [1]))


def test_a_parameter_that_an_axis_counts_in_is_refused() -> None:
    @task(x=R, y=WD, pure=True, axes={"x": ("rows*size",), "y": ("rows*size",)})
    def blocks_of(x: Ints, y: Ints, size: int) -> None:
        y[:] = x

    runtime = Runtime()
    x, y = vector(runtime), vector(runtime, "y")
    trace = runtime.trace("step", lambda size: runtime.launch(blocks_of, x=x, y=y, size=size))
    with pytest.raises(LaunchError, match="argument size is <size>, expected a number"):
        trace(size=2)


def test_the_recordings_used_last_are_kept() -> None:
    runtime = Runtime()
    x = vector(runtime)
    trace = runtime.trace("step", lambda by: runtime.launch(add, x=x, by=by), keeps=2)
    for bucket in (1, 1, 2, 2, 1, 3, 3):  # 2 was used longest ago
        trace(bucket)
    before = trace.stats.replayed
    trace(1)
    trace(3)
    assert trace.stats.replayed == before + 2
    trace(2)
    assert trace.stats.replayed == before + 2


def test_runs_of_many_buckets_that_never_come_again_are_forgotten() -> None:
    runtime = Runtime()
    x = vector(runtime)
    trace = runtime.trace("step", lambda by: runtime.launch(add, x=x, by=by), keeps=4)
    for bucket in range(100):
        trace(bucket)
    for bucket in range(96, 100):
        trace(bucket)
    assert trace.stats.verified == 4
    trace(0)
    assert trace.stats.recorded == 101


@pytest.mark.parametrize("keeps", [0, -1])
def test_a_trace_keeps_at_least_one_recording(keeps: int) -> None:
    with pytest.raises(TraceError, match=f"trace step: keeps {keeps} recordings, expected 1 or"):
        Runtime().trace("step", lambda: None, keeps=keeps)


# Runs that are no replays


def test_another_launch_is_a_divergence_that_names_both() -> None:
    runtime = Runtime()
    x, y, turn = vector(runtime, "x"), vector(runtime, "y"), [0]

    def body() -> None:
        turn[0] += 1
        runtime.launch(add, x=x, by=0)
        runtime.launch(add, x=(x, y)[turn[0] % 2], by=0)

    trace = runtime.trace("step", body)
    trace()
    trace()
    assert reasons(trace) == ["diverged: launch 1 was add(x=RW y, by=0), then add(x=RW x, by=0)"]


def test_another_value_is_a_divergence_that_names_the_argument() -> None:
    runtime = Runtime()
    x, step = vector(runtime), iter(range(9))
    trace = runtime.trace("step", lambda: runtime.launch(add, x=x, by=next(step)))
    trace()
    trace()
    assert reasons(trace) == [
        "diverged: by of launch 0, add(x=RW x, by=1), was 0, then 1; what differs from run to run "
        "must be a parameter of the trace"
    ]


def test_more_launches_are_a_divergence() -> None:
    runtime = Runtime()
    x, times = vector(runtime), iter((1, 3))

    def body() -> None:
        for _ in range(next(times)):
            runtime.launch(add, x=x, by=1)

    trace = runtime.trace("step", body)
    trace()
    trace()
    assert reasons(trace) == ["diverged: 1 launches, then 3"]


def test_another_value_otherwise_is_a_divergence() -> None:
    runtime = Runtime()
    x, values = vector(runtime), iter(range(9))
    no = runtime.launch(total, x=x)

    def body() -> Future:
        return runtime.launch(total, x=x, predicate=no, otherwise=next(values))

    trace = runtime.trace("step", body)
    assert [trace().get(), trace().get()] == [0, 1]
    assert "otherwise of launch 0, total(x=R x), was 0, then 1" in reasons(trace)[0]


def test_a_future_from_before_the_trace_must_be_the_same() -> None:
    runtime = Runtime()
    x = vector(runtime)
    given = [runtime.launch(total, x=x)]
    trace = runtime.trace("step", lambda: runtime.launch(add, x=x, by=given[0]))
    trace()
    given[0] = runtime.launch(total, x=x)
    trace()
    assert "by of launch 0" in reasons(trace)[0]


def test_another_result_of_the_body_is_a_divergence() -> None:
    runtime = Runtime()
    x, turn = vector(runtime), iter((0, 1))

    def body() -> None:
        results = [runtime.launch(total, x=x), runtime.launch(total, x=x)]
        runtime.launch(add, x=x, by=results[next(turn)])

    trace = runtime.trace("step", body)
    trace()
    trace()
    assert "by of launch 2" in reasons(trace)[0]


@everywhere
def test_a_run_that_diverged_is_recorded_anew(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x, step = vector(runtime), iter((1, 2, 2, 2))
        trace = runtime.trace("step", lambda: runtime.launch(add, x=x, by=next(step)))
        for _ in range(5):
            trace()
        assert counts(trace) == (2, 1, 2)
        assert runtime.read(x).tolist() == [1 + 4 * 2] * 4


def test_a_task_that_is_not_capturable_is_never_replayed() -> None:
    runtime = Runtime()
    x = vector(runtime)
    trace = runtime.trace("step", lambda: runtime.launch(look_at_the_clock, x=x))
    for _ in range(4):
        trace()
    assert counts(trace) == (0, 0, 0)
    assert reasons(trace) == ["not capturable: task look_at_the_clock"]
    assert runtime.read(x).tolist() == [4, 4, 4, 4]


def test_a_mapper_may_forbid_replays() -> None:
    class Forbidding(Mapper):
        def replays(self, trace: str) -> bool:
            return trace != "step"

    runtime = Runtime(mapper=Forbidding(ranks_in_line(1)))
    x = vector(runtime)
    trace = runtime.trace("step", lambda: runtime.launch(add, x=x, by=1))
    for _ in range(3):
        trace()
    assert counts(trace) == (0, 0, 0)
    assert reasons(trace) == ["the mapper does not let it be replayed"]


@everywhere
def test_memory_attached_in_between_makes_a_trace_start_again(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = vector(runtime)
        trace = runtime.trace("step", lambda: runtime.launch(add, x=x, by=1))
        for _ in range(4):
            trace()
        replayed = trace.stats.replayed
        runtime.attach(x, "value", np.full(4, 100))
        trace()
        assert trace.stats.replayed == replayed
        for _ in range(3):
            trace()
        assert trace.stats.replayed > replayed
        assert runtime.read(x).tolist() == [104] * 4


def test_answers_of_a_mapper_that_change_make_a_trace_start_again() -> None:
    class Moving(Mapper):
        rank = 0

        def place(self, launch: Binding, shardings: Shardings) -> Where:
            return On(self.rank)

    mapper, executor = Moving(ranks_in_line(2)), Listing()
    runtime = on_ranks(2, executor, mapper)
    x = vector(runtime)
    trace = runtime.trace("step", lambda: runtime.launch(add, x=x, by=1))
    for _ in range(4):
        trace()
    recorded = trace.stats.recorded
    assert executor.moved() == []
    mapper.rank, mapper.epoch = 1, 1
    trace()
    assert trace.stats.recorded == recorded + 1
    assert executor.moved() == ["send of x.value"]  # from the first rank to the second
    assert runtime.read(x).tolist() == [5] * 4


class TestStrict:
    def test_a_divergence_raises(self) -> None:
        runtime = Runtime()
        x, step = vector(runtime), iter(range(9))
        trace = runtime.trace("step", lambda: runtime.launch(add, x=x, by=next(step)), strict=True)
        trace()
        with pytest.raises(TraceError, match=r"trace step is not replayed: diverged: by of launch"):
            trace()

    def test_a_task_that_is_not_capturable_raises(self) -> None:
        runtime = Runtime()
        x = vector(runtime)
        trace = runtime.trace("step", lambda: runtime.launch(look_at_the_clock, x=x), strict=True)
        with pytest.raises(TraceError, match="trace step is not replayed: not capturable: task lo"):
            trace()

    def test_data_that_lie_elsewhere_raise(self) -> None:
        runtime = on_ranks(2)
        x = vector(runtime)
        trace = runtime.trace("step", lambda: runtime.launch(total, x=x), strict=True)
        for _ in range(3):
            trace()
        runtime.index_launch(add, 2, x=equal(x, 2), by=1)
        with pytest.raises(TraceError, match=r"precondition: x\.value does not lie where it did"):
            trace()

    def test_runs_that_could_not_have_been_replays_do_not_raise(self) -> None:
        runtime = Runtime()
        trace = runtime.trace("step", lambda by: None, strict=True)
        for bucket in range(5):
            trace(bucket)
        assert counts(trace) == (5, 0, 0)


# Where data lie


class TestTwoRanks:
    def test_a_trace_whose_data_lie_elsewhere_is_recorded_from_there_too(self) -> None:
        runtime = on_ranks(2)
        x = vector(runtime)
        body = lambda: runtime.launch(total, x=x)  # noqa: E731
        trace = runtime.trace("step", body)
        for run in range(12):
            if run % 2:
                runtime.index_launch(add, 2, x=equal(x, 2), by=1)
            assert trace().get() == 4 * ((run + 1) // 2)
        assert trace.stats.replayed >= 6

    def test_a_stencil_settles_and_is_idempotent(self) -> None:
        runtime = on_ranks(2, ShuffledExecutor(3))
        x, y = vector(runtime, "x", 8), vector(runtime, "y", 8)
        runtime.launch(add, x=x.rows(0, 1), by=1)

        @task(x=R, y=WD)
        def spread(x: Ints, y: Ints) -> None:
            y[...] = x.sum()

        halos = restricted(x, 2, IndexSpace((0,), (4,)), 4, reach=1)

        def body() -> None:
            runtime.index_launch(spread, 2, x=halos, y=equal(y, 2))
            runtime.index_launch(copy, 2, x=equal(y, 2), y=equal(x, 2))

        trace = runtime.trace("stencil", body)
        expected = np.array([1, 0, 0, 0, 0, 0, 0, 0])
        for _ in range(8):
            trace()
            expected = np.repeat([expected[:5].sum(), expected[3:].sum()], 4)
        assert trace.stats.elided > 0
        assert "idempotent" in trace.explain()
        assert runtime.read(x).tolist() == expected.tolist()

    def test_a_trace_that_moves_its_data_away_is_not_idempotent(self) -> None:
        runtime = on_ranks(2)
        x = vector(runtime)

        def body() -> None:
            runtime.index_launch(add, 2, x=equal(x, 2), by=1)

        trace = runtime.trace("step", body)
        for _ in range(6):
            trace()
            runtime.read(x)  # brings them back
        assert trace.stats.replayed == 4
        assert "not idempotent" in trace.explain()
        assert runtime.read(x).tolist() == [6] * 4

    def test_what_follows_a_replay_knows_where_it_left_the_data(self) -> None:
        runtime = on_ranks(2)
        x = vector(runtime)
        trace = runtime.trace("step", lambda: runtime.index_launch(add, 2, x=equal(x, 2), by=1))
        for run in range(1, 7):
            trace()
            assert runtime.launch(total, x=x).get() == 4 * run


class TestBackToBack:
    @everywhere
    def test_replays_of_the_same_are_without_check_and_fence(self, kind: str) -> None:
        with MAKERS[kind]() as runtime:
            x = vector(runtime)
            trace = runtime.trace("step", lambda: runtime.launch(add, x=x, by=1))
            for _ in range(6):
                trace()
            assert trace.stats.elided == trace.stats.replayed - 1
            assert runtime.read(x).tolist() == [6] * 4

    def test_a_launch_in_between_ends_it(self) -> None:
        runtime = Runtime()
        x, y = vector(runtime, "x"), vector(runtime, "y")
        trace = runtime.trace("step", lambda: runtime.launch(add, x=x, by=1))
        for _ in range(6):
            trace()
            runtime.launch(add, x=y, by=1)
        assert (trace.stats.replayed, trace.stats.elided) == (4, 0)

    def test_another_bucket_in_between_ends_it(self) -> None:
        runtime = Runtime()
        x = vector(runtime)
        trace = runtime.trace("step", lambda row: runtime.launch(add, x=x.rows(row, 4), by=1))
        for bucket in (0, 0, 1, 1, 0, 1, 0, 0):
            trace(bucket)
        assert (trace.stats.replayed, trace.stats.elided) == (4, 1)


# What bodies must not do


@pytest.mark.parametrize(
    ("act", "what"),
    [
        (lambda runtime, x: runtime.read(x), "the body of a trace reads x"),
        (lambda runtime, x: runtime.fence(), "the body of a trace waits at a fence"),
        (lambda runtime, x: runtime.launch(total, x=x).get(), "the body of a trace reads a future"),
        (lambda runtime, x: runtime.detach(x, "value"), "the body of a trace reads x"),
        (lambda runtime, x: runtime.agree(1), "the body of a trace agrees on a value"),
        (
            lambda runtime, x: runtime.attach(x, "value", np.zeros(4)),
            "the body of a trace waits at a fence",
        ),
    ],
    ids=["read", "fence", "get", "detach", "agree", "attach"],
)
@pytest.mark.parametrize("kind", MAKERS)
def test_a_body_refuses_to_wait(
    kind: str, act: Callable[[Runtime, Region], Any], what: str
) -> None:
    with MAKERS[kind]() as runtime:
        x = vector(runtime)
        trace = runtime.trace("step", lambda: act(runtime, x))
        with pytest.raises(TraceError, match=f"{what}, which a replay could not do: return it"):
            trace()
        runtime.fence()


@pytest.mark.parametrize(
    "look",
    [
        bool,
        int,
        float,
        len,
        list,
        lambda value: value + 1,
        lambda value: 1 + value,
        lambda value: value - 1,
        lambda value: 1 - value,
        lambda value: 2 * value,
        lambda value: value / 2,
        lambda value: value // 2,
        lambda value: value % 2,
        lambda value: -value,
        lambda value: value == 3,
        lambda value: value != 3,
        lambda value: value > 3,
        lambda value: value[0],
        lambda value: range(value),
        lambda value: value in (3, 4),
        lambda value: 3 in value,
        lambda value: {3: 5}.get(value, 0),
        lambda value: {value},
        str,
        lambda value: f"{value}",
        lambda value: f"{value:3d}",
        lambda value: "text".join(value),
        print,
        lambda value: value & 1,
        lambda value: 1 | value,
        lambda value: value ^ 1,
        lambda value: ~value,
        lambda value: value << 1,
        lambda value: 1 >> value,
        lambda value: +value,
        lambda value: abs(value),
        lambda value: round(value),
        lambda value: divmod(value, 2),
        lambda value: value @ value,
        lambda value: complex(value),
        lambda value: value(),
        lambda value: value.shape,
        lambda value: np.asarray(value),
        lambda value: np.ones(2) * value,
        copy_of,
        deepcopy,
    ],
)
def test_a_body_refuses_to_look_at_a_parameter(look: Callable[[Any], Any]) -> None:
    trace = Runtime().trace("step", lambda by: look(by))
    with pytest.raises(
        TraceError, match=r"parameter by is read inside a trace, expected .* argument of a launch"
    ):
        trace(by=3)


def test_a_parameter_is_named_by_its_representation() -> None:
    by = Parameter("by")
    assert repr([by]) == "[<by>]"
    assert by in (by,)  # the same object is not compared


def test_a_trace_inside_a_trace_is_refused() -> None:
    runtime = Runtime()
    inner = runtime.trace("inner", lambda: None)
    outer = runtime.trace("outer", inner)
    with pytest.raises(TraceError, match="trace inner is run in the body of another trace"):
        outer()


def test_a_trace_inside_a_trace_is_refused_also_if_it_could_be_replayed() -> None:
    runtime = Runtime()
    x = vector(runtime)
    inner = runtime.trace("inner", lambda: runtime.launch(add, x=x, by=1))
    for _ in range(3):
        inner()
    outer = runtime.trace("outer", inner)
    with pytest.raises(TraceError, match="trace inner is run in the body of another trace"):
        outer()
    assert runtime.read(x).tolist() == [3] * 4


def test_a_body_that_raises_leaves_the_runtime_usable() -> None:
    runtime = Runtime()
    x = vector(runtime)

    def body() -> None:
        runtime.launch(add, x=x, by=1)
        raise KeyError("lost")

    trace = runtime.trace("step", body)
    with pytest.raises(KeyError):
        trace()
    assert runtime.read(x).tolist() == [1] * 4
    assert counts(trace) == (0, 0, 0)


# Failures


@later
def test_a_task_that_fails_in_a_replay_is_told_at_the_next_wait(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x, y = vector(runtime, "x"), vector(runtime, "y")

        def body(by: Any) -> None:
            runtime.launch(fail_at_nine, x=x, by=by)
            runtime.launch(add, x=y, by=by)

        trace = runtime.trace("step", body)
        for by in (1, 1, 1, 9):
            trace(by=by)
        with pytest.raises(PoisonedError, match=r"fail_at_nine\(x=RW x, .* no such number"):
            runtime.fence()
        assert runtime.read(y).tolist() == [12] * 4  # it does not depend on the failure
        with pytest.raises(PoisonedError, match="x was never made"):
            runtime.read(x)


@everywhere
def test_what_failed_in_a_replay_is_told_with_the_values_of_that_run(kind: str) -> None:
    with MAKERS[kind]() as runtime:
        x = vector(runtime)

        def body(by: Any) -> None:
            runtime.launch(fail_at_nine, x=x, by=by)

        trace = runtime.trace("step", body)
        for by in (1, 1, 1):
            trace(by=by)
        with pytest.raises((ArithmeticError, PoisonedError)) as raised:
            run_and_wait(runtime, trace, by=9)
        told = [str(raised.value), *getattr(raised.value, "__notes__", ())]
        assert any("fail_at_nine(x=RW x, by=9)" in line for line in told)
        with pytest.raises(PoisonedError, match=r"fail_at_nine\(x=RW x, by=9\)"):
            runtime.read(x)


def run_and_wait(runtime: Runtime, trace: Trace, **parameters: Any) -> None:
    trace(**parameters)
    runtime.fence()


def test_a_task_that_fails_in_a_replay_raises_there_if_launches_are_serial() -> None:
    runtime = Runtime()
    x, y = vector(runtime, "x"), vector(runtime, "y")

    def body(by: Any) -> None:
        runtime.launch(add, x=y, by=by)
        runtime.launch(fail_at_nine, x=x, by=by)
        runtime.launch(add, x=y, by=by)

    trace = runtime.trace("step", body)
    for _ in range(3):
        trace(by=1)
    with pytest.raises(ArithmeticError, match="no such number") as raised:
        trace(by=9)
    assert raised.value.__notes__ == ["raised by fail_at_nine(x=RW x, by=9)"]
    assert runtime.read(y).tolist() == [6 + 9] * 4  # what came behind it did not run
    with pytest.raises(PoisonedError, match="read of x reads what was never made: fail_at_nine"):
        runtime.read(x)


def test_a_result_that_a_failed_replay_did_not_come_to_is_not_that_of_before() -> None:
    runtime = Runtime()
    x, y = vector(runtime, "x"), vector(runtime, "y")

    def body(by: Any) -> Future:
        runtime.launch(fail_at_nine, x=x, by=by)
        return runtime.launch(total, x=y)

    trace = runtime.trace("step", body)
    for _ in range(3):
        result = trace(by=1)
    with pytest.raises(ArithmeticError):
        trace(by=9)
    with pytest.raises(PoisonedError, match="has no value: it has not run"):
        result.get()


@later
def test_a_result_of_a_failed_replay_is_refused_and_renewed_by_the_next(kind: str) -> None:
    @task(x=WD)
    def fill(x: Ints, by: int) -> int:
        if by == 9:
            raise ArithmeticError("no such number")
        x[...] = by
        return by

    with MAKERS[kind]() as runtime:
        x = vector(runtime)
        trace = runtime.trace("step", lambda by: runtime.launch(fill, x=x, by=by))
        assert [trace(by=by).get() for by in (1, 2, 3)] == [1, 2, 3]
        with pytest.raises(PoisonedError, match="no such number"):
            trace(by=9).get()
        assert trace(by=5).get() == 5
        assert runtime.read(x).tolist() == [5] * 4


# Telling


def test_explains_what_became_of_its_runs() -> None:
    runtime = Runtime()
    x, step = vector(runtime), iter((1, 2, 2, 2))

    def body(rows: int) -> None:
        runtime.launch(add, x=x.rows(0, rows), by=next(step))
        runtime.launch(add, x=x, by=0)

    trace = runtime.trace("step", body)
    for _ in range(6):
        trace(2)
    assert trace.explain().splitlines() == [
        "trace step: 2 recorded, 1 verified, 3 replayed (2 without a fence)",
        "  1 x diverged: by of launch 0, add(x=RW x[0:2], by=2), was 1, then 2; what differs from "
        "run to run must be a parameter of the trace",
        "  bucket (2,): 2 launches, 2 operations, idempotent",
    ]


def test_a_runtime_knows_its_traces() -> None:
    runtime = Runtime()
    traces = [runtime.trace(name, lambda: None) for name in ("one", "two")]
    assert runtime.traces == traces


def test_replays_of_traces_that_share_nothing_run_at_the_same_time() -> None:
    """To the analysis a replay is a launch: another one waits only for what both use."""
    meet = threading.Barrier(2, timeout=10)

    @task(x=RW)
    def wait_for_the_other(x: Any, meets: bool) -> None:
        if meets:
            meet.wait()
        x += 1

    with Runtime(ThreadedExecutor(2)) as runtime:
        one, other = vector(runtime, "one"), vector(runtime, "other")
        traces = [
            runtime.trace(
                x.name,
                lambda meets, x=x: runtime.launch(wait_for_the_other, x=x, meets=meets),
            )
            for x in (one, other)
        ]
        for meets in (False, False, True, True):
            for trace in traces:
                trace(meets=meets)
        assert [trace.stats.replayed for trace in traces] == [2, 2]
        assert runtime.read(one).tolist() == runtime.read(other).tolist() == [4, 4, 4, 4]
