"""Profiles: what is recorded, what is found in it, and what a file of it looks like."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import pytest

from specinfer.runtime.context import Runtime
from specinfer.runtime.dependence import Requirement
from specinfer.runtime.errors import ConfigError
from specinfer.runtime.executor.serial import SerialExecutor
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.privilege import RW, WD, R, Reduce
from specinfer.runtime.profile.clock import MPILink, clock_offset, gather, merge
from specinfer.runtime.profile.dependences import find_dependences
from specinfer.runtime.profile.executor import ProfilingExecutor
from specinfer.runtime.profile.intervals import length, minus, union
from specinfer.runtime.profile.profiler import Profiler
from specinfer.runtime.profile.record import (
    TRACE_HITS,
    TRACE_MISSES,
    Instant,
    Profile,
    RequestSpan,
    Sample,
    Span,
)
from specinfer.runtime.profile.summary import NameSummary, critical_path, summarize
from specinfer.runtime.profile.timeline import from_chrome, read_profile, to_chrome, write_profile
from specinfer.runtime.region import Region
from specinfer.runtime.task import task

TIMEOUT_SECONDS = 20.0  # only a bug makes a test wait so long

# Two ranks. Rank 0 computes, sends and computes on; rank 1 receives and computes. In ns:
#
#     0: host           0-10 issue              40-50 wait
#     0: worker 0      10-30 load ─► 30-40 gap  40-70 matmul
#     0: communication    └───────► 30-45 send
#     1: communication                   50-60 receive (posted at 20)
#     1: worker 0                              60-90 matmul
SPANS = (
    Span(0, "host", "issue", 0, 10, "host"),
    Span(0, "host", "wait", 40, 50, "wait"),
    Span(0, "worker 0", "load", 10, 30, id=0, args={"launch": "load(x=WD x)"}),
    Span(0, "worker 0", "matmul", 40, 70, id=2, waits_for=((0, 0),)),
    Span(0, "communication", "send", 30, 45, "communication", 1, ((0, 0),), {"bytes": 64}),
    Span(1, "communication", "receive", 20, 60, "communication", 1, ((0, 1),)),
    Span(1, "worker 0", "matmul", 60, 90, id=2, waits_for=((1, 1),)),
)
PROFILE = Profile(
    SPANS,
    (Instant(0, "trace miss", 5, "another shape"),),
    (Sample(0, TRACE_HITS, 7, 3), Sample(1, TRACE_MISSES, 8, 1), Sample(0, "bytes", 9, 2.5)),
    (
        RequestSpan(0, "4", "first token", 0, 60),
        RequestSpan(0, "4", "decode", 60, 80),
        RequestSpan(0, "4", "request", 0, 80, {"prompt_tokens": 3}),
    ),
    num_dropped=2,
)


@task(x=RW)
def increment(x: Any) -> None:
    x += 1


@task(x=R, y=WD)
def copy(x: Any, y: Any) -> None:
    y[...] = x


@task(x=RW)
def meet(x: Any, together: threading.Barrier) -> None:
    together.wait(TIMEOUT_SECONDS)
    x += 1


@task(x=RW)
def fail(x: Any) -> None:
    raise ArithmeticError("no such number")


def zeros(runtime: Runtime, name: str) -> Region:
    return runtime.region(name, (4,), {"value": "int64"}, {"value": np.zeros(4, np.int64)})


def tasks(profile: Profile) -> list[Span]:
    """Spans of tasks; reading a region may be an operation too."""
    return [span for span in profile.spans if span.kind == "task" and span.name != "read"]


class TestProfiler:
    def test_keeps_what_it_is_told(self) -> None:
        profiler = Profiler(rank=2)
        profiler.span("worker 0", "f", 5, 9, 7, (1, (0, 3)), shape=(2, 3), of=IndexSpace)
        (span,) = profiler.profile().spans
        args = {"shape": [2, 3], "of": str(IndexSpace)}
        assert span == Span(2, "worker 0", "f", 5, 9, "task", 7, ((0, 3), (2, 1)), args)

    def test_instants_and_counters_have_the_time_of_the_call(self) -> None:
        profiler = Profiler()
        before = perf_counter_ns()
        profiler.instant("trace miss", "another shape")
        profiler.count("bytes", 3)
        profile = profiler.profile()
        assert before <= profile.instants[0].time <= profile.samples[0].time <= perf_counter_ns()
        assert profile.instants[0].reason == "another shape"
        assert profile.samples[0].value == 3

    def test_counts_what_comes_when_it_is_full(self) -> None:
        profiler = Profiler(capacity=2)
        for name in "abc":
            profiler.span("worker 0", name, 0, 1)
        profiler.count("bytes", 1)
        profile = profiler.profile()
        assert [span.name for span in profile.spans] == ["a", "b"]
        assert (profile.samples, profile.num_dropped) == ((), 2)

    def test_loses_nothing_of_many_threads(self) -> None:
        profiler = Profiler()

        def work(row: str) -> None:
            for number in range(2000):
                profiler.span(row, "f", number, number + 1)

        threads = [threading.Thread(target=work, args=(f"worker {n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        spans = profiler.profile().spans
        for row in range(4):
            times = [span.start for span in spans if span.row == f"worker {row}"]
            assert times == list(range(2000))

    def test_phases_of_a_request_nest(self) -> None:
        profiler = Profiler()
        profiler.begin_request(4, "request", prompt_tokens=3)
        profiler.begin_request(4, "first token")
        profiler.begin_request(5, "request")
        profiler.end_request(4, "first token")
        profiler.end_request(4, "request", tokens=2)
        inner, outer, other = profiler.profile().requests
        assert (inner.request, inner.name, outer.name) == ("4", "first token", "request")
        assert outer.args == {"prompt_tokens": 3, "tokens": 2}
        assert outer.start <= inner.start <= inner.stop <= outer.stop
        assert (other.request, other.args) == ("5", {"unfinished": True})

    def test_a_phase_that_ends_takes_those_inside_of_it_along(self) -> None:
        profiler = Profiler()
        profiler.begin_request(4, "request")
        profiler.begin_request(4, "decode")
        profiler.end_request(4, "request", tokens=2)
        phases = profiler.profile().requests
        assert [(p.name, p.args) for p in phases] == [("decode", {}), ("request", {"tokens": 2})]


class TestExecutor:
    @pytest.fixture
    def profiler(self) -> Profiler:
        return Profiler()

    def test_tasks_that_the_host_runs_are_in_a_row_of_their_own(self, profiler: Profiler) -> None:
        with Runtime(ProfilingExecutor(SerialExecutor(), profiler)) as runtime:
            x, y = zeros(runtime, "x"), zeros(runtime, "y")
            runtime.launch(increment, x=x.part())
            runtime.launch(copy, x=x.part(), y=y.part())
            assert runtime.read(y.part()).tolist() == [1, 1, 1, 1]
        profile = profiler.profile()
        first, second = tasks(profile)
        assert [(s.row, s.name) for s in (first, second)] == [
            ("main", "increment"),
            ("main", "copy"),
        ]
        assert first.args["launch"] == "increment(x=RW x)"
        assert first.stop <= second.start
        assert second.waits_for == ((0, first.id),)  # though nobody had to wait
        hosts = union((s.start, s.stop) for s in profile.spans if s.row == "host")
        mains = union((s.start, s.stop) for s in profile.spans if s.row == "main")
        assert minus(hosts, mains) == hosts

    def test_each_worker_has_a_row(self, profiler: Profiler) -> None:
        together = threading.Barrier(2)
        with Runtime(ProfilingExecutor(ThreadedExecutor(2), profiler)) as runtime:
            x = zeros(runtime, "x")
            runtime.launch(meet, x=x.rows(0, 2), together=together)
            runtime.launch(meet, x=x.rows(2, 4), together=together)
            runtime.launch(increment, x=x.part())
            assert runtime.read(x.part()).tolist() == [2, 2, 2, 2]
        profile = profiler.profile()
        a, b, c = sorted(tasks(profile), key=lambda span: span.id or 0)
        assert {a.row, b.row} == {"worker 0", "worker 1"}
        assert max(a.start, b.start) < min(a.stop, b.stop)  # they met
        assert max(a.stop, b.stop) <= c.start
        assert c.waits_for == ((0, a.id), (0, b.id))
        issues = union((s.start, s.stop) for s in profile.spans if s.kind == "host")
        waits = [span for span in profile.spans if span.kind == "wait"]
        assert length(minus(issues, [(s.start, s.stop) for s in waits])) == length(issues)
        assert len(waits) == 2  # the read, and the end of the program
        assert (waits[0].row, waits[0].stop >= c.stop) == ("host", True)

    def test_an_operation_is_told_even_if_it_raises(self, profiler: Profiler) -> None:
        runtime = Runtime(ProfilingExecutor(SerialExecutor(), profiler))
        x = zeros(runtime, "x")
        with pytest.raises(ArithmeticError) as raised:
            runtime.launch(fail, x=x.part())
        assert raised.value.__notes__ == ["raised by fail(x=RW x)"]
        assert [span.name for span in tasks(profiler.profile())] == ["fail"]

    def test_communication_tells_its_bytes_and_whom_it_waits_for(self, profiler: Profiler) -> None:
        class Receive:
            is_communication = True
            num_bytes = 64
            remote_waits_for = ((1, 8),)
            requirements = (Requirement((0, "x"), IndexSpace((0,), (4,)), WD),)

            def run(self) -> str:
                return "ran"

            def __str__(self) -> str:
                return "receive(x, from=1)"

        seen: list[Any] = []

        class Inner(SerialExecutor):
            def submit(self, id: Any, operation: Any, waits_for: Any) -> Any:
                seen.extend((str(operation), operation.requirements, operation.num_bytes))
                seen.append(operation.bound()())
                return (id,)

        operation: Any = Receive()
        executor = ProfilingExecutor(Inner(), profiler)
        assert executor.submit(3, operation, {2}) == (3,)
        described = "receive(x, from=1)"
        assert seen == [described, Receive.requirements, 64, "ran"]
        (span,) = profiler.profile().spans
        assert (span.row, span.kind, span.name) == ("communication", "communication", "receive")
        assert span.waits_for == ((0, 2), (1, 8))
        assert span.args == {"bytes": 64, "launch": described}

    def test_a_replay_tells_of_each_operation(self, profiler: Profiler) -> None:
        class Write:
            requirements = (Requirement((0, "x"), IndexSpace((0,), (4,)), WD),)
            is_communication = False

            def run(self) -> int:
                return 7

            def __str__(self) -> str:
                return "write(x=WD x)"

        returned: list[int] = []

        class Inner(SerialExecutor):
            def replay(self, base: int, calls: Any, operations: Any) -> None:
                assert (base, list(map(str, operations))) == (5, ["write(x=WD x)"] * 2)
                returned.extend(call() for call in calls)

        first, second = Write(), Write()
        calls = (lambda: 8, lambda: 8)  # the same, it is said
        executor: Any = ProfilingExecutor(Inner(), profiler)
        executor.replay(5, calls, (first, second))
        assert returned == [7, 7]
        spans = profiler.profile().spans
        assert [(span.row, span.name) for span in spans] == [("main", "write")] * 2
        assert [(span.id, span.waits_for) for span in spans] == [(5, ()), (6, ((0, 5),))]

    def test_hands_on_what_it_does_not_know(self, profiler: Profiler) -> None:
        class Inner(SerialExecutor):
            num_streams = 3

        assert ProfilingExecutor(Inner(), profiler).num_streams == 3


def test_dependences_are_those_of_the_program() -> None:
    """Against every pair: each conflict must follow from what is found, which must be conflicts."""
    random = np.random.default_rng(5)
    privileges = (R, RW, WD, Reduce("+"), Reduce("max"))
    for _ in range(50):
        operations = []
        for id in range(12):
            needs = []
            for _ in range(random.integers(1, 3)):
                low, high = sorted(random.integers(0, 6, 2).tolist())
                space = IndexSpace((low,), (high + 1,))
                key = (0, "xy"[random.integers(2)])
                needs.append(Requirement(key, space, privileges[random.integers(5)]))
            operations.append((id, needs))
        found = find_dependences(operations)
        reached: dict[int, set[int]] = {}
        for id, needs in operations:
            conflicts = {
                earlier
                for earlier, others in operations[:id]
                if any(one.conflicts_with(other) for one in needs for other in others)
            }
            assert found[id] <= conflicts
            reached[id] = found[id].union(*(reached[earlier] for earlier in found[id]))
            assert conflicts <= reached[id]


def test_intervals_are_sets_of_moments() -> None:
    random = np.random.default_rng(6)
    for _ in range(200):
        some, others = (
            [tuple(sorted(pair)) for pair in random.integers(0, 20, (4, 2)).tolist()]
            for _ in range(2)
        )
        moments, other_moments = (
            {m for a, b in each for m in range(a, b)} for each in (some, others)
        )
        rest = minus(union(some), union(others))
        assert [m for a, b in rest for m in range(a, b)] == sorted(moments - other_moments)
        assert length(union(some)) == len(moments)


class TestSummary:
    def test_utilisation_leaves_out_waiting(self) -> None:
        rows = {(row.rank, row.row): row for row in summarize(PROFILE).rows}
        assert list(rows)[:3] == [(0, "host"), (0, "worker 0"), (0, "communication")]
        assert rows[0, "worker 0"].busy_ns == 50
        assert rows[0, "worker 0"].utilisation == pytest.approx(50 / 70)
        assert rows[0, "host"].busy_ns == 10
        assert rows[1, "communication"].utilisation == pytest.approx(40 / 70)

    def test_time_of_a_rank_is_tasks_exposed_communication_and_host(self) -> None:
        zero, one = summarize(PROFILE).ranks
        assert (zero.total_ns, zero.task_ns, zero.communication_ns) == (70, 50, 15)
        assert (zero.exposed_communication_ns, zero.exposed_host_ns) == (10, 10)
        assert (one.exposed_communication_ns, one.exposed_host_ns) == (40, 0)

    def test_the_critical_path_crosses_ranks(self) -> None:
        """Load 20, send 15, receive 15 (60 - 45: what came before was waiting), matmul 30."""
        path = critical_path(SPANS)
        assert path.operations == ((0, 0), (0, 1), (1, 1), (1, 2))
        assert path.total_ns == 20 + 15 + 15 + 30
        assert path.names == (
            NameSummary("matmul", 1, 30, 30),
            NameSummary("load", 1, 20, 20),
            NameSummary("receive", 1, 15, 15),
            NameSummary("send", 1, 15, 15),
        )

    def test_the_critical_path_is_the_longest_and_not_that_of_most_operations(self) -> None:
        short = [Span(0, "a", "short", n, n + 1, id=n, waits_for=((0, n - 1),)) for n in range(5)]
        long = Span(0, "b", "long", 0, 9, id=7)
        assert critical_path([*short, long]).operations == ((0, 7),)
        assert critical_path(()).operations == ()

    def test_the_critical_path_goes_through_the_slower_of_two(self) -> None:
        slow, quick = Span(0, "a", "slow", 0, 9, id=0), Span(0, "b", "quick", 8, 10, id=1)
        both = Span(0, "a", "both", 10, 11, id=2, waits_for=((0, 0), (0, 1)))
        path = critical_path([slow, quick, both])
        assert (path.operations, path.total_ns) == (((0, 0), (0, 2)), 10)

    def test_tasks_come_by_total_time(self) -> None:
        first, second, *_ = summarize(PROFILE).tasks
        assert first == NameSummary("matmul", 2, 60, 30)
        assert first.mean_ns == 30
        assert second == NameSummary("receive", 1, 40, 40)
        assert "issue" not in {task.name for task in summarize(PROFILE).tasks}

    def test_counters_events_and_requests(self) -> None:
        summary = summarize(PROFILE)
        assert summary.trace_hit_rate == 0.75
        assert summary.num_dropped == 2
        assert (summary.instants[0].reason, summary.instants[0].count) == ("another shape", 1)
        assert [(p.name, p.total_ns) for p in summary.requests] == [
            ("request", 80),
            ("first token", 60),
            ("decode", 20),
        ]

    def test_a_request_that_several_ranks_serve_counts_once(self) -> None:
        spans = [RequestSpan(rank, "4", "request", 0, 80 - rank, {}) for rank in (1, 0)]
        other = RequestSpan(1, "5", "request", 0, 20, {})
        (phase,) = summarize(Profile(requests=(*spans, other))).requests
        assert (phase.count, phase.total_ns) == (2, 100)

    def test_nothing_is_summed_up_as_nothing(self) -> None:
        summary = summarize(Profile())
        assert (summary.total_ns, summary.ranks, summary.tasks) == (0, (), ())
        assert summary.trace_hit_rate is None

    def test_workers_idle_shows_between_the_critical_path_and_the_whole(self) -> None:
        """Two chains of two tasks that one thread ran: half the time would do."""
        profiler = Profiler()
        with Runtime(ProfilingExecutor(SerialExecutor(), profiler)) as runtime:
            x = zeros(runtime, "x")
            for _ in range(2):
                runtime.launch(increment, x=x.rows(0, 2))
                runtime.launch(increment, x=x.rows(2, 4))
        path = summarize(profiler.profile()).critical_path
        assert path.operations in (((0, 0), (0, 2)), ((0, 1), (0, 3)))


class TestFile:
    def test_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        write_profile(PROFILE, tmp_path / "run.json")
        read = read_profile(tmp_path / "run.json")
        assert set(map(repr, read.spans)) == set(map(repr, PROFILE.spans))
        assert set(map(repr, read.requests)) == set(map(repr, PROFILE.requests))
        assert read.samples == PROFILE.samples
        assert read.instants == PROFILE.instants
        assert read.num_dropped == PROFILE.num_dropped
        assert [path.name for path in tmp_path.iterdir()] == ["run.json"]

    def test_times_are_in_us_from_the_first_event(self) -> None:
        late = merge([PROFILE], {0: -5_000, 1: -5_000})
        events = to_chrome(late)["traceEvents"]
        assert events == to_chrome(PROFILE)["traceEvents"]
        (send,) = [e for e in events if e["ph"] == "X" and e["name"] == "send"]
        assert (send["ts"], send["dur"], send["cat"]) == (0.03, 0.015, "communication")
        assert send["args"] == {"bytes": 64, "id": 1, "waits_for": [0]}

    def test_a_rank_is_a_process_and_a_row_a_thread(self) -> None:
        events = to_chrome(PROFILE)["traceEvents"]
        names = {
            (e["name"], e["pid"], e["tid"]): next(iter(e["args"].values()))
            for e in events
            if e["ph"] == "M"
        }
        assert names["process_name", 1, 0] == "rank 1"
        assert [names["thread_name", 0, tid] for tid in range(3)] == [
            "host",
            "worker 0",
            "communication",
        ]
        assert names["thread_sort_index", 0, 2] == 2

    def test_arrows_join_the_rows_that_depend_on_each_other(self) -> None:
        events = to_chrome(PROFILE)["traceEvents"]
        starts = {e["id"]: (e["pid"], e["tid"], e["ts"]) for e in events if e["ph"] == "s"}
        ends = {e["id"]: (e["pid"], e["tid"], e["ts"]) for e in events if e["ph"] == "f"}
        assert [(starts[arrow], ends[arrow]) for arrow in sorted(starts)] == [
            ((0, 1, 0.029), (0, 2, 0.03)),  # load to send; to matmul is one row
            ((0, 2, 0.044), (1, 1, 0.02)),  # send to receive
            ((1, 1, 0.059), (1, 0, 0.06)),  # receive to matmul
        ]

    def test_spans_of_a_thread_nest_though_those_of_a_row_may_not(self, tmp_path: Path) -> None:
        crossing = Profile(
            (
                Span(0, "communication", "a", 0, 10),
                Span(0, "communication", "b", 5, 15),
                Span(0, "communication", "c", 6, 9),
                Span(0, "communication", "d", 10, 12),
            )
        )
        events = to_chrome(crossing)["traceEvents"]
        threads = {e["name"]: e["tid"] for e in events if e["ph"] == "X"}
        assert threads == {"a": 0, "b": 1, "c": 0, "d": 0}
        write_profile(crossing, tmp_path / "run.json")
        assert read_profile(tmp_path / "run.json").spans == crossing.spans

    def test_phases_of_requests_begin_and_end_in_turn(self) -> None:
        events = to_chrome(PROFILE)["traceEvents"]
        turns = [(e["ph"], e["name"], e["ts"]) for e in events if e["ph"] in "be"]
        assert turns == [
            ("b", "request", 0.0),
            ("b", "first token", 0.0),
            ("e", "first token", 0.06),
            ("b", "decode", 0.06),
            ("e", "decode", 0.08),
            ("e", "request", 0.08),
        ]

    def test_a_file_that_cannot_be_written_leaves_the_old_one(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"run\.json: cannot write the profile: "):
            write_profile(PROFILE, tmp_path / "nowhere" / "run.json")
        path = tmp_path / "run.json"
        path.mkdir()  # cannot be replaced
        with pytest.raises(ConfigError, match="cannot write the profile"):
            write_profile(PROFILE, path)
        assert [each.name for each in tmp_path.iterdir()] == ["run.json"]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("{", "expected a profile of specinfer, found no JSON"),
            ("[]", "expected a profile of specinfer, found another kind of JSON"),
            ('{"traceEvents": []}', "found another kind of JSON"),
            ('{"otherData": {"format": "specinfer profile", "version": 9}}', "found version 9"),
        ],
    )
    def test_refuses_what_is_no_profile(self, text: str, said: str, tmp_path: Path) -> None:
        path = tmp_path / "run.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as raised:
            read_profile(path)
        assert str(raised.value).startswith(f"{path}: ")
        assert said in str(raised.value)

    def test_refuses_what_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="No such file"):
            read_profile(tmp_path / "run.json")

    @pytest.mark.parametrize(
        "event",
        [
            7,
            {},
            {"ph": "?"},
            {"ph": "X", "name": "f", "pid": 0, "tid": 9, "ts": 0, "dur": 1, "cat": "task"},
            {"ph": "e", "name": "f", "pid": 0, "ts": 0, "id2": {"local": "1"}},
            {"ph": "C", "name": "f", "pid": 0, "ts": 0, "args": {"value": "many"}},
            {"ph": "i", "name": "f", "pid": 0, "ts": "soon", "args": {"reason": ""}},
        ],
        ids=str,
    )
    def test_refuses_an_event_that_is_none(self, event: Any) -> None:
        data = to_chrome(PROFILE)
        data["traceEvents"].append(event)
        number = len(data["traceEvents"]) - 1
        with pytest.raises(ConfigError, match=rf"^run\.traceEvents\[{number}\]: found "):
            from_chrome(data, "run")

    def test_refuses_events_that_are_no_list(self) -> None:
        data: Any = to_chrome(PROFILE) | {"traceEvents": {}}
        with pytest.raises(ConfigError, match="expected a list, found dict"):
            from_chrome(data)


class Mail:
    """Links of ranks that are threads."""

    def __init__(self, num_ranks: int) -> None:
        ranks = range(num_ranks)
        self._boxes: dict[tuple[int, int], queue.Queue[Any]] = {
            (a, b): queue.Queue() for a in ranks for b in ranks
        }

    def link(self, rank: int) -> Any:
        boxes = self._boxes

        class Link:
            def send(self, obj: Any, to: int) -> None:
                boxes[rank, to].put(json.dumps(obj) if isinstance(obj, int) else obj)

            def receive(self, sender: int) -> Any:
                obj = boxes[sender, rank].get(timeout=TIMEOUT_SECONDS)
                return json.loads(obj) if isinstance(obj, str) else obj

        return Link()


class TestClock:
    def test_the_shortest_round_trip_decides(self) -> None:
        """The other clock is 1000 ahead; replies took 10 and 10, 2 and 4, 70 and 10."""
        samples = [(0, 1010, 20), (100, 1102, 106), (200, 1270, 280)]
        offset = clock_offset(samples)
        assert (offset.ahead, offset.error) == (999, 3)
        assert abs(offset.ahead - 1000) <= offset.error

    def test_merging_puts_all_on_one_clock(self) -> None:
        other = Profile(
            (Span(2, "main", "f", 1_010, 1_020),),
            (Instant(2, "i", 1_030, ""),),
            (Sample(2, "c", 1_040, 2),),
            (RequestSpan(2, "4", "request", 1_000, 1_060),),
            num_dropped=1,
        )
        merged = merge([PROFILE, other], {2: 1_000})
        assert merged.spans[:-1] == PROFILE.spans
        assert (merged.spans[-1].start, merged.spans[-1].stop) == (10, 20)
        assert (merged.instants[-1].time, merged.samples[-1].time) == (30, 40)
        assert (merged.requests[-1].start, merged.requests[-1].stop) == (0, 60)
        assert merged.num_dropped == 3
        assert merged.ranks == [0, 1, 2]

    def test_ranks_bring_their_profiles_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ahead = {0: 0, 1: 10**12, 2: -(10**11)}
        rank_of: dict[int, int] = {}
        monkeypatch.setattr(
            "specinfer.runtime.profile.clock.perf_counter_ns",
            lambda: perf_counter_ns() + ahead[rank_of[threading.get_ident()]],
        )
        mail, gathered = Mail(3), {}
        now = perf_counter_ns()

        def work(rank: int) -> None:
            rank_of[threading.get_ident()] = rank
            time = now + ahead[rank]
            profile = Profile((Span(rank, "main", "f", time, time + 5),))
            gathered[rank] = gather(profile, mail.link(rank), rank, 3)

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_SECONDS)
        assert (gathered[1], gathered[2]) == (None, None)
        assert gathered[0] is not None
        starts = [span.start for span in gathered[0].spans]
        assert len(starts) == 3
        assert all(abs(start - now) < 10**9 for start in starts)  # a second, of some minutes

    def test_an_mpi_communicator_is_a_link(self) -> None:
        calls: list[Any] = []

        class Comm:
            def send(self, obj: Any, *, dest: int, tag: int) -> None:
                calls.append((obj, dest, tag))

            def recv(self, *, source: int, tag: int) -> Any:
                return source, tag

        link = MPILink(Comm(), tag=9)
        link.send("x", 2)
        assert calls == [("x", 2, 9)]
        assert link.receive(1) == (1, 9)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
