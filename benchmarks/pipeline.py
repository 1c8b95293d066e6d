"""Whether SSMs draw at the same time, and whether an iteration begins where the last one ended.

The same texts are written by one LLM and two SSMs, its own first layers, with the tasks run one
after another, at once, and at once with iterations issued ahead (``batch.lookahead``). Trees are of
a fixed size, and every task has one thread to itself. All texts must be equal; then the exit code
is 0. From the profiler, by iteration:

* overlap: of the time in which tasks of an SSM ran, the part in which tasks of both did,
* pause: time from the last task of an iteration to the first of the next in which no worker ran
  any,
* from model to model: the same from the LLM's last task to the first of an SSM, whether or not
  scheduling, itself a task if iterations are issued ahead, ran meanwhile,
* idle: part of the time in which no worker ran a task,
* drafting, LLM: time in which tasks of an SSM ran, and of the LLM.

    python -m benchmarks.pipeline --write
"""

from __future__ import annotations

import argparse
import sys
from bisect import bisect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from statistics import median, quantiles, stdev
from time import perf_counter
from typing import Any

import torch
from rich.progress import track

from benchmarks.iterations import SCHEDULING, Iteration, idle, iterations, overlap, pause
from benchmarks.prompts import prompt_set
from benchmarks.report import RESULTS, Row, markdown, write
from benchmarks.writing import STDERR
from specinfer.models.compiler import compile_graph
from specinfer.runtime.profile.intervals import length, union
from specinfer.runtime.profile.profiler import Profiler
from specinfer.runtime.profile.record import HOST, Span, row_order
from specinfer.scheduler.config import BatchConfig, GenerationConfig, PrefixSSM, SpeculationConfig
from specinfer.scheduler.llm import LLM, Prompt

MODEL = "smollm2-135m"
SSMS = (PrefixSSM(6, (1, 1, 1)), PrefixSSM(12, (1, 1)))
"""About as much work each: the logits of a level cost as much as eight layers."""
NAMES = ("SSM 1", "SSM 2")

MODES = {"serial": ("serial", 0), "threads": ("threads", 0), "threads, ahead": ("threads", 1)}
"""Executor and ``batch.lookahead``, by name."""

FIGURES = {
    "overlap": "%",
    "pause": "ms",
    "from model to model": "ms",
    "idle": "%",
    "drafting": "ms",
    "LLM": "ms",
    "iteration": "ms",
}
"""Units of what is measured of each iteration."""

COLOURS = {"LLM": "tab:blue", "SSM 1": "tab:orange", "SSM 2": "tab:green", SCHEDULING: "tab:red"}
ROOM = 4_000_000
"""Events that a profiler keeps."""


@dataclass
class Mode:
    """One way to run, and what was found.

    Attributes:
        llm: compiled.
        profiler: is told what it does.
        texts: output tokens of all prompts, by run.
        speeds: output tokens a second, by run.
        starts: when each run began that counts, by the profiler's clock.
    """

    llm: LLM
    profiler: Profiler
    texts: list[list[list[int]]] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, executor: str, lookahead: int, options: argparse.Namespace) -> Mode:
        """A new engine."""
        # Of a pool of workers each gets one thread; who runs tasks himself must have one, too.
        torch.set_num_threads(options.workers if executor == "threads" else 1)
        llm, profiler = LLM(MODEL), Profiler(capacity=ROOM)
        llm.compile(
            GenerationConfig(max_new_tokens=options.tokens),
            ssms=SSMS,
            speculation=SpeculationConfig(adaptive=False),
            batch=BatchConfig(
                max_requests=options.prompts, max_rows=128, max_length=512, lookahead=lookahead
            ),
            executor=executor,
            profiler=profiler,
        )
        torch.set_num_threads(1)
        return cls(llm, profiler)

    def run(self, prompts: Sequence[Prompt], *, counts: bool) -> None:
        """Write all texts once."""
        if counts:
            self.starts.append(self.profiler.clock())
        start = perf_counter()
        results = self.llm.generate(prompts)
        seconds = perf_counter() - start
        assert isinstance(results, list)
        self.texts.append([result.output_tokens for result in results])
        if counts:
            self.speeds.append(sum(map(len, self.texts[-1])) / seconds)


