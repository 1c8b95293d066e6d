"""A million sampled texts through the real engine: is their law the LLM's?

A tiny LLM of three tokens with SSMs that are nearly right writes texts of which the first three
tokens count. All 27 texts have a known probability; chi-square tells whether the counts fit it, for
every verifier and several kinds of drafts.

    python -m benchmarks.sampling_law [--draws 1000000] [--jobs 2]
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from benchmarks.report import Row, markdown, write
from specinfer.models.batch import BatchLimits
from specinfer.models.compiler import compile_graph
from specinfer.models.definition import definition_for
from specinfer.models.model import Model, weight_regions
from specinfer.runtime.context import Runtime
from specinfer.scheduler.decoder import Decoder, Work
from specinfer.scheduler.engine import Engine
from specinfer.scheduler.kv_pages import KVPages, num_pages
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.speculators.ssm import SSMSpeculator, most_nodes

VOCABULARY, LENGTH, REQUESTS, CONTEXT = 3, 3, 64, 32
PROMPT = [1, 2, 0]
CONFIG = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 12,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
PART = 2000
"""Texts of an engine."""

Shape = tuple[tuple[int, ...], ...]
DRAFTS: dict[str, tuple[Shape, bool]] = {
    "an SSM <2,2>": (((2, 2),), False),
    "two SSMs <1,1> and n-grams": (((1, 1), (1, 1)), True),
}
"""By name: expansions of SSMs, and whether n-grams are merged."""

VERIFIERS = ("coupled", "mss", "mss_without_replacement", "naive")


def weights(seed: int, noise: float) -> dict[str, Tensor]:
    """The LLM's weights, and a little noise."""
    shapes = compile_graph(definition_for(CONFIG).build(CONFIG)).weights
    base, own = torch.Generator().manual_seed(6), torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=base)
        values = 1 + values / 8 if "norm" in name else 0.4 * values
        found[name] = values + noise * torch.randn(shape, generator=own)
    return found


def decoder(runtime: Runtime, nodes: int, seed: int = 0, noise: float = 0.0) -> Decoder:
    """A model for trees of so many nodes."""
    rows = REQUESTS * (1 + nodes)
    limits = BatchLimits(
        rows=rows, requests=REQUESTS, context=CONTEXT, nodes=1 + nodes, logit_rows=rows
    )
    slots = KVPages(REQUESTS * (num_pages(CONTEXT) + 1), REQUESTS, max(1, nodes))
    regions = weight_regions(runtime, weights(seed, noise), f"{seed}.")
    program = compile_graph(definition_for(CONFIG).build(CONFIG))
    return Decoder(Model(runtime, program, regions, limits, slots.num_slots), slots)


def engine(verifier: str, drafts: str) -> Engine:
    """A new one."""
    runtime = Runtime()
    shapes, has_ngrams = DRAFTS[drafts]
    speculators: list[Speculator] = [
        SSMSpeculator(f"ssm{n}", decoder(runtime, most_nodes(shape)[1], n, 0.2), shape)
        for n, shape in enumerate(shapes, start=1)
    ]
    if has_ngrams:
        speculators.append(NGramSpeculator(4, min_match=1))
    nodes = sum(speculator.max_nodes for speculator in speculators)
    return Engine(decoder(runtime, nodes), speculators, verifier=verifier)


def count(verifier: str, drafts: str, first: int, texts: int) -> tuple[Counter[Any], float]:
    """First tokens of texts with seeds from ``first`` on, and the tokens per step."""
    torch.set_num_threads(1)
    made = engine(verifier, drafts)
    requests = [
        Request(
            id=seed,
            prompt=PROMPT,
            max_new_tokens=2 * LENGTH,
            sampling=SamplingParams(temperature=1.0, seed=seed),
        )
        for seed in range(first, first + texts)
    ]
    for request in requests:
        made.submit(request)
    for _ in made.run():
        pass
    found = Counter(tuple(request.output[:LENGTH]) for request in requests)
    return found, made.stats.tokens_per_step


def law() -> dict[tuple[int, ...], float]:
    """The probability of each text: one pass over each, without trees."""
    llm = decoder(Runtime(), 0)
    found = {}
    for text in product(range(VOCABULARY), repeat=LENGTH):
        probability = 1.0
        for at, token in enumerate(text):
            llm.slots.reserve(0, CONTEXT)
            for one in (*PROMPT, *text[:at])[:-1]:
                llm.step([Work(request=0, chain=[one], chain_logits=False)])
            logits = llm.step([Work(request=0, chain=[(*PROMPT, *text[:at])[-1]])])
            row = torch.softmax(llm.model.runtime.read(logits)[0].double(), -1)
            probability *= float(row[token])
            llm.slots.release(0)
        found[text] = probability
    return found


def tail(chi_square: float, degrees: int) -> float:
    """The probability of a larger chi-square (Wilson and Hilferty's approximation)."""
    spread = 2 / (9 * degrees)
    z = ((chi_square / degrees) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return math.erfc(z / math.sqrt(2)) / 2


def measure(draws: int, jobs: int) -> list[Row]:
    """Chi-square of every pair of verifier and drafts."""
    expected, rows = law(), []
    pairs = [(verifier, drafts) for verifier in VERIFIERS for drafts in DRAFTS]
    texts = draws // len(pairs)
    with ProcessPoolExecutor(jobs) as pool:
        asked: list[tuple[str, str, Any]] = []
        for number, (verifier, drafts) in enumerate(pairs):
            for at in range(0, texts, PART):
                first, size = number * texts + at, min(PART, texts - at)
                asked.append((verifier, drafts, pool.submit(count, verifier, drafts, first, size)))
        counts: dict[tuple[str, str], Counter[Any]] = {pair: Counter() for pair in pairs}
        steps: dict[tuple[str, str], float] = {}
        for verifier, drafts, job in track(asked, "texts"):
            found, per_step = job.result()
            counts[verifier, drafts] += found
            steps[verifier, drafts] = per_step
    for (verifier, drafts), found in counts.items():
        total = found.total()
        chi_square = sum((found[t] - total * p) ** 2 / (total * p) for t, p in expected.items())
        against = {
            "degrees of freedom": len(expected) - 1,
            "probability of more": tail(chi_square, len(expected) - 1),
            "texts": total,
            "tokens per step": steps[verifier, drafts],
        }
        rows.append(
            Row(name=f"{verifier}/{drafts}", value=chi_square, unit="chi-square", against=against)
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if a law is refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=1_000_000, help="texts of all pairs together")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    asked = parser.parse_args(arguments)
    rows = measure(asked.draws, asked.jobs)
    cells = [
        [
            *row.name.split("/"),
            row.value,
            f"{row.against['probability of more']:.3f}",
            row.against["texts"],
            row.against["tokens per step"],
        ]
        for row in rows
    ]
    header = ["verifier", "drafts", "chi-square (26)", "p", "texts", "tokens per step"]
    print(markdown(header, cells))
    print(write("sampling_law", rows))
    return int(any(row.against["probability of more"] < 1e-4 for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
