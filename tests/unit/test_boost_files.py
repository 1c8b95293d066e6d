"""The committed boost-tunings can be read, and what one made survives being cut into pieces."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from specinfer.scheduler.boost.config import load_boost_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch) -> Any:
    # The folder of the repository is not importable where only the package is installed.
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.boost_export")


@pytest.mark.parametrize("name", ["examples/boost.yaml", "benchmarks/boost_h100.yaml"])
def test_committed_configurations_can_be_read(name: str) -> None:
    assert load_boost_config(ROOT / name).boosting.ssms >= 2


def test_pieces_are_joined_to_what_was_cut(
    export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PIECE_BYTES", 5000)
    folder = tmp_path / "out" / "ssm-2"
    folder.mkdir(parents=True)
    weights = bytes(range(256)) * 50
    (folder / "model.safetensors").write_bytes(weights)
    (tmp_path / "out" / "report.json").write_text("{}")
    files = export.pack(tmp_path / "out", tmp_path / "pieces", 2)
    assert [file.name.partition(".")[0] for file in files] == ["report", *["ssm-2"] * 5]
    assert max(file.stat().st_size for file in files) <= 5000
    assert export.join(tmp_path / "pieces", tmp_path / "ssms") == [tmp_path / "ssms" / "ssm-2"]
    assert (tmp_path / "ssms" / "ssm-2" / "model.safetensors").read_bytes() == weights
    files[2].unlink()
    with pytest.raises(ValueError, match="all of its pieces"):
        export.join(tmp_path / "pieces", tmp_path / "ssms")
