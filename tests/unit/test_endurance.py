"""The endurance run works where there is no GPU, and tells growth behind the warm-up."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def endurance(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return importlib.import_module("benchmarks.gpu_endurance")


def test_a_short_run_on_a_cpu(endurance: Any, tmp_path: Path) -> None:
    options = "--device cpu --dtype float32 --iterations 40 --every 10 --write --folder"
    assert endurance.main([*options.split(), str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "gpu_endurance.json").read_text())["rows"]
    found = {row["name"]: row for row in rows}
    assert found["lanes/resident"]["against"]["iterations"] == 30
    assert found["lanes/share over lanes"]["value"] > 0.3
    assert found["host/share over lanes"]["value"] == 0


def test_growth_is_what_came_behind_the_first_tenth(endurance: Any) -> None:
    samples = [{"resident": (500 if n == 0 else 1000 + n) << 20} for n in range(20)]
    (row,) = endurance.rows_of("lanes", samples, 500)
    assert (row.value, row.against["iterations"]) == (17.0, 8500)
