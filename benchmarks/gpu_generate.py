"""Whole iterations on a GPU: greedy texts with and without token trees, acceptance planted.

LLM and SSM have the shapes, and so the cost, of LLaMA-7B and of a LLaMA of 68M, and random weights,
but for three: attention and gated layers give 0 in the end, and the head knows for each token which
one follows it. So the LLM writes along a fixed permutation of the vocabulary. The SSM has the same
one, with the right successor at rank 1, 2 or 3 for given shares of the tokens, and at none for the
rest. Everything else is as it would be: speeds are those of real models that agree as often.

    python -m benchmarks.gpu_generate --write
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import median, stdev
from time import perf_counter

import torch
from torch import Tensor

from benchmarks.gpu_step import SHAPES, program_of
from benchmarks.report import Row, markdown, write
from specinfer.models.batch import BatchLimits
from specinfer.models.model import Model, weight_regions
from specinfer.runtime.context import Runtime
from specinfer.scheduler.assembly import new_runtime
from specinfer.scheduler.decoder import Decoder
from specinfer.scheduler.engine import Engine
from specinfer.scheduler.kv_pages import KVPages, num_pages
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators.ssm import SSMSpeculator, level_sizes

SHARES = (0.7, 0.1, 0.05)
"""Of tokens whose successor the SSM has at rank 1, 2 and 3."""
EXPANSIONS = {
    "chain of 4": (1, 1, 1, 1),
    "chain of 8": (1,) * 8,
    "20 nodes": (2, 2, 1, 1, 1),
    "64 nodes": (3, 2, 2, 1, 1, 1),
}
BATCHES = (1, 4, 16)
LENGTH = 768
WARM = 3
"""Runs that do not count: a step is recorded, then captured, and only then replayed."""


def planted(
    name: str, order: Tensor, shares: Sequence[float], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Weights of a fused model that knows the successors of tokens.

    Args:
        name: of :data:`SHAPES`.
        order: (vocabulary,) the successor of each token.
        shares: of the tokens whose right successor has rank 1, 2, ...; all others have none.
        dtype: of weights.
    """
    program = program_of(name)
    weights: dict[str, Tensor] = {}
    for weight, shape in program.weights.items():
        if weight.endswith(("o_proj.weight", "down_proj.weight")):
            weights[weight] = torch.zeros(shape, dtype=dtype, device="cuda")
        elif len(shape) == 1:
            weights[weight] = torch.ones(shape, dtype=dtype, device="cuda")
        else:
            weights[weight] = torch.randn(shape, dtype=dtype, device="cuda").mul_(0.02)
    known = torch.nn.functional.normalize(weights["model.embed_tokens.weight"].float(), dim=1)
    head = torch.zeros_like(known)
    generator = torch.Generator("cuda").manual_seed(1)
    vocabulary = len(order)
    drawn = torch.rand(vocabulary, generator=generator, device="cuda")
    tokens = torch.arange(vocabulary, device="cuda")
    rank = torch.full((vocabulary,), len(shares), device="cuda")
    for at in reversed(range(len(shares))):
        rank[drawn < sum(shares[: at + 1])] = at
    for at in range(len(shares) + 1):  # before the right one come others, somebody else's
        wrong = order[(tokens + 7 * (1 + at)) % vocabulary]
        targets = torch.where(rank == at, order, wrong)
        head.index_add_(0, targets, known * (1 - 0.15 * at))
    weights["lm_head.weight"] = (head * 8).to(dtype)
    return weights


def make(
    name: str,
    runtime: Runtime,
    weights: dict[str, Tensor],
    requests: int,
    nodes: int,
) -> Decoder:
    """A decoder for so many requests with trees of so many nodes."""
    program = program_of(name)
    limits = BatchLimits(
        rows=max(256, requests * (1 + nodes)),
        requests=requests,
        context=LENGTH,
        nodes=max(256, 1 + nodes),
        logit_rows=requests * (1 + nodes),
    )
    regions = weight_regions(runtime, weights, f"{name}.")
    own = {weight: regions[weight] for weight in weights}
    slots = KVPages(requests * (num_pages(LENGTH) + 2), requests, max(1, nodes))
    dtype = next(iter(weights.values())).dtype
    return Decoder(Model(runtime, program, own, limits, slots.num_slots, dtype), slots)


