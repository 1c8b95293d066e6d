"""Result files and tables: what was measured, on which machine, from which commit.

A result has ``device``, ``date``, ``commit`` and ``rows``; a row is a named value with its unit,
its spread (a standard deviation, or null) and what it is to be held against.
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
from statistics import median, stdev
from typing import Any

import torch

HERE = Path(__file__).resolve()


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


def repeated(
    name: str, values: Sequence[float], unit: str, against: Mapping[str, Any] | None = None
) -> Row:
    """The figure that several measurements give: their median, and how far they spread.

    >>> row = repeated("step", [3.0, 1.0, 2.0], "ms")
    >>> row.value, row.spread
    (2.0, 1.0)
    """
    spread = stdev(values) if len(values) > 1 else None
    return Row(name=name, value=median(values), unit=unit, spread=spread, against=against or {})


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
        # Fails where this was installed into a folder of somebody else's repository.
        _git("ls-files", "--error-unmatch", HERE.name)
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("BENCHMARK_COMMIT", "unknown")
    code = [line for line in changed.splitlines() if "benchmarks/results/" not in line]
    return head + ("+" if code else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=HERE.parent, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def result(rows: Iterable[Row]) -> dict[str, Any]:
    """What a result file holds."""
    return {
        "device": device(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "rows": [asdict(row) for row in rows],
    }


def write_result(path: Path, rows: Iterable[Row]) -> None:
    """Write a result file."""
    path.write_text(json.dumps(result(rows), indent=1) + "\n")


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
