"""Measure METG(50 %) of this runtime and of others, in one run on one machine.

    python -m benchmarks.task_bench [--patterns stencil_1d fft] [--systems dask ray] [--repeats 3]

Every system gets two cores. Those over MPI are run by ``mpirun -n 2``; the others in a process of
their own each. What is not installed is left out, and said so.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from benchmarks.ranks import mpirun
from benchmarks.report import RESULTS, Row, markdown, write
from benchmarks.task_bench.kernel import seconds_per_iteration
from benchmarks.task_bench.metg import measure, metg
from benchmarks.task_bench.patterns import PATTERNS, num_tasks
from benchmarks.task_bench.systems import Shape, System

RANKS = 2
PACKAGE = "benchmarks.task_bench.systems"
SYSTEMS: dict[str, tuple[bool, str, str, dict[str, Any]]] = {
    "mpi4py": (True, "mpi", "HandWritten", {}),
    "traced": (True, "ours", "Ours", {"is_traced": True}),
    "analysed": (True, "ours", "Ours", {"is_traced": False}),
    "dask-threads": (False, "dask_systems", "DaskThreads", {}),
    "dask-distributed": (False, "dask_systems", "DaskDistributed", {}),
    "ray-tasks": (False, "ray_systems", "RayTasks", {}),
    "ray-compiled": (False, "ray_systems", "RayCompiled", {}),
}
"""By name: whether it runs under mpirun, its module, class and arguments."""

TIMEOUT_SECONDS = 1800


def make(name: str) -> System:
    """A system by its name."""
    _, module, kind, arguments = SYSTEMS[name]
    make_system: Callable[..., System] = getattr(
        importlib.import_module(f"{PACKAGE}.{module}"), kind
    )
    return make_system(**arguments)


def measure_here(name: str, patterns: Sequence[str], width: int, repeats: int) -> None:
    """Measure one system in this process; rank 0 prints a line of JSON for each pattern."""
    per_iteration = seconds_per_iteration()
    system = make(name)
    for pattern in patterns:
        shape = Shape(pattern, width, system.steps)
        line: dict[str, Any] = {"system": system.name, "pattern": pattern}
        try:
            system.prepare(shape)
            tasks = num_tasks(pattern, width, system.steps)
            samples = measure(system.run, tasks, system.cores, _agreed(per_iteration), repeats)
            line |= {
                "metg": metg(samples),
                "samples": [(s.granularity, s.efficiency) for s in samples],
            }
        except NotImplementedError as error:
            line["left_out"] = str(error)
        if _rank() == 0:
            print(json.dumps(line), flush=True)
    system.close()


def run(name: str, patterns: Sequence[str], width: int, repeats: int) -> list[dict[str, Any]]:
    """Measure one system in processes of its own."""
    own = ["-m", "benchmarks.task_bench", "--only", name, "--width", str(width)]
    own += ["--repeats", str(repeats), "--patterns", *patterns]
    command = mpirun(RANKS, *own) if SYSTEMS[name][0] else [sys.executable, *own]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        Console(stderr=True).print(f"{name}: left out: {reason[0]}", highlight=False)
        return []
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def rows(lines: Sequence[dict[str, Any]]) -> list[Row]:
    """Result rows, in microseconds."""
    return [
        Row(
            name=f"{line['system']}/{line['pattern']}",
            value=1e6 * line["metg"],
            unit="us",
            against={"samples": line["samples"]},
        )
        for line in lines
        if line.get("metg")
    ]


def table(lines: Sequence[dict[str, Any]], patterns: Sequence[str]) -> str:
    """METG in microseconds, a line a system."""
    systems = list(dict.fromkeys(line["system"] for line in lines))
    found = {(line["system"], line["pattern"]): line for line in lines}
    cells = [
        [system, *(_told(found.get((system, pattern))) for pattern in patterns)]
        for system in systems
    ]
    return markdown(["METG(50 %), us", *patterns], cells)


def draw(path: Path) -> None:
    """Bars beside a result file, grouped by pattern, over a logarithmic axis."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no plot: matplotlib is not installed; --draw draws it elsewhere")
        return
    mpl.use("Agg")
    from matplotlib import pyplot

    found = {tuple(row["name"].split("/")): row for row in json.loads(path.read_text())["rows"]}
    systems, patterns = (list(dict.fromkeys(name[i] for name in found)) for i in (0, 1))
    figure, axes = pyplot.subplots(figsize=(11, 4.5), dpi=120)
    for i, system in enumerate(systems):
        at = [p + (i - len(systems) / 2) * 0.8 / len(systems) for p in range(len(patterns))]
        measured = [found.get((system, pattern)) for pattern in patterns]
        heights = [row["value"] if row else 0.0 for row in measured]
        axes.bar(at, heights, 0.8 / len(systems), label=system, align="edge")
    axes.set_yscale("log")
    axes.set_xticks(range(len(patterns)), patterns, rotation=20)
    axes.set_ylabel("METG(50 %), us")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(ncols=2, fontsize=8)
    figure.tight_layout()
    figure.savefig(path.with_suffix(".png"))
    pyplot.close(figure)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=PATTERNS)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--width", type=int, default=2 * RANKS, help="points of a full step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--draw", action="store_true", help="only draw the plot of the last run")
    parser.add_argument("--only", choices=SYSTEMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.draw:
        draw(RESULTS / "task_bench.json")
        return
    if args.only:
        measure_here(args.only, args.patterns, args.width, args.repeats)
        return
    lines: list[dict[str, Any]] = []
    for name in track(args.systems, "systems", console=Console(stderr=True)):
        lines += run(name, args.patterns, args.width, args.repeats)
    print(table(lines, args.patterns))
    path = write("task_bench", rows(lines))
    print(path)
    draw(path)


def _agreed(value: float) -> float:
    """The first rank's value, on all ranks."""
    if "MPI" not in sys.modules and "mpi4py.MPI" not in sys.modules:
        return value
    from mpi4py import MPI

    return float(MPI.COMM_WORLD.bcast(value))


def _rank() -> int:
    from specinfer.runtime.machine.start import rank_here

    return rank_here()


def _told(line: dict[str, Any] | None) -> str:
    """METG in microseconds; more than the largest granularity, if it was never reached."""
    if line is None or "left_out" in line:
        return "-"
    if line["metg"] is None:
        return f"> {1e6 * line['samples'][-1][0]:.1f}"
    return f"{1e6 * line['metg']:.1f}"


if __name__ == "__main__":
    main()
