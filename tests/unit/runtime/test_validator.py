"""The validator: silent on good logs, and it names what is wrong in others."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from meaning import meaning_of
from mpi_start import run_on_ranks
from numpy.typing import NDArray
from random_mapper import RandomMapper
from running import Run
from strategies import random_program

import specinfer.runtime.validator
from specinfer.runtime import lowering
from specinfer.runtime.context import Runtime
from specinfer.runtime.dependence import DependenceAnalyzer
from specinfer.runtime.errors import ConfigError, PoisonedError
from specinfer.runtime.executor import Executor
from specinfer.runtime.executor.serial import SerialExecutor
from specinfer.runtime.executor.shuffled import ShuffledExecutor
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.machine import Machine
from specinfer.runtime.machine.one import OneRank
from specinfer.runtime.machine.sim import SimulatedRanks
from specinfer.runtime.mapper import Divided, Everywhere, Mapper
from specinfer.runtime.mesh import line
from specinfer.runtime.oplog import LoggingExecutor, OperationLog
from specinfer.runtime.partition import Projection, equal, restricted
from specinfer.runtime.placement import Copy, Move
from specinfer.runtime.privilege import RW, WD, R, Reduce
from specinfer.runtime.task import task
from specinfer.runtime.temporaries import Temporary
from specinfer.runtime.validator import Finding, validate, validate_files
from specinfer.runtime.validator.findings import Severity

Records = list[dict[str, Any]]
Numbers = NDArray[np.int64]
NUM_PROGRAMS = 25


@task(x=R, y=WD, pure=True)
def smooth(x: Numbers, y: Numbers, low: int) -> None:
    padded = np.zeros(len(y) + 2, int)
    padded[1 - low : 1 - low + len(x)] = x
    y[:] = padded[:-2] + padded[1:-1] + padded[2:]


@task(x=R, total=Reduce("+"), pure=True)
def add_up(x: Numbers, total: Numbers) -> None:
    total += x.sum()


@task(
    x=R, w=R, y=WD, pure=True, axes={"x": ("in",), "w": ("out", "in"), "y": ("out",)}, sums=("in",)
)
def product(x: Numbers, w: Numbers, y: Numbers) -> None:
    y[:] = w @ x


@task(x=RW)
def count(x: Numbers) -> None:
    x += 1


LOW = Projection("low", lambda point: min(point, 1))


def stencil(runtime: Runtime) -> None:
    """A loop of halo exchanges, each followed by a reduction that is read."""
    regions = [
        runtime.region(name, (12,), {"v": "int64"}, {"v": np.arange(12)}) for name in ("a", "b")
    ]
    total = runtime.region("total", (1,), {"v": "int64"})
    for step in range(4):
        x, y = regions[step % 2], regions[1 - step % 2]
        halo = restricted(x, 4, IndexSpace((0,), (3,)), 3, reach=1)
        runtime.index_launch(smooth, 4, x=halo, y=equal(y, 4), low=LOW)
        runtime.index_launch(add_up, 4, x=equal(y, 4), total=total)
        if step % 2:
            runtime.read(total.part())


def layers(runtime: Runtime) -> None:
    """Products that are divided over what they sum."""
    x = runtime.region("x", (6,), {"v": "int64"}, {"v": np.arange(6)})
    w = runtime.region("w", (6, 6), {"v": "int64"}, {"v": np.arange(36).reshape(6, 6)})
    y = runtime.region("y", (6,), {"v": "int64"})
    for source, target in ((x, y), (y, x), (x, y)):
        runtime.launch(product, x=source, w=w, y=target)
    runtime.read(y.part())


def steps(runtime: Runtime) -> None:
    """Tasks that are not pure, one after another."""
    x = runtime.region("x", (4,), {"v": "int64"})
    for _ in range(3):
        runtime.launch(count, x=x)
    runtime.read(x.part())
    runtime.fence()


class Summing(Mapper):
    """Divides products over what they sum."""

    def place(self, launch: Any, shardings: Any) -> Any:
        return Divided({"ranks": ("in", None)})


class Replicating(Mapper):
    """Has every rank do everything."""

    def place(self, launch: Any, shardings: Any) -> Any:
        return Everywhere()


def records_of(
    program: Callable[[Runtime], Any],
    executor: Executor | None = None,
    machine: Machine | None = None,
    mapper: Mapper | None = None,
) -> Records:
    machine = machine or OneRank()
    log = OperationLog(machine.ranks)
    logging = LoggingExecutor(executor or ShuffledExecutor(1), log)
    with Runtime(logging, machine=machine, mapper=mapper, observer=log) as runtime:
        program(runtime)
    return log.records


def errors(logs: Sequence[Records], severity: Severity = "error") -> list[Finding]:
    return [finding for finding in validate(logs) if finding.severity == severity]


def without(records: Records, op: int) -> Records:
    """The records of a process that did not do an operation."""
    records = [r for r in records if op not in (r.get("op"), r.get("start"), r.get("stop"))]
    lists = ("finished", "waited", "waits_for")
    return [
        r
        | {key: [id for id in r[key] if id != op] for key in lists if isinstance(r.get(key), list)}
        for r in records
    ]


def changed(
    monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[list[Any]], list[Any]]
) -> None:
    """Change the transfers that placement asks for."""
    original = getattr(lowering, name)

    def planted(*arguments: Any) -> Any:
        transfers, state = original(*arguments)
        return change(transfers), state

    monkeypatch.setattr(lowering, name, planted)


# Good logs


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("kind", ["serial", "threads", "shuffled", "sim 2", "sim 3", "sim 4"])
def test_finds_nothing_in_random_programs(kind: str, traced: bool) -> None:
    for seed in range(NUM_PROGRAMS):
        program = random_program(seed)
        meaning = meaning_of(program)
        machine = SimulatedRanks(int(kind[4:])) if kind.startswith("sim") else OneRank()
        executors: dict[str, Executor] = {
            "serial": SerialExecutor(),
            "threads": ThreadedExecutor(2),
        }
        mapper = RandomMapper(machine.num_ranks, seed)

        def run(runtime: Runtime) -> None:
            told = Run(program, meaning, runtime, machine, traced=traced)  # noqa: B023
            told.execute()
            told.compare()

        records = records_of(run, executors.get(kind, ShuffledExecutor(seed)), machine, mapper)
        assert errors([records]) == [], f"seed {seed}"


@pytest.fixture(scope="module")
def mpi_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    run_on_ranks(2, "mpi_logs.py", folder, 12)
    return folder


def mpi_records(folder: Path, seed: int) -> list[Records]:
    files = sorted(folder.glob(f"{seed}.*.jsonl"))
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def test_finds_nothing_in_the_logs_of_two_processes(mpi_logs: Path) -> None:
    for seed in range(12):
        files = sorted(mpi_logs.glob(f"{seed}.*.jsonl"))
        assert len(files) == 2
        found = [finding for finding in validate_files(files) if finding.severity == "error"]
        assert found == [], f"seed {seed}"


def test_finds_nothing_where_a_task_failed() -> None:
    @task(x=RW)
    def fails(x: Numbers) -> None:
        raise ValueError("no")

    def program(runtime: Runtime) -> None:
        x = runtime.region("x", (4,), {"v": "int64"})
        y = runtime.region("y", (4,), {"v": "int64"})
        runtime.launch(fails, x=x)
        runtime.launch(smooth, x=x, y=y, low=0)
        runtime.index_launch(add_up, 2, x=equal(x, 2), total=y.rows(0, 1))
        with pytest.raises(PoisonedError):
            runtime.fence()
        runtime.launch(smooth, x=y, y=x, low=0)
        runtime.fence()

    assert errors([records_of(program, ThreadedExecutor(2))]) == []
    assert errors([records_of(program, machine=SimulatedRanks(2))]) == []


def test_the_rest_of_a_launch_that_fails_is_not_missed() -> None:
    @task(x=RW)
    def fails(x: Numbers, at: int) -> None:
        if at == 1:
            raise ValueError("no")

    def program(runtime: Runtime) -> None:
        x = runtime.region("x", (4,), {"v": "int64"})
        with pytest.raises(ValueError, match="no"):
            runtime.index_launch(fails, 4, x=equal(x, 4), at=Projection("at", lambda p: p))
        runtime.read(x.rows(3, 4))

    assert errors([records_of(program, SerialExecutor())]) == []


# Planted bugs


def test_finds_a_dropped_dependence(monkeypatch: pytest.MonkeyPatch) -> None:
    original = DependenceAnalyzer.launch

    def planted(self: Any, id: int, requirements: Any) -> set[int]:
        return set(sorted(original(self, id, requirements))[:-1])

    monkeypatch.setattr(DependenceAnalyzer, "launch", planted)
    found = errors([records_of(stencil, machine=SimulatedRanks(2))])
    races = [f for f in found if f.kind == "race"]
    assert any("launch 2 smooth" in f.text and "point" in f.text for f in races)
    assert any("does not wait for" in f.text and "on rank 1" in f.text for f in races)


def test_finds_a_dropped_dependence_of_a_future() -> None:
    @task(x=R)
    def first(x: Numbers) -> Any:
        return x[0]

    def program(runtime: Runtime) -> None:
        x = runtime.region("x", (4,), {"v": "int64"})
        runtime.launch(smooth, x=x, y=runtime.region("y", (4,), {"v": "int64"}), low=value(runtime))

    def value(runtime: Runtime) -> Any:
        return runtime.launch(first, x=runtime.region("z", (1,), {"v": "int64"}))

    records = records_of(program, ThreadedExecutor(1))
    assert errors([records]) == []
    for record in records:
        if "waits_for" in record:
            record["waits_for"] = []
    found = errors([[r for r in records if "finished" not in r]])
    assert any("the future of launch 0" in f.text for f in found if f.kind == "race")


@pytest.mark.parametrize("machine", [OneRank, lambda: SimulatedRanks(2)])
def test_finds_temporary_values_that_meet(
    machine: Callable[[], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share bytes, at other times; only the analysis of the bytes orders them."""

    def program(runtime: Runtime) -> None:
        values = [Temporary(name, (4,), "int64", n, n + 1) for n, name in enumerate("abcd")]
        regions = list(runtime.temporaries("arena", values).values())
        x = runtime.region("x", (4,), {"v": "int64"})
        for source, target in pairwise([x, *regions, x]):
            runtime.launch(smooth, x=source, y=target, low=0)
        for region in regions[:3:2]:  # c on the bytes of a; nobody reads either
            runtime.launch(smooth, x=x, y=region, low=0)
        runtime.fence()

    def told(seed: int) -> list[Finding]:
        return errors([records_of(program, ShuffledExecutor(seed), machine())])

    assert [told(seed) for seed in range(3)] == [[], [], []]
    original = DependenceAnalyzer.launch
    monkeypatch.setattr(
        DependenceAnalyzer,
        "launch",
        lambda self, id, requirements: original(
            self, id, [r for r in requirements if r.key[0] != "arena"]
        ),
    )
    found = [f for seed in range(3) for f in told(seed) if f.kind == "race"]
    assert any("a and c share bytes [0:32]" in f.text for f in found)


