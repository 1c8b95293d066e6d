"""Where results and data of the benchmarks lie; what a result is, :mod:`specinfer` itself says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from specinfer.scheduler.bench.plots import plot
from specinfer.scheduler.bench.report import Row, commit, device, markdown, write_result

__all__ = ["DATA", "RESULTS", "Row", "commit", "device", "markdown", "plot", "write"]

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"
DATA = ROOT / "data"


def write(name: str, rows: Iterable[Row], folder: Path = RESULTS) -> Path:
    """Write a result file ``benchmarks/results/<name>.json`` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_result(path, rows)
    return path