def run(engine: Engine, batch: int, tokens: int, start: int) -> tuple[list[list[int]], float]:
    """Write texts; seconds of it, without the prompt's pass."""
    requests = [
        Request(
            id=start + i,
            prompt=[(37 * i + j) % 30000 for j in range(100)],
            max_new_tokens=tokens,
            eos_ids=frozenset({-1}),
        )
        for i in range(batch)
    ]
    for request in requests:
        engine.submit(request)
    while any(not request.output for request in requests):
        engine.step()
    written = sum(len(request.output) for request in requests)
    begin = perf_counter()
    for _ in engine.run():
        pass
    seconds = perf_counter() - begin
    outputs = [request.output for request in requests]
    return outputs, (sum(map(len, outputs)) - written) / seconds


def measure(options: argparse.Namespace) -> list[Row]:
    """All modes at all batches."""
    torch.set_grad_enabled(False)
    dtype = getattr(torch, options.dtype)
    vocabulary = SHAPES[options.llm]["vocab_size"]
    order = torch.randperm(
        vocabulary, generator=torch.Generator("cuda").manual_seed(0), device="cuda"
    )
    llm = planted(options.llm, order, (1.0,), dtype)
    ssm = planted(options.ssm, order, SHARES, dtype)
    rows = []
    for batch in options.batches:
        plain: float | None = None
        texts = None
        for mode, expansion in {"plain": (), **EXPANSIONS}.items():
            nodes = sum(level_sizes(expansion)) if expansion else 0
            with new_runtime("serial", dtype, device="cuda") as runtime:
                speculators = []
                if expansion:
                    drafter = make(options.ssm, runtime, ssm, batch, nodes)
                    speculators = [SSMSpeculator("ssm", drafter, expansion)]
                decoder = make(options.llm, runtime, llm, batch, nodes)
                engine = Engine(decoder, speculators, lookahead=1, lanes=True)
                speeds = []
                for turn in range(WARM + options.repeats):
                    outputs, speed = run(engine, batch, options.tokens, 1000 * turn)
                    texts = texts or outputs
                    if outputs != texts:
                        raise SystemExit(f"{mode}, batch {batch}: other texts than plain decoding")
                    if turn >= WARM:
                        speeds.append(speed)
                per_step = engine.stats.tokens_per_step if expansion else 1.0
            value = median(speeds)
            plain = plain or value
            against = {
                "over plain": value / plain,
                "tokens per step": per_step,
                "efficiency": value / plain / per_step,
            }
            name = f"{options.llm}/{batch}/{mode}"
            spread = stdev(speeds) if len(speeds) > 1 else None
            rows.append(
                Row(name=name, value=value, unit="tokens/s", spread=spread, against=against)
            )
            print(name, f"{value:.1f}", against, file=sys.stderr, flush=True)
            torch.cuda.empty_cache()
    return rows


def table(rows: Sequence[Row]) -> str:
    """A line for each mode."""
    lines = [
        [row.name, f"{row.value:.1f}", *(f"{value:.2f}" for value in row.against.values())]
        for row in rows
    ]
    head = ["LLM/batch/mode", "tokens/s", "over plain", "tokens per step", "efficiency"]
    return markdown(head, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llm", default="llama-7b", choices=list(SHAPES))
    parser.add_argument("--ssm", default="llama-68m", choices=list(SHAPES))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the result file")
    options = parser.parse_args(arguments)
    rows = measure(options)
    print(table(rows))
    if options.write:
        print(write("gpu_generate", rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
