"""Result files and tables: what was measured, on which machine, from which commit.

A result file ``benchmarks/results/<name>.json`` holds ``device``, ``date``, ``commit`` and
``rows``; a row is a named value with its unit, its spread (a standard deviation, or null) and what
it is to be held against.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"
DATA = ROOT / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure.

    Attributes:
        name: what was measured; parts are joined by ``/``.
        value: the figure.
        unit: of value and spread.
        spread: standard deviation over repeats; None for a count or a single run.
        against: other figures that it is to be held against, by name.
    """

    name: str
    value: float
    unit: str
    spread: float | None = None
    against: Mapping[str, Any] = field(default_factory=dict)


def device() -> dict[str, Any]:
    """The machine that this process runs on, as far as it bears on speed and rounding."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return gpu | {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """The commit that is checked out; ``+`` behind it: with uncommitted changes to the code.

    A copy without a repository is told by the environment variable ``BENCHMARK_COMMIT``.
    """
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("BENCHMARK_COMMIT", "unknown")
    code = [line for line in changed.splitlines() if "benchmarks/results/" not in line]
    return head + ("+" if code else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write(name: str, rows: Iterable[Row], folder: Path = RESULTS) -> Path:
    """Write a result file and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    result = {
        "device": device(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "rows": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def markdown(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A markdown table.

    >>> print(markdown(["set", "tokens"], [["a", 1.5], ["b", 20]]))
    | set | tokens |
    | --- | --- |
    | a | 1.50 |
    | b | 20 |
    """
    rows = [header, ["---"] * len(header), *([_cell(c) for c in line] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return "-" if value is None else str(value)


def plot(path: Path, curves: Mapping[str, Mapping[float, float]], *, x: str, y: str) -> None:
    """Draw curves (x value -> y value, by label) into a PNG.

    Args:
        path: of the file.
        curves: by label.
        x: label of the horizontal axis, which is logarithmic to base 2 if it spans a factor of 16.
        y: label of the vertical axis.
    """
    import matplotlib as mpl  # only plots need it

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), dpi=120)
    for label, curve in curves.items():
        axes.plot(list(curve), list(curve.values()), marker="o", label=label)
    places = sorted({at for curve in curves.values() for at in curve})
    if places and places[0] > 0 and places[-1] / places[0] >= 16:
        axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{at:g}" for at in places])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
