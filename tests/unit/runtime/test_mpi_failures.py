"""Over MPI, ranks that differ, fail, hang or die are told of, and no job is left waiting."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import dedent

import pytest

pytest.importorskip("mpi4py")
if shutil.which("mpirun") is None:
    pytest.skip("needs mpirun", allow_module_level=True)

ROOT = Path(__file__).parents[3]
PRELUDE = """
import os, sys, time
from program import *
"""
LIMIT_SECONDS = 50


@cache
def launcher() -> tuple[str, ...]:
    version = subprocess.run(["mpirun", "--version"], capture_output=True, text=True).stdout
    return ("mpirun", "--oversubscribe") if "Open MPI" in version else ("mpirun",)


@dataclass
class Outcome:
    """How a job ended."""

    code: int
    out: str
    errors: str
    seconds: float

    def was_aborted_with(self, code: int) -> bool:
        """Whether a rank ended the job with this code.

        The launcher then kills the others, and tells the code of whichever it looks at first: on a
        busy machine that may be one that was killed. Who ended the job it always says.
        """
        said = re.search(r"(?:MPI_Abort\(.*, |errorcode )(\d+)", self.out + self.errors)
        told = (code, signal.SIGKILL)
        return self.code in told and said is not None and int(said[1]) == code

    def said(self, rank: int) -> list[str]:
        mark = f"{rank}: "
        return [line.removeprefix(mark) for line in self.out.splitlines() if line.startswith(mark)]


def run(program: str, *, ranks: int = 2) -> Outcome:
    """Run a program on some ranks; one that does not end fails the test."""
    start = time.monotonic()
    job = subprocess.Popen(
        [*launcher(), "-n", str(ranks), sys.executable, "-c", PRELUDE + dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'mpi'}",
            "OMP_NUM_THREADS": "1",
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        },
    )
    try:
        out, errors = job.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        job.terminate()  # the launcher ends its ranks
        out, errors = job.communicate()
        pytest.fail(f"the job hangs: {out}{errors}")
    return Outcome(job.returncode, out, errors, time.monotonic() - start)


def same_on_all(outcome: Outcome, ranks: int = 2) -> list[str]:
    """What every rank said."""
    assert outcome.code == 0, outcome.out + outcome.errors
    said = outcome.said(0)
    assert all(outcome.said(rank) == said for rank in range(1, ranks)), outcome.out
    return said


# Divergence


DIVERGENT = {
    "p.runtime.launch(scale, x=p.x, factor=2 + p.rank)": (
        "launch 4, scale(x=RW x, factor=...): factor is 2 on rank 0 and 3 on rank 1"
    ),
    "p.runtime.launch(scale, x=p.x, factor=np.arange(3) + p.rank)": (
        "launch 4, scale(x=RW x, factor=...): factor is int64 array [0, 1, 2] on rank 0 and int64 "
        "array [1, 2, 3] on rank 1"
    ),
    "p.runtime.launch(fill if p.rank else copy_of_fill, x=p.y, value=1)": (
        "launch 4, other(x=WD y, value=1) on rank 0 and launch 4, fill(x=WD y, value=1) on rank 1"
    ),
    "p.rank and p.runtime.launch(fill, x=p.y, value=1)": (
        "fence on rank 0 and launch 4, fill(x=WD y, value=1) on rank 1"
    ),
    "p.runtime.launch(fill, x=p.region('z', 4 + p.rank), value=1)": (
        "launch 4, fill(x=..., value=1): x is WD z: region 3 of shape (4,)"
    ),
    "p.runtime.trace('step', body)(k=p.rank)": (
        "trace step(bucket=(), k=...): k is 0 on rank 0 and 1 on rank 1"
    ),
    "p.runtime.trace('step', body)(p.rank, k=1)": (
        "trace step(bucket=..., k=1): bucket is (0,) on rank 0 and (1,) on rank 1"
    ),
    "step(k=1) if p.rank else body(k=1)": (
        "launch 4, fill(x=WD y, value=1) on rank 0 and trace step(bucket=(), k=1) on rank 1"
    ),
    "p.runtime.index_launch(bump, 2, x=p.xs, by=Projection('p', lambda n: n + p.rank))": (
        "bump(x=RW x.parts[ID], by=...): by is p: (0, 1) on rank 0 and p: (1, 2) on rank 1"
    ),
    "p.runtime.launch(scale, x=p.x, factor=done[p.rank])": (
        "factor is future of launch 0 on rank 0 and future of launch 1 on rank 1"
    ),
}


def test_what_differs_between_ranks_is_named_within_the_iteration() -> None:
    program = """
        from specinfer.runtime.partition import Projection
        from specinfer.runtime.task import Task
        copy_of_fill = Task("other", fill.privileges, fill.parameters, fill.variants, is_pure=True)
        for action in ACTIONS:
            p = Program()
            body = lambda *bucket, k: p.runtime.launch(fill, x=p.y, value=k)
            step = p.runtime.trace("step", body)
            done = [p.runtime.launch(fill, x=p.y, value=n) for n in range(4)]
            p.read(p.y)
            p.attempt("it", lambda: (eval(action), p.runtime.fence()))
            p.runtime.close()
    """
    outcome = run(f"ACTIONS = {list(DIVERGENT)!r}\n" + dedent(program))
    said = same_on_all(outcome)
    for line, expected in zip(said, DIVERGENT.values(), strict=True):
        assert line.startswith("it raises DivergenceError: the ranks do not run the same program: ")
        assert expected in line


def test_a_mapper_that_answers_differently_is_named() -> None:
    outcome = run("""
        from specinfer.runtime.mesh import line

        class Uneven(Mapper):
            def shard(self, launch, point, number, count):
                return (number + p.rank) % 2

        p = None
        p = Program(lambda machine: Uneven(line(2)))
        p.attempt("it", lambda: p.runtime.index_launch(bump, 4, x=p.xs, by=1))
        p.runtime.close()
    """)
    (line,) = same_on_all(outcome)
    assert (
        "launch 0, bump(x=RW x.parts[ID], by=1): the mapper of rank 0 puts point 0 on ranks [0]"
        in (line)
    )
    assert "the mapper of rank 1 puts point 0 on ranks [1]" in line


ANSWERS = {
    "Uneven": (
        "launch 0, bump(x=RW x.parts[ID], by=1): the mapper of rank 0 puts point 1 on ranks [0] "
        "with x[1:2], the mapper of rank 1 puts point 1 on ranks [1] with x[1:2]"
    ),
    "Reading": (
        "read(part=x): the mapper of rank 0 takes all-gather of 32 bytes of value, the mapper of "
        "rank 1 takes all-gather of 32 bytes of value as messages"
    ),
    "Launching": (
        "launch 1, copy(x=R x, y=WD y): the mapper of rank 0 takes all-gather of 32 bytes of "
        "value, the mapper of rank 1 takes all-gather of 32 bytes of value as messages"
    ),
}


def test_ranks_compare_answers_of_their_mappers_before_anything_moves() -> None:
    program = """
        from specinfer.runtime.mesh import line
        from specinfer.runtime.partition import blocks

        class Uneven(Mapper):
            def shard(self, launch, point, number, count):
                return int(number >= 2 - p.rank)
        class Reading(Mapper):
            def as_messages(self, kind, num_bytes):
                return p.rank == 1
        Launching = Reading

        for name in NAMES:
            p = None
            p = Program(lambda machine: globals()[name](line(2)))
            def body():
                p.runtime.index_launch(bump, 4, x=p.xs, by=1)
                if name == "Launching":
                    p.runtime.launch(copy, x=p.x, y=p.y)
                p.read(p.x)
            p.attempt("it", body)
            p.runtime.close()
        p = Program()
        parts = blocks(p.x, (3, 1) if p.rank else (2, 2))
        p.attempt("it", lambda: (p.runtime.index_launch(bump, 2, x=parts, by=1), p.read(p.x)))
    """
    names = list(ANSWERS)
    said = same_on_all(run(f"NAMES = {names!r}\n" + dedent(program)))
    for line, expected in zip(said, ANSWERS.values(), strict=False):
        assert line == (
            f"it raises DivergenceError: the ranks do not run the same program: {expected}"
        )
    assert "launch 0, bump(x=..., by=1): x is RW x.parts[ID]: region 0" in said[-1]


def test_a_mapper_that_lets_one_rank_replay_is_named() -> None:
    (line,) = same_on_all(
        run("""
        from specinfer.runtime.mesh import line

        class Replaying(Mapper):
            def replays(self, trace):
                return p.rank == 1

        p = None
        p = Program(lambda machine: Replaying(line(2)))
        step = p.runtime.trace("step", lambda: p.runtime.launch(fill, x=p.y, value=1))
        p.attempt("it", lambda: (step(), p.runtime.fence()))
        p.runtime.close()
    """)
    )
    assert line.endswith(
        "the mapper on replays of trace step(answer=...): answer is False on rank 0 and True on "
        "rank 1"
    )


def test_a_rank_that_agrees_where_another_reads_a_value_is_told() -> None:
    (line,) = same_on_all(
        run("""
        p = Program()
        made = p.runtime.launch(bump, x=p.x, by=1)
        first, second = lambda: p.runtime.agree((7 + p.rank,)), made.get
        p.attempt("it", lambda: (second(), first()) if p.rank else (first(), second()))
        p.runtime.close()
    """)
    )
    assert line == (
        "it raises DivergenceError: the ranks do not run the same program: agree on rank 0 and "
        "value(of=future of launch 0) on rank 1"
    )


def test_ranks_agree_on_the_value_of_the_first_unless_a_task_raised() -> None:
    outcome = run("""
        p = Program()
        p.say(p.runtime.agree((7 + p.rank,)))
        p.runtime.index_launch(fail, 4, x=p.xs, where=2)
        p.attempt("agree", lambda: p.runtime.agree(p.rank))
        p.attempt("agree", lambda: p.runtime.agree(p.rank))
        p.runtime.close()
    """)
    first, second, third = same_on_all(outcome)
    assert (first, third) == ("(7,)", "agree gives 0")
    assert second.startswith("agree raises PoisonedError: launch 0, fail(")


def test_ranks_that_run_the_same_program_never_differ() -> None:
    outcome = run(
        """
        p = Program()
        def body(k):
            p.runtime.index_launch(bump, 4, x=p.xs, by=k)
            p.runtime.index_launch(add_up, 4, x=p.xs, total=p.total)
            return p.runtime.index_launch(fail, 4, x=p.xs, where=None)
        step = p.runtime.trace("step", body)
        for k in range(6):
            futures = step(k=k)
            p.say(futures[3].get(), p.read(p.x), futures.reduce(lambda one, other: one + other))
        for _ in range(10000):
            p.runtime.launch(fill, x=p.y, value=1)
        p.say(len(p.runtime._stream.agreement.history.unsettled) < 5000, p.read(p.y))
        p.runtime.close()
        p.runtime.close()
        """,
        ranks=3,
    )
    said = same_on_all(outcome, 3)
    assert said[5] == "18 [15, 16, 17, 18] 66"
    assert said[6] == "True [1, 1, 1, 1]"
    assert "specinfer: " not in outcome.errors


# Failures


def test_a_failure_on_one_rank_is_raised_on_all_and_healthy_data_go_on() -> None:
    outcome = run(
        """
        p = Program()
        made = p.runtime.index_launch(fail, 4, x=p.xs, where=3)
        p.runtime.index_launch(copy, 4, x=p.xs, y=p.ys)
        bumped = p.runtime.index_launch(bump, 4, x=p.ys, by=1)
        first = p.runtime.launch(bump, x=p.region("z"), by=made[3])
        late = p.runtime.launch(bump, x=p.y, by=1)  # on the first rank, which is well
        p.attempt("fence", p.runtime.fence)
        p.attempt("fence", p.runtime.fence)
        p.attempt("late", late.get)
        p.attempt("part of x", lambda: p.runtime.read(p.x.rows(0, 3)).tolist())
        p.attempt("x", lambda: p.read(p.x))
        p.attempt("y", lambda: p.read(p.y))
        p.attempt("made 0", made[0].get)
        p.attempt("made 3", made[3].get)
        p.attempt("bumped 2", bumped[2].get)
        p.attempt("bumped 3", bumped[3].get)
        p.runtime.index_launch(fill, 4, x=p.xs, value=5)
        p.attempt("x", lambda: p.read(p.x))
        p.attempt("y", lambda: p.read(p.y))
        p.runtime.launch(copy, x=p.x, y=p.y)
        p.attempt("y", lambda: p.read(p.y))
        p.runtime.close()
        """,
        ranks=2,
    )
    cause = (
        "launch 0, fail(x=RW x.parts[ID], where=3) at point 3, raised ValueError: no 3 please on "
        "rank 1"
    )
    assert same_on_all(outcome) == [
        f"fence raises PoisonedError: {cause}",
        "fence gives None",
        f"late raises PoisonedError: the future of launch 4 has no value: {cause}",
        "part of x gives [0, 1, 2]",
        f"x raises PoisonedError: x was never made: {cause}",
        f"y raises PoisonedError: y was never made: {cause}",
        "made 0 gives 0",
        f"made 3 raises PoisonedError: the future of launch 0 has no value: {cause}",
        "bumped 2 gives 3",
        f"bumped 3 raises PoisonedError: the future of launch 2 has no value: {cause}",
        "x gives [5, 5, 5, 5]",
        f"y raises PoisonedError: y was never made: {cause}",
        "y gives [5, 5, 5, 5]",
    ]


def test_a_failure_reaches_what_other_ranks_reduce_and_the_first_one_is_told() -> None:
    outcome = run(
        """
        p = Program()
        p.runtime.index_launch(fail, 4, x=p.xs, where=2)
        p.runtime.index_launch(fail, 4, x=p.ys, where=0)
        p.runtime.index_launch(add_up, 4, x=p.xs, total=p.total)
        p.attempt("total", lambda: p.read(p.total))
        p.attempt("total", lambda: p.read(p.total))
        p.runtime.launch(fill, x=p.total, value=0)
        p.runtime.launch(fill, x=p.x, value=1)
        p.runtime.index_launch(add_up, 4, x=p.xs, total=p.total)
        p.attempt("total", lambda: p.read(p.total))
        p.runtime.close()
        """
    )
    cause = (
        "launch 0, fail(x=RW x.parts[ID], where=2) at point 2, raised ValueError: no 2 please on "
        "rank 1"
    )
    assert same_on_all(outcome) == [
        f"total raises PoisonedError: {cause} (1 more raised)",
        f"total raises PoisonedError: total was never made: {cause}",
        "total gives [4]",
    ]


def test_a_failure_in_a_replay_is_told_and_the_next_replay_is_well() -> None:
    outcome = run(
        """
        p = Program()
        def body(k):
            p.runtime.index_launch(bump, 4, x=p.xs, by=0)
            made = p.runtime.index_launch(fail, 4, x=p.xs, where=k)
            p.runtime.launch(fill, x=p.total, value=made[2])  # on every rank
            p.runtime.index_launch(copy, 4, x=p.xs, y=p.ys)
            return made
        step = p.runtime.trace("step", body)
        for turn, k in enumerate((None, None, None, None, 4, None)):
            p.runtime.index_launch(fill, 4, x=p.xs, value=turn)
            p.runtime.fence()
            replays = step.stats.replayed
            made = step(k=k)
            if k == 4:
                p.say("replayed", step.stats.replayed - replays)
            p.attempt("y", lambda: p.read(p.y))
            p.attempt("made", made[1].get)
            p.attempt("total", lambda: p.read(p.total))
        p.runtime.close()
        """
    )
    said = same_on_all(outcome)
    well = [
        [f"y gives [{n}, {n}, {n}, {n}]", f"made gives {n}", f"total gives [{n}]"] for n in range(6)
    ]
    assert said[: 4 * 3] == [line for lines in well[:4] for line in lines]
    assert said[12] == "replayed 1"
    assert said[13].startswith("y raises PoisonedError: launch ")
    assert "raised ValueError: no 4 please on rank 0 (3 more raised)" in said[13]
    assert said[14].startswith("made raises PoisonedError: the future of launch ")
    assert said[15].startswith("total raises PoisonedError: total was never made: launch ")
    assert said[16:] == well[5]


def test_values_of_a_trace_are_sent_again_after_each_replay() -> None:
    outcome = run("""
        p = Program()
        body = lambda: p.runtime.index_launch(bump, 4, x=p.xs, by=1)
        step = p.runtime.trace("step", body)
        for _ in range(5):
            p.say(step().get())
        p.runtime.close()
    """)
    assert same_on_all(outcome) == [str({n: n + k for n in range(4)}) for k in range(1, 6)]


# Jobs that would hang


def test_ranks_that_wait_for_each_other_are_ended_with_the_launch_that_differs() -> None:
    outcome = run(
        """
        p = Program()
        for turn in range(3):  # what comes again is not compared at once
            p.runtime.index_launch(bump, 4, x=p.xs, by=1)
            if p.rank == 0 or turn < 2:
                p.runtime.launch(copy, x=p.x, y=p.y)  # collects x
        p.read(p.total)
        """,
        ranks=3,
    )
    assert outcome.was_aborted_with(70)
    assert outcome.seconds < 20
    assert "specinfer: the ranks wait for each other in vain: the job is ended" in outcome.errors
    assert "rank 0 was at launch 5, copy, in all-gather of x.value, " in outcome.errors
    assert "rank 2 was at read, behind launch 4, in the comparison with other" in outcome.errors
    assert "launch 5, copy(x=R x, y=WD y) on rank 0 and read(part=total) on ranks 1, 2" in (
        outcome.errors
    )
    assert "Traceback" not in outcome.errors


@pytest.mark.parametrize("ending", ["sys.exit(0)", "raise KeyError('a bug')"])
def test_a_rank_that_ends_early_is_not_waited_for(ending: str) -> None:
    outcome = run(f"""
        p = Program()
        p.runtime.index_launch(bump, 4, x=p.xs, by=1)
        with p.runtime:
            if p.rank == 1:
                {ending}
            p.read(p.x)
    """)
    assert outcome.was_aborted_with(70)
    assert outcome.seconds < 20
    assert "rank 1 ended its program at launch 0, bump" in outcome.errors
    assert "rank 0 was at read, behind launch 0, in the comparison with other" in outcome.errors


def test_a_rank_that_calculates_for_long_is_left_alone() -> None:
    outcome = run("""
        p = Program()
        p.runtime.index_launch(bump, 4, x=p.xs, by=1)
        p.runtime.launch(copy, x=p.x, y=p.y)
        if p.rank == 1:
            time.sleep(4 * PATIENCE_SECONDS)
        p.runtime.fence()
        p.say(p.read(p.x))
        if p.rank == 0:
            time.sleep(4 * PATIENCE_SECONDS)
        p.runtime.close()
    """)
    assert same_on_all(outcome) == ["[1, 2, 3, 4]"]
    assert "specinfer: " not in outcome.errors


def test_a_killed_rank_ends_the_job_with_a_word_of_where_each_was() -> None:
    outcome = run(
        """
        import signal
        p = Program()
        for _ in range(57):
            p.runtime.index_launch(bump, 4, x=p.xs, by=1)
        if p.rank == 1:
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)
        p.read(p.x)
        """,
        ranks=3,
    )
    assert outcome.code != 0
    assert outcome.seconds < 20
    assert "specinfer: rank 1 (process " in outcome.errors
    assert ") was at launch 56, bump, when it was ended at " in outcome.errors
    assert ") was at read, behind launch 56, in the comparison with other ranks, when it" in (
        outcome.errors
    )


def test_a_rank_that_is_killed_at_once_has_a_witness() -> None:
    outcome = run("""
        import signal
        machine = MPIRanks()
        if machine.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        machine.gather_values(0)
    """)
    assert outcome.code != 0
    assert "specinfer: rank 1 (process " in outcome.errors
    assert ") was before its first launch, when it was ended at " in outcome.errors


def test_closing_after_errors_does_not_wait() -> None:
    outcome = run("""
        for turn in range(3):
            p = Program()
            p.attempt("launch", lambda: p.runtime.launch(scale, x=p.x, factor=p.rank))
            if p.rank == turn % 2:
                time.sleep(0.5)
            start = time.monotonic()
            p.runtime.close()
            p.runtime.close()
            p.say(time.monotonic() - start < 0.3)
    """)
    assert same_on_all(outcome)[1::2] == ["True"] * 3


def test_a_program_that_never_waits_is_told_at_its_end() -> None:
    outcome = run("""
        def end(*launches):
            p = Program()
            with p.runtime:
                for task, arguments in launches:
                    p.runtime.launch(task, x=p.x, **arguments)
            return p

        p = end((scale, {"factor": 1}))
        p.attempt("failure", lambda: end((fail, {"where": 0})))
        p.attempt("other", lambda: end(*[(scale, {"factor": f}) for f in (0, p.rank)]))
        p.attempt("close", p.runtime.close)
        p.attempt("fence", p.runtime.fence)
    """)
    failure, other, *then = same_on_all(outcome)
    assert failure.startswith(
        "failure raises PoisonedError: launch 0, fail(x=RW x, where=0), raised"
    )
    assert other.startswith("other raises DivergenceError: the ranks do not run the same program: ")
    assert "factor is 0 on rank 0 and 1 on rank 1" in other
    assert then == [
        "close gives None",
        "fence raises LaunchError: a program that waits at a fence: the runtime was closed, "
        "expected it before `close`",
    ]


def test_communicators_are_freed() -> None:
    outcome = run("""
        import threading
        for turn in range(2100):  # there are about two thousand of them
            p = Program()
            if turn % 50 == 0:
                p.runtime.index_launch(bump, 4, x=p.xs, by=1)
                p.read(p.x)
            p.runtime.close()
        time.sleep(0.5)
        p.say(threading.active_count())
    """)
    assert same_on_all(outcome) == ["1"]


# The last word


REPORTING = """
    from mpi4py import MPI
    from specinfer.runtime.errors import ConfigError
    from specinfer.runtime.machine.reporting import reporting_once

    rank = MPI.COMM_WORLD.rank
    with reporting_once(patience_seconds=1):
        {action}
        MPI.COMM_WORLD.Barrier()
"""


def test_an_error_of_all_ranks_is_told_once() -> None:
    outcome = run(REPORTING.format(action="raise ConfigError('model.yaml: no layers')"))
    assert outcome.code == 2
    assert outcome.errors.count("model.yaml: no layers") == 1
    assert "Traceback" not in outcome.errors


def test_an_error_of_one_rank_ends_the_others() -> None:
    outcome = run(
        REPORTING.format(action="if rank == 1: raise ConfigError('model.yaml: no layers')")
    )
    assert outcome.code == 2
    assert "specinfer: rank 1: ConfigError: model.yaml: no layers" in outcome.errors
    assert "Traceback" not in outcome.errors


def test_an_error_that_nobody_expected_is_told_with_its_traceback() -> None:
    outcome = run(REPORTING.format(action="if rank == 1: 1 / 0"))
    assert outcome.code == 1
    assert "specinfer: rank 1:\nTraceback" in outcome.errors
    assert "ZeroDivisionError" in outcome.errors