@dataclass(frozen=True)
class Seen:
    """What the profiler saw of a mode.

    Attributes:
        spans: of all tasks that count.
        pairs: iterations with the one behind each, but for the first of a run, which reads
            prompts, and the last, which was issued in vain if it was issued ahead.
    """

    spans: Sequence[Span]
    pairs: Sequence[tuple[Iteration, Iteration]]

    @classmethod
    def of(cls, mode: Mode, models: Mapping[int, str]) -> Seen:
        """Look through a profile."""
        profile = mode.profiler.profile()
        if profile.num_dropped:
            raise ValueError(f"{profile.num_dropped} events were dropped: raise ROOM")
        # The host's own time, and its waiting, are no work of a worker.
        spans = [s for s in profile.spans if s.row != HOST and s.start >= mode.starts[0]]
        by_run: defaultdict[int, list[Iteration]] = defaultdict(list)
        for one in iterations(spans, models):
            by_run[bisect(mode.starts, one.start)].append(one)
        pairs = [
            (left, right)
            for run in by_run.values()
            for left, right in pairwise(run[1:-1])
            if left.tasks.keys() & right.tasks.keys() >= set(models.values())
        ]
        return cls(spans, pairs)

    def figures(self) -> dict[str, list[float]]:
        """Those of :data:`FIGURES`, of each iteration with one behind it."""
        found: dict[str, list[float]] = {name: [] for name in FIGURES}
        for left, right in self.pairs:
            near = [s for s in self.spans if s.stop > left.start and s.start < right.stop]
            share = overlap(left, *NAMES)
            assert share is not None
            found["overlap"].append(100 * share)
            found["pause"].append(1e-6 * pause(left, right, near))
            _, end = left.times("LLM")[-1]
            begin = min(right.times(name)[0][0] for name in NAMES)
            found["from model to model"].append(1e-6 * (begin - end))
            time = right.start - left.start
            found["idle"].append(100 * idle(left.start, right.start, near) / time)
            drafting = union([*left.times(NAMES[0]), *left.times(NAMES[1])])
            found["drafting"].append(1e-6 * length(drafting))
            found["LLM"].append(1e-6 * length(left.times("LLM")))
            found["iteration"].append(1e-6 * time)
        return found

    def quickest(self) -> tuple[Iteration, Iteration]:
        """The two iterations that took the least time: others were held up most by strangers."""
        return min(self.pairs, key=lambda pair: pair[1].stop - pair[0].start)


def measure(options: argparse.Namespace) -> tuple[list[Row], dict[str, Seen], bool]:
    """Run all modes in turn; returns the figures, what was seen, and whether texts are equal."""
    modes = {name: Mode.of(*how, options) for name, how in MODES.items()}
    front = modes["serial"].llm
    own = compile_graph(front.plan().graph).num_layers
    models = {own: "LLM"} | {s.prefix_layers: n for s, n in zip(SSMS, NAMES, strict=True)}
    fitting = (p for p in prompt_set("mtbench").values() if len(front.encode(p)) <= options.longest)
    prompts = list(islice(fitting, options.prompts))
    for turn in track(range(-options.warm, options.repeats), "runs", console=STDERR):
        for mode in modes.values():
            mode.run(prompts, counts=turn >= 0)
    texts = [text for mode in modes.values() for text in mode.texts]
    is_equal = all(text == texts[0] for text in texts)
    seen = {name: Seen.of(mode, models) for name, mode in modes.items()}
    rows = [
        _row(f"{MODEL}/{name}/speed", mode.speeds, "tokens/s", {"equal texts": is_equal})
        for name, mode in modes.items()
    ]
    rows += [
        _row(f"{MODEL}/{name}/{figure}", values, FIGURES[figure], {})
        for name, found in seen.items()
        for figure, values in found.figures().items()
    ]
    return rows, seen, is_equal


