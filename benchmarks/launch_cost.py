"""What a launch costs the host: analysed and replayed, one by one and as a decoder's step.

Tasks do nothing here, so all time is the runtime's. The decoder's step is that of SmolLM2-135M
(one row), with every operator's function replaced by one that returns at once.

    python -m benchmarks.launch_cost
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median, stdev
from typing import Any

import torch

from benchmarks.report import Row, markdown, write
from specinfer.models.batch import BatchLimits, load_batch
from specinfer.models.compiler import Program, compile_graph
from specinfer.models.definition import definition_for
from specinfer.models.inspection import one_row
from specinfer.models.model import Model, weight_regions
from specinfer.ops.attention import PAGE_SLOTS, plan_attention
from specinfer.runtime.context import Runtime
from specinfer.runtime.dependence import DependenceAnalyzer, Requirement
from specinfer.runtime.executor.record import RecordingExecutor
from specinfer.runtime.mapper import Mapper
from specinfer.runtime.mesh import line
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.task import Task, Variant, task

LAUNCHES = 300
REPEATS = 25
IDLE = "idle"
"""A kind of processor whose variants do nothing."""

SMOLLM2 = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}
GOALS_MICROSECONDS = {
    "analysis of a launch": 10.0,
    "launch, analysed": 15.0,
    "launch, replayed": 1.0,
    "decoder step, analysed": 4500.0,
    "decoder step, replayed": 100.0,
}


class NoReplay(Mapper):
    """Has every launch analysed."""

    def replays(self, trace: str) -> bool:
        """Never."""
        return False


@task(x=R, y=R, z=WD, pure=True)
def nothing(x: Any, y: Any, z: Any, number: int) -> None:
    """Do nothing."""


def idle(*_: Any) -> None:
    """Take the place of any task's function."""


@contextmanager
def idle_variants(tasks: set[Task]) -> Iterator[None]:
    """Give tasks a variant that does nothing, for a while."""
    for each in tasks:
        each.variants[IDLE] = Variant(idle)
    try:
        yield
    finally:
        for each in tasks:
            del each.variants[IDLE]


def times(run: Callable[[], object], repeats: int, per: int) -> list[float]:
    """Microseconds of each run, divided by ``per``."""
    run()
    run()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        found.append((time.perf_counter() - start) * 1e6 / per)
    return found


def single_launches(runtime: Runtime) -> Callable[[int], None]:
    """A chain-like program of launches with three region arguments and a value."""
    parts = [runtime.region(f"r{i}", (64, 64), {"value": "float32"}).part() for i in range(8)]

    def body(number: int) -> None:
        for i in range(LAUNCHES):
            x, y, z = parts[i % 8], parts[(i + 3) % 8], parts[(i + 5) % 8]
            runtime.launch(nothing, x=x, y=y, z=z, number=number)

    return body


def analysis_alone() -> Callable[[], None]:
    """Find the dependences of the same launches, with 300 of them still running."""
    runtime = Runtime(RecordingExecutor())
    space = runtime.region("r", (64, 64), {"value": "float32"}).space
    needs = [
        [
            Requirement((i % 8, "value"), space, R),
            Requirement(((i + 3) % 8, "value"), space, R),
            Requirement(((i + 5) % 8, "value"), space, WD),
        ]
        for i in range(8)
    ]
    analyzer, number = DependenceAnalyzer(), 0

    def run() -> None:
        nonlocal number
        for i in range(LAUNCHES):
            analyzer.launch(number, needs[i % 8])
            analyzer.complete(number - LAUNCHES)
            number += 1

    return run


def decoder(runtime: Runtime, program: Program) -> Model:
    """A model without weights: nothing is computed."""
    weights = {n: torch.empty(shape, device="meta") for n, shape in program.weights.items()}
    limits = BatchLimits(rows=1, requests=1, context=PAGE_SLOTS, nodes=1, logit_rows=1)
    regions = weight_regions(runtime, weights)
    return Model(runtime, program, regions, limits, 2 * PAGE_SLOTS)


def measure(repeats: int) -> dict[str, list[float]]:
    """Microseconds by name; of a launch, or of a whole step."""
    found = {"analysis of a launch": times(analysis_alone(), repeats, LAUNCHES)}
    body = single_launches(Runtime())
    found["launch, analysed"] = times(lambda: body(1), repeats, LAUNCHES)
    runtime = Runtime()
    trace = runtime.trace("launches", single_launches(runtime), strict=True)
    found["launch, replayed"] = times(lambda: trace(number=1), repeats, LAUNCHES)

    program = compile_graph(definition_for(SMOLLM2).build(SMOLLM2))
    tasks = {step.task for step in program.steps} | {load_batch, plan_attention}
    with idle_variants(tasks):
        batch = one_row()
        analysing = decoder(Runtime(mapper=NoReplay(line(1), (IDLE,))), program)
        found["decoder step, analysed"] = times(lambda: analysing.forward(batch), repeats, 1)
        replaying = decoder(Runtime(processors=(IDLE,)), program)
        found["decoder step, replayed"] = times(lambda: replaying.forward(batch), repeats, 1)
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=REPEATS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    rows = [
        Row(
            name=name,
            value=median(values),
            unit="us",
            spread=stdev(values),
            against={"goal": GOALS_MICROSECONDS[name], "least": min(values)},
        )
        for name, values in measure(args.repeats).items()
    ]
    header = ("host time, one core", "median us", "spread", "least", "goal")
    lines = [(r.name, r.value, r.spread, r.against["least"], r.against["goal"]) for r in rows]
    print(markdown(header, lines))
    print(write("launch_cost", rows))


if __name__ == "__main__":
    main()
