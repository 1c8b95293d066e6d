"""Tree-based against sequence-based decoding, and what a step costs by width of the tree and batch.

Sequence-based decoding computes each path from the root to a leaf as a sequence of its own, with
its own copy of the text's K/V (Miao et al., SpecInfer, ASPLOS 2024, section 4.2 and figure 11);
tree-based decoding computes every node once. Both are one forward pass here, over the same rows of
the same model. Weights are random: time does not depend on them.

    python -m benchmarks.tree_decoding [--shape smollm2-135m] [--batches 1 2 4 8 16]
    python -m benchmarks.tree_decoding --shape llama-7b --device cuda --dtype bfloat16 --steps 10
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from rich.progress import track

from benchmarks.launch_cost import SMOLLM2
from benchmarks.replay import WIDTHS, expansion
from benchmarks.report import RESULTS, Row, markdown, plot, write
from specinfer.models.compiler import compile_graph
from specinfer.models.definition import definition_for
from specinfer.scheduler.bench.loading import Loaded, Place
from specinfer.scheduler.bench.report import repeated
from specinfer.scheduler.bench.shapes import config_of, random_weights
from specinfer.scheduler.bench.timing import Clock, waiter
from specinfer.scheduler.decoder import Work
from specinfer.scheduler.token_tree import TokenTree

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": SMOLLM2,
    **{name: config_of(name) for name in ("llama-68m", "llama-7b")},
}
PATHS = max(WIDTHS)


def tree_of(width: int) -> TokenTree:
    """A full tree of the paper's expansion: ``width`` paths that part at the third level."""
    tree, frontier = TokenTree(0), [0]
    for children in expansion(width):
        frontier = [tree.add(node, token) for node in frontier for token in range(children)]
    return tree


def works(width: int, batch: int, *, as_tree: bool) -> list[Work]:
    """A step's work: for each request a tree, or each path of it as a request."""
    tree = tree_of(width)
    if as_tree:
        return [Work.of_tree(request, tree, chain=[0]) for request in range(batch)]
    leaves = [node for node in range(len(tree)) if not tree.children(node)]
    depth = len(expansion(width))
    line = list(range(-1, depth - 1))
    return [
        Work(request=n, chain=[0], tokens=tree.path(leaf)[1:], parents=line)
        for n, leaf in enumerate(leaf for _ in range(batch) for leaf in leaves)
    ]


def measure(
    shape: str, place: Place, batches: Sequence[int], context: int, clock: Clock
) -> list[Row]:
    """Milliseconds of each step; those of a batch take turns."""
    program = compile_graph(definition_for(SHAPES[shape]).build(SHAPES[shape]))
    tensors = random_weights(program.weights, place.dtype, place.device)
    model = Loaded.of(shape, place, program, tensors)
    most, nodes = max(batches) * PATHS, len(tree_of(PATHS)) - 1
    length = context + 2 * len(WIDTHS) + 2  # each way's root is one more token of the text
    decoder = model.decoder(most, nodes, length)
    for field in ("k", "v"):
        place.runtime.read(decoder.model.kv.part(None, field)).normal_()
    waiter(place.device)()
    rows = []
    for batch in track(batches, "batches"):
        for request in range(batch * PATHS):
            decoder.slots.admit(request, [0])
            decoder.slots.grow(request, length)
            decoder.slots.commit(request, context)
        asked = {"incremental": [Work(request=request, chain=[0]) for request in range(batch)]}
        for width in WIDTHS:
            asked[f"tree {width}"] = works(width, batch, as_tree=True)
            asked[f"sequences {width}"] = works(width, batch, as_tree=False)
        steps = {
            name: partial(decoder.model.forward, decoder.frame(w)) for name, w in asked.items()
        }
        seconds = clock.seconds(steps, place.runtime.fence, f"batch {batch}")
        for request in range(batch * PATHS):
            decoder.slots.release(request)
        for name, found in seconds.items():
            against = {"rows": sum(work.num_rows for work in asked[name])}
            times = [1e3 * one for one in found]
            rows.append(repeated(f"{shape}/batch {batch}/{name}", times, "ms", against))
    return rows


def tables(rows: Sequence[Row], shape: str, batches: Sequence[int]) -> str:
    """Sequences over trees, and trees over an incremental step, by width and batch."""
    found = {row.name.partition("/")[2]: row.value for row in rows}
    header = ["width", *(f"batch {batch}" for batch in batches)]
    by_sequences, by_step = [], []
    for width in WIDTHS:
        trees = [found[f"batch {b}/tree {width}"] for b in batches]
        others = [found[f"batch {b}/sequences {width}"] for b in batches]
        plain = [found[f"batch {b}/incremental"] for b in batches]
        by_sequences.append([width, *(o / t for o, t in zip(others, trees, strict=True))])
        by_step.append([width, *(t / p for t, p in zip(trees, plain, strict=True))])
    return (
        f"{shape}: time of sequence-based over tree-based decoding\n\n"
        f"{markdown(header, by_sequences)}\n\n"
        f"{shape}: time of a tree's step over that of an incremental one\n\n"
        f"{markdown(header, by_step)}"
    )


def main() -> None:
    """Measure, print, write, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--context", type=int, default=128, help="tokens of each text")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--steps", type=int, default=1, help="in a row, for one time")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    place = Place.new(args.device, getattr(torch, args.dtype))
    with place.runtime:
        clock = Clock(args.steps, args.repeats)
        rows = measure(args.shape, place, args.batches, args.context, clock)
    print(tables(rows, args.shape, args.batches))
    name = f"tree_decoding_{args.shape}"
    print(write(name, rows))
    found = {row.name.partition("/")[2]: row.value for row in rows}
    curves = {
        f"batch {b}": {
            float(w): found[f"batch {b}/sequences {w}"] / found[f"batch {b}/tree {w}"]
            for w in WIDTHS
        }
        for b in args.batches
    }
    path = RESULTS / f"{name}.png"
    plot(path, curves, x="width of the tree", y="time of sequences over trees")


if __name__ == "__main__":
    main()
