"""Tree-based against sequence-based decoding, and what a step costs by width of the tree and batch.

Sequence-based decoding computes each path from the root to a leaf as a sequence of its own, with
its own copy of the text's K/V (Miao et al., SpecInfer, ASPLOS 2024, section 4.2 and figure 11);
tree-based decoding computes every node once. Both are one forward pass here, over the same rows of
the same model. Weights are random: time does not depend on them.

    python -m benchmarks.tree_decoding [--shape smollm2-135m] [--batches 1 2 4 8 16]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import median, stdev
from time import perf_counter
from typing import Any

import torch
from rich.progress import track

from benchmarks.launch_cost import SMOLLM2
from benchmarks.replay import WIDTHS, expansion
from benchmarks.report import RESULTS, Row, markdown, plot, write
from specinfer.models.batch import BatchLimits
from specinfer.models.compiler import compile_graph
from specinfer.models.definition import definition_for
from specinfer.models.model import Model, weight_regions
from specinfer.runtime.context import Runtime
from specinfer.scheduler.decoder import Decoder, Work
from specinfer.scheduler.kv_pages import KVPages, num_pages
from specinfer.scheduler.token_tree import TokenTree

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": SMOLLM2,
    "llama-68m": {
        **SMOLLM2,
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 2,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "tie_word_embeddings": False,
    },
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


class Bench:
    """A model of a shape with texts of one length.

    Args:
        config: its shape.
        batch: most requests.
        context: tokens of each text.
    """

    def __init__(self, config: dict[str, Any], batch: int, context: int) -> None:
        program = compile_graph(definition_for(config).build(config))
        requests, nodes = batch * PATHS, len(tree_of(PATHS))
        rows = max(batch * nodes, requests * (1 + len(expansion(1))), context)
        limits = BatchLimits(
            rows=rows,
            requests=requests,
            context=context + 16,
            nodes=max(nodes, context),
            logit_rows=rows,
        )
        slots = KVPages(requests * num_pages(context + 16), requests, nodes)
        runtime = Runtime()
        weights = {n: 0.02 * torch.randn(shape) for n, shape in program.weights.items()}
        model = Model(runtime, program, weight_regions(runtime, weights), limits, slots.num_slots)
        self._decoder = Decoder(model, slots)
        self._context = context
        for request in range(requests):
            slots.reserve(request, context + 16)
            chain = [request % 7] * context
            self._decoder.step([Work(request=request, chain=chain, chain_logits=False)])

    def _hold(self, request: int) -> None:
        """Have a text be as long as before."""
        slots = self._decoder.slots
        slots.release(request)
        slots.reserve(request, self._context + 16)
        slots.commit(request, self._context)

    def seconds(self, asked: Sequence[Work], repeats: int) -> list[float]:
        """Of a step, some times; texts stay as they are."""
        found = []
        for _ in range(repeats + 3):  # recorded, verified, warm
            start = perf_counter()
            self._decoder.step(asked)
            found.append(perf_counter() - start)
            for work in asked:
                self._hold(work.request)
        return found[3:]


def measure(shape: str, batches: Sequence[int], context: int, repeats: int) -> list[Row]:
    """Milliseconds of each step."""
    rows = []
    for batch in track(batches, "batches"):
        bench = Bench(SHAPES[shape], batch, context)
        plain = [Work(request=request, chain=[0]) for request in range(batch)]
        asked = {"incremental": plain}
        for width in WIDTHS:
            asked[f"tree {width}"] = works(width, batch, as_tree=True)
            asked[f"sequences {width}"] = works(width, batch, as_tree=False)
        for name, step in asked.items():
            times = [1e3 * t for t in bench.seconds(step, repeats)]
            count = sum(work.num_rows for work in step)
            rows.append(
                Row(
                    name=f"{shape}/batch {batch}/{name}",
                    value=median(times),
                    unit="ms",
                    spread=stdev(times),
                    against={"rows": count},
                )
            )
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
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    rows = measure(args.shape, args.batches, args.context, args.repeats)
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