def _row(name: str, values: Sequence[float], unit: str, against: Mapping[str, Any]) -> Row:
    low, _, high = quantiles(values, n=4)
    return Row(
        name=name,
        value=median(values),
        unit=unit,
        spread=stdev(values),
        against={"count": len(values), "quarter": low, "three quarters": high, **against},
    )


def table(rows: Sequence[Row]) -> str:
    """A line for each mode: medians, and the quarters around them."""
    found = {tuple(row.name.split("/")[1:]): row for row in rows}
    units = {"speed": "tokens/s"} | FIGURES
    lines = []
    for mode in MODES:
        cells = [found[mode, figure] for figure in units]
        lines.append([mode, *(_cell(row) for row in cells)])
    return markdown(["mode", *(f"{name}, {unit}" for name, unit in units.items())], lines)


def _cell(row: Row) -> str:
    low, high = row.against["quarter"], row.against["three quarters"]
    return f"{row.value:.3g} ({low:.3g} to {high:.3g})"


def draw(path: Path, seen: Mapping[str, Seen], zoom_ms: float) -> None:
    """Draw two iterations of each mode on threads, and where one becomes the other.

    Args:
        path: of the PNG.
        seen: of each mode.
        zoom_ms: shown on both sides of the LLM's last task.
    """
    import matplotlib as mpl  # only plots need it

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    names = [name for name, (executor, _) in MODES.items() if executor == "threads"]
    figure, grid = pyplot.subplots(
        len(names), 2, figsize=(13, 4.6), dpi=120, width_ratios=(3, 2), squeeze=False
    )
    for (whole, near), name in zip(grid, names, strict=True):
        pair = seen[name].quickest()
        end = pair[0].times("LLM")[-1][1]
        for axes, origin in ((whole, pair[0].start), (near, end)):
            _lanes(axes, pair, origin)
            axes.axvline(1e-6 * (pair[1].start - origin), color="black", linewidth=1, ls=":")
        whole.set_title(f"lookahead {MODES[name][1]}: two iterations", fontsize=10)
        near.set_title("where the second begins", fontsize=10)
        whole.set_xlim(0, 1e-6 * (pair[1].stop - pair[0].start))
        near.set_xlim(-zoom_ms, zoom_ms)
        near.set_xlabel("ms from the end of the LLM's step")
        whole.set_xlabel("ms")
    handles = [Patch(color=colour, label=name) for name, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="upper center", ncols=len(handles), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    figure.savefig(path)
    pyplot.close(figure)


def _lanes(axes: Any, pair: Sequence[Iteration], origin: int) -> None:
    """A lane for each worker, the first on top."""
    lanes = sorted({span.row for one in pair for span in one.spans}, key=row_order)
    for place, lane in enumerate(lanes):
        for owner, colour in COLOURS.items():
            bars = [
                (1e-6 * (span.start - origin), 1e-6 * span.duration)
                for one in pair
                for span in one.tasks.get(owner, ())
                if span.row == lane
            ]
            axes.broken_barh(bars, (place - 0.4, 0.8), color=colour, linewidth=0)
    axes.set_yticks(range(len(lanes)), lanes)
    axes.invert_yaxis()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=2, help="all of them at once")
    parser.add_argument("--longest", type=int, default=96, help="most tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=32, help="most new tokens")
    parser.add_argument("--workers", type=int, default=2, help="of the executor of threads")
    parser.add_argument("--warm", type=int, default=2, help="runs that do not count")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--zoom-ms", type=float, default=6.0, help="of the picture")
    parser.add_argument("--write", action="store_true", help="write the result file and picture")
    options = parser.parse_args(arguments)
    rows, seen, is_equal = measure(options)
    print(table(rows))
    print("texts are equal" if is_equal else "texts differ")
    if options.write:
        print(write("pipeline", rows))
        draw(RESULTS / "pipeline.png", seen, options.zoom_ms)
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
