"""What a step of an SSM costs, against a step of the model that it stands in for.

python -m benchmarks.draft_cost ssms/ssm-1 --against qwen2.5-coder-0.5b [--dtype bfloat16] [--write]

Steps of one row behind a prefix, as a chain of guesses has them; the models take turns. Besides the
time stands what there is to read: of both it is nearly all of the cost.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from math import prod
from statistics import median, stdev
from time import perf_counter

import torch
from rich.progress import track

from benchmarks.report import Row, markdown, write
from benchmarks.writing import STDERR, Loaded, load
from specinfer.scheduler.decoder import Decoder, Work

PREFIX = 256
LENGTH = 512


def ready(model: Loaded) -> Decoder:
    """A decoder with a text of so many tokens."""
    decoder = model.decoder(requests=1, nodes=1, length=LENGTH)
    decoder.slots.reserve(0, LENGTH)
    chain = [number % 1000 for number in range(PREFIX)]
    decoder.step([Work(request=0, chain=chain, chain_logits=False)])
    return decoder


def megabytes(model: Loaded) -> float:
    """Of the weights that a step reads: all but a table of which it reads one row."""
    shapes = model.program.weights
    tied = model.checkpoint.config.get("tie_word_embeddings", False)
    names = (name for name in shapes if tied or "embed_tokens" not in name)
    return sum(prod(shapes[name]) for name in names) * model.dtype.itemsize / 1e6


def measure(models: Sequence[tuple[str, Loaded]], repeats: int) -> Iterator[Row]:
    """A row for each model, against the last of them."""
    decoders = [ready(model) for _, model in models]
    times: list[list[float]] = [[] for _ in models]
    work = Work(request=0, tokens=[7], parents=[-1])
    for number in track(range(repeats + 3), "steps", console=STDERR):
        for decoder, found in zip(decoders, times, strict=True):
            start = perf_counter()
            decoder.step([work])
            if number >= 3:  # recorded, verified, warm
                found.append(1000 * (perf_counter() - start))
    last, most = median(times[-1]), megabytes(models[-1][1])
    for (name, model), found in zip(models, times, strict=True):
        yield Row(
            name=f"{name.rstrip('/').rsplit('/', 1)[-1]}/step of one row",
            value=median(found),
            unit="ms",
            spread=stdev(found),
            against={
                "of the last": median(found) / last,
                "MB": megabytes(model),
                "of the last's MB": megabytes(model) / most,
            },
        )


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ssms", nargs="+", help="folders or names of small models")
    parser.add_argument("--against", default="qwen2.5-coder-0.5b", metavar="MODEL")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--write", action="store_true", help="keep the figures in results/")
    options = parser.parse_args()
    names = [*options.ssms, options.against]
    torch.set_grad_enabled(False)
    models = [(name, load(name, getattr(torch, options.dtype))) for name in names]
    rows = list(measure(models, options.repeats))
    header = ("", "ms", "spread", "of the last", "MB", "of the last's MB")
    print(markdown(header, [[r.name, r.value, r.spread, *r.against.values()] for r in rows]))
    if options.write:
        print(write(f"draft_cost_{options.dtype}", rows))


if __name__ == "__main__":
    main()