def test_transfers_of_temporary_values_wait_for_those_that_had_their_bytes() -> None:
    other = Projection("other", lambda point: 1 - point)

    def program(runtime: Runtime) -> None:
        values = [Temporary(name, (4,), "int64", n, n + 1) for name, n in (("a", 0), ("c", 2))]
        a, c = runtime.temporaries("arena", values).values()
        x, z, w = (runtime.region(name, (4,), {"v": "int64"}) for name in "xzw")
        for source, target in ((x, a), (a, z), (x, c), (c, w)):
            part = equal(source, 2)[other]
            runtime.index_launch(smooth, 2, x=part, y=equal(target, 2), low=0)
        runtime.fence()

    for seed in range(8):
        assert errors([records_of(program, ShuffledExecutor(seed), SimulatedRanks(2))]) == []


def test_finds_an_operation_that_does_not_wait() -> None:
    records = [r for r in records_of(steps) if "finished" not in r]
    next(r for r in records if r.get("op") == 1)["waits_for"] = [0]
    stop = next(r for r in records if r.get("stop") == 0)
    records.remove(stop)
    records.insert(next(i for i, r in enumerate(records) if r.get("start") == 1) + 1, stop)
    found = errors([records])
    assert found[0].kind == "order"
    assert found[0].text.startswith("launch 1 count(x=RW x) began before launch 0 count(x=RW x)")


