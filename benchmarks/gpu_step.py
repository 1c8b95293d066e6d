"""What a step of the LLM costs on a GPU, by rows and by what is committed: one request, one tree.

Weights are random: a step costs what the model's shapes cost. Each step is the replay of a trace,
one CUDA graph, and what sends the batch before it. The floor is the time to read the weights and
the committed K/V once at the speed of a plain read, measured in the same run.

    python -m benchmarks.gpu_step --write
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from math import prod
from statistics import median, stdev
from time import perf_counter
from typing import Any

import torch

from benchmarks.report import Row, markdown, write
from specinfer.models.batch import BatchLimits
from specinfer.models.compiler import Program, compile_graph
from specinfer.models.definition import definition_for
from specinfer.models.fusion import fuse
from specinfer.models.model import Model, weight_regions
from specinfer.runtime.context import Runtime
from specinfer.scheduler.assembly import new_runtime
from specinfer.scheduler.decoder import Decoder, Work
from specinfer.scheduler.kv_pages import KVPages, num_pages
from specinfer.scheduler.token_tree import TokenTree

SHAPES: dict[str, dict[str, Any]] = {
    "llama-7b": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "llama-68m": {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 2,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
    },
}
"""Models by name: what tells their sizes, as in a ``config.json``."""
OTHERS = {
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
ROWS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128)
CONTEXTS = (128, 1024)
STEPS = 20


def program_of(name: str) -> Program:
    """What a GPU runs of a model of :data:`SHAPES`."""
    config = SHAPES[name] | OTHERS
    return fuse(compile_graph(definition_for(config).build(config)))


def random_weights(program: Program, dtype: torch.dtype, scale: float = 0.02) -> dict[str, Any]:
    """Weights on the GPU, of the right shapes."""
    return {
        name: torch.randn(shape, dtype=dtype, device="cuda").mul_(scale)
        for name, shape in program.weights.items()
    }


def make_decoder(
    name: str, runtime: Runtime, dtype: torch.dtype, nodes: int, length: int
) -> Decoder:
    """A model of random weights, with K/V for one request."""
    program = program_of(name)
    limits = BatchLimits(
        rows=1 + nodes, requests=1, context=length, nodes=1 + nodes, logit_rows=1 + nodes
    )
    weights = weight_regions(runtime, random_weights(program, dtype))
    slots = KVPages(num_pages(length) + 1, 1, nodes)
    model = Model(runtime, program, weights, limits, slots.num_slots, dtype)
    for field in ("k", "v"):
        runtime.read(model.kv.part(None, field)).normal_()
    return Decoder(model, slots)


def random_tree(nodes: int, seed: int) -> TokenTree:
    """A tree of so many nodes, the root among them."""
    generator, tree = random.Random(seed), TokenTree(1)
    while len(tree) < nodes:
        tree.add(generator.randrange(len(tree)), generator.randrange(30000))
    return tree


def time_step(decoder: Decoder, rows: int, context: int, repeats: int) -> list[float]:
    """Milliseconds of a step, of so many that follow each other at once."""
    slots = decoder.slots
    slots.admit(0, [0])
    slots.grow(0, context + 16)
    slots.commit(0, context)
    batch = decoder.frame([Work.of_tree(0, random_tree(rows, rows), chain=[1])])
    for _ in range(4):
        decoder.model.forward(batch)
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        for _ in range(STEPS):
            decoder.model.forward(batch)
        decoder.model.runtime.fence()
        times.append(1e3 * (perf_counter() - start) / STEPS)
    slots.release(0)
    return times


def read_speed() -> float:
    """Bytes a second of a plain read of a large array."""
    array = torch.empty(1 << 30, dtype=torch.int32, device="cuda").zero_()
    array.amax()
    torch.cuda.synchronize()
    start = perf_counter()
    for _ in range(STEPS):
        array.amax()
    torch.cuda.synchronize()
    return STEPS * array.nbytes / (perf_counter() - start)


def measure(names: Sequence[str], dtype: torch.dtype, repeats: int) -> list[Row]:
    """All steps of some models."""
    speed = read_speed()
    rows = [Row(name="read", value=speed / 1e12, unit="TB/s")]
    for name in names:
        torch.set_grad_enabled(False)
        with new_runtime("serial", dtype, device="cuda") as runtime:
            decoder = make_decoder(name, runtime, dtype, max(ROWS), max(CONTEXTS) + 256)
            program = decoder.model.program
            weights = sum(map(prod, program.weights.values())) * dtype.itemsize
            per_token = 2 * program.num_layers * program.kv_heads * program.head_size
            for context in CONTEXTS:
                first = None
                for count in ROWS:
                    times = time_step(decoder, count, context, repeats)
                    value = median(times)
                    first = first or value
                    floor = 1e3 * (weights + per_token * context * dtype.itemsize) / speed
                    against = {"floor": floor, "over floor": value / floor, "over 1": value / first}
                    rows.append(
                        Row(
                            name=f"{name}/{context}/{count}",
                            value=value,
                            unit="ms",
                            spread=stdev(times),
                            against=against,
                        )
                    )
        del decoder, runtime
        torch.cuda.empty_cache()
    return rows


def table(rows: Sequence[Row]) -> str:
    """A line for each step."""
    lines = []
    for row in rows:
        cells = [f"{value:.3f}" for value in row.against.values()]
        lines.append([row.name, f"{row.value:.3f} {row.unit}", *(cells or ["", "", ""])])
    return markdown(["model/committed/rows", "step", "floor, ms", "over it", "over 1 row"], lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="write the result file")
    options = parser.parse_args(arguments)
    rows = measure(options.models, getattr(torch, options.dtype), options.repeats)
    print(table(rows))
    if options.write:
        print(write("gpu_step", rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
