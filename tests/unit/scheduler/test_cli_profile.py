from __future__ import annotations

import json
from pathlib import Path

import pytest
from unit.models.checkpoint_files import weights, write_folder

from specinfer.runtime.profile.profiler import Profiler
from specinfer.runtime.profile.record import Instant, Profile, RequestSpan, Sample, Span
from specinfer.runtime.profile.timeline import read_profile, write_profile
from specinfer.scheduler.cli.main import BAD_INPUT, main
from specinfer.scheduler.llm import LLM

MS = 1_000_000
PROFILE = Profile(
    (
        Span(0, "host", "issue", 0, 10 * MS, "host"),
        Span(0, "main", "matmul", 10 * MS, 30 * MS, id=0),
        Span(0, "main", "norm[1]", 30 * MS, 35 * MS, id=1, waits_for=((0, 0),)),
        Span(0, "communication", "send", 30 * MS, 40 * MS, "communication", 2, ((0, 0),)),
    ),
    (Instant(0, "trace miss", 5, "shape [2, 3]"),),
    (Sample(0, "trace hits", 7, 3), Sample(0, "trace misses", 8, 1)),
    (RequestSpan(0, "4", "first token", 0, 25 * MS),),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.json"
    write_profile(PROFILE, path)
    return path


def profile(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main(["profile", *map(str, argv)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()]


def test_prints_where_the_time_went(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = profile(capsys, file)
    assert out.startswith("40.000 ms of 1 rank\n")
    assert ["rank", "0", "40.000", "62.5%", "25.0%", "12.5%", "25.0%"] in rows(out)
    assert ["main", "2", "25.000", "62.5%"] in [row[:4] for row in rows(out)]
    assert "critical path: 30.000 ms, 2 operations, 75.0% of the time" in out
    assert ["norm[1]", "1", "5.000", "5000.0", "14.3%"] in rows(out)
    assert ["first", "token", "1", "25.000", "25000.0"] in rows(out)
    assert "traces replayed: 75.0% of the tries" in out
    assert "shape [2, 3]" in out


def test_shows_the_first_tasks_only(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = profile(capsys, file, "--top", 1)
    assert "matmul" in out
    assert "norm[1]" not in out
    assert "… 2 more" in out


def test_says_so_if_the_profiler_was_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile(Profile(num_dropped=3), tmp_path / "run.json")
    assert "3 events came when the profiler was full" in profile(capsys, tmp_path / "run.json")


def test_prints_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads(profile(capsys, file, "--json"))
    assert summary["ranks"][0]["exposed_host_ns"] == 10 * MS
    assert summary["critical_path"]["operations"] == [[0, 0], [0, 2]]
    assert [task["name"] for task in summary["tasks"]] == ["matmul", "send", "norm[1]"]
    assert summary["trace_hit_rate"] == 0.75


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nowhere.json"], "nowhere.json: No such file or directory"),
        (["run.json", "--top", "0"], "--top is 0, expected at least 1"),
        (["other.json"], "other.json: expected a profile of specinfer, found another kind of JSON"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_refuses_what_it_cannot_sum_up(
    argv: list[str],
    said: str,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(file.parent)
    Path("other.json").write_text("{}", encoding="utf-8")
    assert main(["profile", *argv]) == BAD_INPUT
    assert capsys.readouterr().err == f"specinfer: error: {said}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny", weights("llama", 320))


def generate(*argv: object) -> int:
    return main(["generate", "--max-new-tokens", "6", "--ignore-eos", "--raw", *map(str, argv)])


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_generate_writes_a_profile_that_changes_no_text(
    executor: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("--model", folder, "--executor", executor, "Mars is red,", "Mars is dark.")
    assert generate(*argv) == 0
    text = capsys.readouterr().out
    path = tmp_path / "run.json"
    assert generate("--profile", path, *argv) == 0
    assert capsys.readouterr() == (text, "")
    profile = read_profile(path)
    assert profile.num_dropped == 0
    assert {"add", "accept"} <= {span.name for span in profile.spans if span.kind == "task"}
    phases = sorted((phase.request, phase.name) for phase in profile.requests)
    names = ("decode", "first token", "request")
    assert phases == [(request, name) for request in "01" for name in names]
    for whole in (phase for phase in profile.requests if phase.name == "request"):
        assert (whole.args["tokens"], whole.args["reason"]) == (6, "length")


def test_generate_refuses_a_profile_in_no_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nowhere" / "run.json"
    assert generate("--model", folder, "--profile", path, "Mars") == BAD_INPUT
    assert capsys.readouterr() == (
        "",
        f"specinfer: error: --profile {path}: there is no such folder\n",
    )


def test_a_request_that_is_given_up_ends_in_the_profile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, profiler = LLM(folder), Profiler()
    llm.compile(profiler=profiler)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("specinfer.scheduler.engine.Engine.step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        llm.generate([1, 2, 3], max_new_tokens=4)
    first, whole = profiler.profile().requests
    assert (first.name, first.args) == ("first token", {})
    assert whole.args == {"prompt_tokens": 3, "tokens": 0, "reason": "cancelled"}