def test_finds_operations_in_another_order_than_the_programs() -> None:
    records = records_of(steps, SerialExecutor())
    ends = [r for r in records if r.get("start") in (0, 1) or r.get("stop") in (0, 1)]
    for record in ends:
        for key in record.keys() & {"start", "stop"}:
            record[key] = 1 - record[key]
    records.sort(key=lambda r: 0 if r.get("op") == 1 or "work" in r or "binding" in r else 1)
    head = [r for r in records if "log" in r or "region" in r]
    records = head + [r for r in records if r not in head]
    assert {f.kind for f in errors([records])} >= {"order"}


def test_finds_a_dropped_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, "read", lambda t: [one for one in t if not isinstance(one, Copy)])
    found = errors([records_of(stencil, machine=SimulatedRanks(2))])
    assert found[0].kind == "data"
    assert found[0].text == (
        "launch 2 smooth(x=R b.parts[ID], y=WD a.parts[ID]) at point 1 on rank 0 reads b.v[6:7] of "
        "rank 0 as x: found the data that it began with, expected y of launch 0 "
        "smooth(x=R a.parts[ID], y=WD b.parts[ID]) at point 2"
    )


def test_finds_a_reduction_that_was_not_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, "read", lambda t: [one for one in t if isinstance(one, Copy)])
    found = errors([records_of(layers, machine=SimulatedRanks(2), mapper=Summing(line(2)))])
    assert found
    assert {f.kind for f in found} == {"data"}


