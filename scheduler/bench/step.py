"""What a step of a model costs, by requests, committed tokens and rows of each request.

One row is decoding; more are the nodes of a tree that is verified. A step is the replay of a trace
and what sends the batch before it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from specinfer.models.batch import TokenBatch
from specinfer.scheduler.bench.ceilings import Ceilings
from specinfer.scheduler.bench.loading import Loaded
from specinfer.scheduler.bench.report import Row, repeated
from specinfer.scheduler.bench.timing import Clock, waiter
from specinfer.scheduler.decoder import Decoder, Work
from specinfer.scheduler.token_tree import TokenTree

HEADS = ("model", "requests", "committed", "rows")
"""What the parts of a row's name are."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The steps to time.

    Attributes:
        requests: in a step.
        contexts: committed tokens of each request.
        rows: of each request.
    """

    requests: Sequence[int] = (1, 8)
    contexts: Sequence[int] = (128, 1024)
    rows: Sequence[int] = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128)


def measure_steps(model: Loaded, sizes: Sizes, ceilings: Ceilings, clock: Clock) -> Iterator[Row]:
    """Time steps of a model; rows take turns."""
    most, length = max(sizes.rows), max(sizes.contexts) + len(sizes.rows) + 1
    decoder = model.decoder(max(sizes.requests), most, length)
    for field in ("k", "v"):
        model.place.runtime.read(decoder.model.kv.part(None, field)).normal_()
    waiter(model.place.device)()
    for requests in sizes.requests:
        for context in sizes.contexts:
            for request in range(requests):
                decoder.slots.admit(request, [0])
                decoder.slots.grow(request, length)
                decoder.slots.commit(request, context)
            cases = {
                str(rows): _run(decoder, _batch(decoder, requests, rows)) for rows in sizes.rows
            }
            name = f"{model.name}/{requests}/{context}"
            seconds = clock.seconds(cases, model.place.runtime.fence, name)
            for request in range(requests):
                decoder.slots.release(request)
            first = median(next(iter(seconds.values())))
            for rows, found in zip(sizes.rows, seconds.values(), strict=True):
                value = median(found)
                floor = ceilings.floor(
                    model.weight_bytes + requests * context * model.token_bytes,
                    requests * rows * model.row_operations,
                )
                against = {
                    "floor": 1e3 * floor,
                    "over floor": value / floor,
                    f"over {sizes.rows[0]} rows": value / first,
                }
                yield repeated(f"{name}/{rows}", [1e3 * one for one in found], "ms", against)


def _run(decoder: Decoder, batch: TokenBatch) -> Callable[[], object]:
    return lambda: decoder.model.forward(batch)


def _batch(decoder: Decoder, requests: int, rows: int) -> TokenBatch:
    """A tree of so many nodes for each request; its root is the last token of the text."""
    most = decoder.model.vocabulary
    works = [
        Work.of_tree(request, random_tree(rows, most, seed=rows + request), chain=[1])
        for request in range(requests)
    ]
    return decoder.frame(works)


def random_tree(nodes: int, vocabulary: int, seed: int) -> TokenTree:
    """A tree of so many nodes, the root among them."""
    generator, tree = random.Random(seed), TokenTree(1)
    while len(tree) < nodes:
        tree.add(generator.randrange(len(tree)), generator.randrange(vocabulary))
    return tree
