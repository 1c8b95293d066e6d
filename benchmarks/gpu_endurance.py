"""Whether memory grows over a long run: many requests on small random models, sampled now and then.

Requests of random lengths come and go, some of them sampled, until an engine has done so many
iterations: over lanes, and conducted by the host. Each number of bytes is told at the first sample
behind the warm-up, at the last one, and what lies between.

    python -m benchmarks.gpu_endurance --write
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import RESULTS, Row, markdown, write
from specinfer.models.batch import BatchLimits
from specinfer.models.compiler import compile_graph
from specinfer.models.definition import definition_for
from specinfer.models.fusion import fuse
from specinfer.models.model import Model, weight_regions
from specinfer.runtime.context import Runtime
from specinfer.scheduler.assembly import new_runtime
from specinfer.scheduler.decoder import Decoder
from specinfer.scheduler.engine import Engine
from specinfer.scheduler.kv_pages import KVPages, num_pages
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.speculators.ssm import SSMSpeculator, level_sizes

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
LAYERS = {"llm": 4, "ssm": 1}
EXPANSION = (2, 1, 1)
REQUESTS, LENGTH = 8, 512
MODES = ("lanes", "host")
SAMPLED_EVERY = 8
"""Waves of requests of which one samples: it goes through the host's verifiers."""


def engine_of(mode: str, runtime: Runtime, device: str, dtype: torch.dtype) -> Engine:
    """An engine of random models."""
    generator = torch.Generator(device).manual_seed(7)
    nodes = sum(level_sizes(EXPANSION))

    def decoder(name: str) -> Decoder:
        config = CONFIG | {"num_hidden_layers": LAYERS[name]}
        program = compile_graph(definition_for(config).build(config))
        program = program if device == "cpu" else fuse(program)
        weights = {
            weight: torch.randn(shape, generator=generator, device=device).mul_(0.1).to(dtype)
            for weight, shape in program.weights.items()
        }
        limits = BatchLimits(
            rows=256,
            requests=REQUESTS,
            context=LENGTH,
            nodes=256,
            logit_rows=REQUESTS * (1 + nodes),
        )
        slots = KVPages(REQUESTS * (num_pages(LENGTH) + 1), REQUESTS, nodes)
        regions = weight_regions(runtime, weights, f"{name}.")
        return Decoder(Model(runtime, program, regions, limits, slots.num_slots, dtype), slots)

    ssm = SSMSpeculator("ssm", decoder("ssm"), EXPANSION)
    return Engine(decoder("llm"), [ssm], lookahead=int(mode == "lanes"), lanes=True)


def request(id: int, chance: random.Random, *, is_sampled: bool) -> Request:
    """One of a random length."""
    made = Request(
        id=id,
        prompt=[chance.randrange(CONFIG["vocab_size"]) for _ in range(chance.randint(1, 200))],
        max_new_tokens=chance.randint(1, 200),
        eos_ids=frozenset({-1}),
    )
    if is_sampled:
        made.sampling = SamplingParams(temperature=0.8, seed=id)
    return made


def used(device: str) -> dict[str, int]:
    """Bytes in use, by who counts them."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    found = {"resident": pages * os.sysconf("SC_PAGE_SIZE")}
    if device != "cpu":
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        found |= {
            "allocated": torch.cuda.memory_allocated(),
            "reserved": torch.cuda.memory_reserved(),
            "driver": total - free,
        }
    return found


def endure(
    engine: Engine, iterations: int, every: int, sample: Callable[[], dict[str, int]]
) -> list[dict[str, int]]:
    """Serve for so many iterations; what was in use after each ``every`` of them."""
    chance, wave, next_id, done = random.Random(11), 0, 0, 0
    samples: list[dict[str, int]] = []
    while done < iterations:
        # In waves: a stretch over lanes needs that nobody waits to join.
        if engine.is_idle:
            wave += 1
            for _ in range(chance.randint(1, REQUESTS)):
                engine.submit(request(next_id, chance, is_sampled=wave % SAMPLED_EVERY == 0))
                next_id += 1
        engine.step()
        done = engine.stats.num_passes
        if done >= every * (1 + len(samples)):
            samples.append(sample())
    return samples


def rows_of(mode: str, samples: Sequence[dict[str, int]], every: int) -> list[Row]:
    """The growth of each number behind the first tenth, in which shapes are first met."""
    first, last = len(samples) // 10, len(samples) - 1
    return [
        Row(
            name=f"{mode}/{who}",
            value=(samples[last][who] - samples[first][who]) / 2**20,
            unit="MiB",
            against={
                "first": samples[first][who] / 2**20,
                "last": samples[last][who] / 2**20,
                "iterations": (last - first) * every,
            },
        )
        for who in samples[first]
    ]


def measure(options: argparse.Namespace) -> list[Row]:
    """A run of each mode."""
    torch.set_grad_enabled(False)
    rows: list[Row] = []
    dtype = getattr(torch, options.dtype)
    for mode in MODES:
        with new_runtime("serial", dtype, device=options.device) as runtime:
            engine = engine_of(mode, runtime, options.device, dtype)
            samples = endure(
                engine, options.iterations, options.every, lambda: used(options.device)
            )
            share = engine.stats.num_by_lanes / engine.stats.num_passes
        rows += rows_of(mode, samples, options.every)
        rows.append(Row(name=f"{mode}/share over lanes", value=share, unit=""))
    return rows


def table(rows: Sequence[Row]) -> str:
    """A line for each number."""
    lines = [
        [row.name, f"{row.value:.2f} {row.unit}", *(f"{v:.1f}" for v in row.against.values())]
        for row in rows
    ]
    head = ["mode/bytes", "growth", "first", "last", "iterations"]
    return markdown(head, [[*line, *[""] * (len(head) - len(line))] for line in lines])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--iterations", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=500, help="iterations between samples")
    parser.add_argument("--write", action="store_true", help="write the result file")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where to")
    options = parser.parse_args(arguments)
    rows = measure(options)
    print(table(rows))
    if options.write:
        print(write("gpu_endurance", rows, options.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
