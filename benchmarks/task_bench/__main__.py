"""Measure METG(50 %) of this runtime and of others, in one run on one machine.

    python -m benchmarks.task_bench [--patterns stencil_1d fft] [--systems mpi4py ray-tasks]

Every system gets two cores. Those over MPI are run by ``mpirun -n 2``; the others in a process of
their own each. What is not installed is left out, and said so. The time of the work itself is
measured once, before all systems, with both cores busy.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from math import inf, nan
from pathlib import Path
from statistics import median, stdev
from tempfile import TemporaryFile
from typing import Any

from rich.console import Console
from rich.progress import track

from benchmarks.ranks import mpirun
from benchmarks.report import RESULTS, Row, markdown, write
from benchmarks.task_bench.kernel import seconds_on_busy_cores
from benchmarks.task_bench.metg import Sample, measure, metg
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

TIMEOUT_SECONDS = 600
"""Of one system."""

BUSY = 0.5
"""Load average from which a machine is not idle."""


def make(name: str) -> System:
    """A system by its name."""
    _, module, kind, arguments = SYSTEMS[name]
    make_system: Callable[..., System] = getattr(
        importlib.import_module(f"{PACKAGE}.{module}"), kind
    )
    return make_system(**arguments)


def measure_here(name: str, per_iteration: float, asked: argparse.Namespace) -> None:
    """Measure one system in this process; rank 0 prints a line of JSON for each pattern."""
    system = make(name)
    for pattern in asked.patterns:
        shape = Shape(pattern, asked.width, asked.steps or system.steps)
        line: dict[str, Any] = {"system": system.name, "pattern": pattern}
        tasks = num_tasks(pattern, shape.width, shape.steps)
        system.prepare(shape)
        system.run(0)  # warm
        curves = [
            measure(system.run, tasks, system.cores, per_iteration) for _ in range(asked.repeats)
        ]
        line |= summary(curves)
        if _rank() == 0:
            print(json.dumps(line), flush=True)
    system.close()


def summary(curves: Sequence[Sequence[Sample]]) -> dict[str, Any]:
    """Median and spread over curves, and the curves; a median of None: most never got there."""
    found = [metg(curve) for curve in curves]
    reached = [value for value in found if value is not None]
    middle = median(inf if value is None else value for value in found)
    return {
        "metg": None if middle == inf else middle,
        "spread": stdev(reached) if len(reached) > 1 else None,
        "curves": [[(s.granularity, s.efficiency) for s in curve] for curve in curves],
    }


def run(name: str, per_iteration: float, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one system in processes of its own; what it did not do is told on stderr."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    own = ["-m", "benchmarks.task_bench", "--only", name, "--per-iteration", repr(per_iteration)]
    own += ["--width", str(asked.width), "--steps", str(asked.steps)]
    own += ["--repeats", str(asked.repeats), "--patterns", *asked.patterns]
    command = [sys.executable, *own]
    if SYSTEMS[name][0]:
        try:
            command = mpirun(RANKS, "-m", "mpi4py", *own)  # it ends all ranks if one fails
        except FileNotFoundError as error:
            console.print(f"{name}: left out: {error}")
            return []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0"}
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=err)
        try:
            process.wait(TIMEOUT_SECONDS)
            reason = f"it ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            reason = f"not done after {TIMEOUT_SECONDS} s"
        out.seek(0)
        err.seek(0)
        lines = [json.loads(line) for line in out if line.startswith("{")]
        errors = [line.strip() for line in err if "Error" in line]
    missing = asked.patterns[len(lines) :]
    if missing:
        console.print(f"{name}: left out: {', '.join(missing)}: {(errors or [reason])[-1]}")
    for line in lines:
        if line["metg"] is None:
            console.print(f"{name}: {line['pattern']}: half of the time was overhead throughout")
    return lines


def rows(lines: Sequence[dict[str, Any]]) -> list[Row]:
    """Result rows, in microseconds."""
    return [
        Row(
            name=f"{line['system']}/{line['pattern']}",
            value=1e6 * line["metg"],
            unit="us",
            spread=None if line["spread"] is None else 1e6 * line["spread"],
            against={"curves": line["curves"]},
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
        heights = [row["value"] if row else nan for row in measured]
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
    parser.add_argument("--steps", type=int, default=0, help="of a graph; 0: each system's own")
    parser.add_argument("--repeats", type=int, default=3, help="curves, of which the median counts")
    parser.add_argument(
        "--json",
        type=Path,
        default=RESULTS / "task_bench.json",
        metavar="FILE",
        help="results; the plot is drawn beside it",
    )
    parser.add_argument("--draw", action="store_true", help="only draw the plot of the last run")
    parser.add_argument("--only", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--per-iteration", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.draw:
        draw(args.json)
        return
    if args.only:
        measure_here(args.only, args.per_iteration, args)
        return
    if (load := os.getloadavg()[0]) > BUSY:
        print(f"load average {load:.1f}: others use the cores, and the figures tell of that, too")
    per_iteration = seconds_on_busy_cores(RANKS)
    lines: list[dict[str, Any]] = []
    for name in track(args.systems, "systems", console=Console(stderr=True)):
        lines += run(name, per_iteration, args)
    print(table(lines, args.patterns))
    path = write(args.json.stem, rows(lines), args.json.parent)
    print(path)
    draw(path)


def _rank() -> int:
    from specinfer.runtime.machine.start import rank_here

    return rank_here()


def _told(line: dict[str, Any] | None) -> str:
    """METG in microseconds; more than the largest granularity, if it was never reached."""
    if line is None:
        return "-"
    if line["metg"] is None:
        return f"> {1e6 * line['curves'][-1][-1][0]:.1f}"
    spread = "" if line["spread"] is None else f" ± {1e6 * line['spread']:.1f}"
    return f"{1e6 * line['metg']:.1f}{spread}"


if __name__ == "__main__":
    main()