def test_finds_a_doubled_contribution() -> None:
    records = records_of(stencil, machine=SimulatedRanks(2))
    resets = {r["work"] for r in records if r.get("kind") == "reset"}
    last = max(r["op"] for r in records if "op" in r and r["work"] in resets)
    found = errors([without(records, last)])  # a part of a reduction that does not start anew
    assert found[0].kind == "data"
    assert "has the contribution of launch 1 add_up" in found[0].text
    assert found[0].text.endswith(", 2 times")


def test_finds_stale_data_that_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(transfers: list[Any]) -> list[Any]:
        return [
            replace(
                t,
                moves=tuple(
                    Move(min({0, 1, 2} - {m.source, m.target}), m.target, m.space) for m in t.moves
                ),
            )
            if isinstance(t, Copy)
            else t
            for t in transfers
        ]

    changed(monkeypatch, "read", elsewhere)
    found = errors([records_of(stencil, machine=SimulatedRanks(3))])
    assert found[0].kind == "data"
    assert "sends stale b.v[" in found[0].text
    assert "for launch 2 smooth" in found[0].text


def test_finds_a_part_that_nobody_does() -> None:
    records = records_of(layers, machine=SimulatedRanks(2), mapper=Summing(line(2)))
    assert errors([records]) == []
    work = next(r["work"] for r in records if r.get("kind") == "task" and r.get("rank") == 1)
    gone = next(r["op"] for r in records if "op" in r and r["work"] == work)
    found = [f for f in errors([without(records, gone)]) if f.kind == "work"]
    assert found[0].text.startswith("no rank did launch 0 product")
    assert found[0].text.endswith("for x.v[3:6] of x")


def test_finds_a_task_that_ran_on_two_ranks_although_it_is_not_pure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lowering, "_check_pure", lambda binding: None)
    found = errors([records_of(steps, machine=SimulatedRanks(2), mapper=Replicating(line(2)))])
    assert {f.kind for f in found} == {"work"}
    assert found[0].text.endswith("ran on ranks [0, 1], but its task is not pure")


def test_warns_of_what_a_rank_already_has(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, "read", lambda t: [*t, *(one for one in t if isinstance(one, Copy))])
    records = records_of(stencil, machine=SimulatedRanks(2))
    assert errors([records]) == []
    assert {f.kind for f in errors([records], "warning")} == {"redundant"}


def test_notes_a_reduction_that_nobody_read() -> None:
    def program(runtime: Runtime) -> None:
        x = runtime.region("x", (4,), {"v": "int64"})
        total = runtime.region("total", (1,), {"v": "int64"})
        runtime.index_launch(add_up, 2, x=equal(x, 2), total=total)
        runtime.fence()

    records = records_of(program, machine=SimulatedRanks(2))
    assert errors([records]) == []
    (note,) = errors([records], "note")
    assert note.text.startswith("total.v[0:1] ends as parts on several ranks")


