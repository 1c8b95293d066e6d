"""``specinfer validate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specinfer.runtime.context import Runtime
from specinfer.runtime.executor.shuffled import ShuffledExecutor
from specinfer.runtime.oplog import LoggingExecutor, OperationLog
from specinfer.runtime.privilege import RW
from specinfer.runtime.task import task
from specinfer.scheduler.cli.main import main


@task(x=RW)
def count(x: Any) -> None:
    x += 1


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    log = OperationLog(path=path)
    with Runtime(LoggingExecutor(ShuffledExecutor(1), log), observer=log) as runtime:
        x = runtime.region("x", (4,), {"v": "int64"})
        for _ in range(2):
            runtime.launch(count, x=x)
        runtime.fence()
    return path


def test_says_nothing_of_a_good_log(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(log)]) == 0
    assert capsys.readouterr().out == "0 errors, 0 warnings, 0 notes\n"


def test_tells_what_is_wrong(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [json.loads(line) for line in log.read_text().splitlines()]
    kept = [record for record in records if record.get("stop") != 1]
    log.write_text("".join(json.dumps(record) + "\n" for record in kept))
    assert main(["validate", str(log)]) == 1
    assert capsys.readouterr().out.startswith(
        "error: leak: launch 1 count(x=RW x) began and never ended\n"
    )
    assert main(["validate", "--json", str(log)]) == 1
    assert json.loads(capsys.readouterr().out)[0]["kind"] == "leak"


def test_refuses_what_is_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(tmp_path / "missing")]) == 2
    assert "No such file" in capsys.readouterr().err