@pytest.mark.parametrize("what", ["stop", "start", "both"])
def test_finds_an_operation_that_never_ended(what: str) -> None:
    records = records_of(steps)
    last = max(r["op"] for r in records if "op" in r) - 1
    gone = ("start", "stop") if what != "stop" else ("stop",)
    records = [r for r in records if not any(r.get(key) == last for key in gone)]
    if what == "both":
        records = [r for r in records if not r.keys() & {"finished", "waited", "closed"}]
    found = [f for f in errors([records]) if f.kind == "leak"]
    ends = {
        "stop": "began and never ended",
        "start": "was said to have ended, but never ran, and nothing failed",
        "both": "was issued and never ran",
    }
    assert found[0].text == f"launch 2 count(x=RW x) {ends[what]}"


def test_warns_of_launches_that_nobody_waited_for() -> None:
    def program(runtime: Runtime) -> None:
        x = runtime.region("x", (4,), {"v": "int64"})
        for _ in range(8):
            runtime.launch(count, x=x)
        runtime.close()

    records = records_of(program, ShuffledExecutor(2))
    assert errors([records]) == []
    warning = errors([records], "warning")[-1].text
    assert warning == "launch 7 count(x=RW x) was dropped when the runtime was closed"


def communications(records: Records) -> list[dict[str, Any]]:
    """Operations that both ranks take part in."""
    works = {r["work"]: r for r in records if "text" in r and "work" in r}
    return [
        r
        for r in records
        if "op" in r and works[r["work"]]["kind"] not in ("task", "read", "reset", "fold", "value")
    ]


def test_finds_collectives_that_one_rank_swapped(mpi_logs: Path) -> None:
    num_swapped = 0
    for seed in range(12):
        logs = mpi_records(mpi_logs, seed)
        moves = communications(logs[1])
        pairs = [(a, b) for a, b in pairwise(moves) if a["work"] != b["work"]]
        # What a work is stands before its first use, which may move to the front.
        logs[1].sort(key=lambda r: 0 if "log" in r else 1 if "text" in r and "work" in r else 2)
        for one, other in pairs[:1]:
            one["work"], other["work"] = other["work"], one["work"]
            found = [f for f in errors(logs) if f.kind == "ranks"]
            assert found
            assert found[0].text.startswith("ranks do not meet: rank 0 is at")
            num_swapped += 1
    assert num_swapped >= 3


def test_finds_a_message_without_a_receiver(mpi_logs: Path) -> None:
    logs = next(
        logs for seed in range(12) if communications((logs := mpi_records(mpi_logs, seed))[1])
    )
    gone = communications(logs[1])[-1]["op"]
    logs[1] = without(logs[1], gone)
    assert any(f.kind == "ranks" for f in errors(logs))


def test_finds_processes_that_say_different_things(mpi_logs: Path) -> None:
    logs = mpi_records(mpi_logs, 0)
    said = [r for r in logs[1] if "said" in r]
    said[0]["said"] = "something else"
    assert "says something else" in errors(logs)[0].text


def test_shares_no_code_with_what_it_judges() -> None:
    folder = Path(specinfer.runtime.validator.__file__).parent
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if name.startswith("specinfer"):
                    allowed = ("specinfer.runtime.validator", "specinfer.runtime.errors")
                    assert name.startswith(allowed), f"{file.name} imports {name}"


# Files


def test_refuses_what_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with pytest.raises(ConfigError, match="No such file"):
        validate_files([path])
    path.write_text("hello")
    with pytest.raises(ConfigError, match="a record of JSON in each line"):
        validate_files([path])
    path.write_text('{"launches": 1}\n')
    with pytest.raises(ConfigError, match="expected a log of operations, version 1"):
        validate_files([path])
    path.write_text('{"log": 1, "ranks": [0]}\n{"start": 4}\n')
    with pytest.raises(ConfigError, match="KeyError 4 in a record"):
        validate_files([path])


def test_refuses_the_log_of_one_process_of_two(mpi_logs: Path) -> None:
    with pytest.raises(ConfigError, match=r"logs of ranks \[1\], expected one of each of \[0, 1\]"):
        validate_files([mpi_logs / "0.1.jsonl"])


def test_a_log_is_in_its_file_while_the_program_runs(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = OperationLog(path=path)
    runtime = Runtime(LoggingExecutor(SerialExecutor(), log), observer=log)
    runtime.launch(count, x=runtime.region("x", (4,), {"v": "int64"}))
    assert validate_files([path]) == []
    assert len(path.read_text().splitlines()) == len(log.records)
    runtime.close()
