"""What tree attention costs on a GPU: by requests, rows, K/V heads and contexts.

Launches are captured in a graph, over K/V of as many layers as do not fit the card's cache. Beside
them stand torch's attention with a mask over K/V that lie gathered already, and the floor: the time
to read K/V once, or that of the products at the speed of a large one, whichever is longer; both
speeds are measured in the same run.

    python -m benchmarks.gpu_attention --write
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median, stdev
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.report import Row, markdown, write
from specinfer.ops.kernels.attention_cuda import (
    WORK_SIZE,
    Tile,
    plan_attention,
    scratch_size,
    tile_for,
    tree_attention,
)

HEADS, SIZE, PAGE = 32, 128, 16
SCALE = SIZE**-0.5
ROTATED_BYTES = 200 << 20
"""K/V that a graph goes through before it meets the first layer's again, at least."""
LAUNCHES, REPLAYS = 24, 15


@dataclass(frozen=True, slots=True)
class Shape:
    """A step: so many requests, each of a tree of so many nodes behind so many tokens."""

    requests: int
    nodes: int
    kv_heads: int
    context: int

    @property
    def name(self) -> str:
        """In results."""
        return f"{self.requests}x{self.nodes}/{self.kv_heads} kv heads/{self.context}"

    @property
    def rows(self) -> int:
        """Of the step."""
        return self.requests * self.nodes

    @property
    def group(self) -> int:
        """Query heads of a K/V head."""
        return HEADS // self.kv_heads

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values that are looked at."""
        return 2 * self.requests * (self.context + self.nodes) * self.kv_heads * SIZE * 2

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 4 * self.rows * HEADS * SIZE * (self.context + self.nodes)


SHAPES = (
    Shape(1, 1, 32, 1024),
    Shape(32, 1, 8, 2048),
    Shape(1, 64, 32, 1024),
    Shape(1, 64, 8, 1024),
    Shape(1, 64, 8, 8192),
    Shape(8, 64, 8, 1024),
    Shape(8, 64, 8, 8192),
    Shape(32, 16, 8, 2048),
    Shape(1, 64, 8, 32768),
    Shape(1, 512, 8, 1024),
)


def microseconds(launch: Callable[[int], None], layers: int) -> list[float]:
    """Of a launch, over the layers in turn, in replays of a graph of many."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for layer in range(layers):
            launch(layer)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    count = max(LAUNCHES, layers)
    with torch.cuda.graph(graph, stream=stream):
        for layer in islice(cycle(range(layers)), count):
            launch(layer)
    times = []
    for _ in range(REPLAYS):
        begin, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(1e3 * begin.elapsed_time(end) / count)
    return times[2:]


class Step:
    """Inputs of a shape, on the GPU: random trees, pages in random order."""

    def __init__(self, shape: Shape, seed: int = 1) -> None:
        self.shape = shape
        generator = random.Random(seed)
        torch.manual_seed(seed)
        requests, nodes, context = shape.requests, shape.nodes, shape.context
        pages_each = -(-context // PAGE)
        pages = torch.randperm(requests * pages_each).view(requests, pages_each).cuda()
        first = pages.numel() * PAGE
        tree = torch.arange(first, first + shape.rows).view(requests, nodes).cuda()
        positions, masks = [], []
        for _ in range(requests):
            above: list[int] = []
            for node in range(nodes):
                parent = generator.randrange(max(0, node - 8), node) if node else -1
                above.append((above[parent] if node else 0) | 1 << node)
                positions.append(context + above[-1].bit_count() - 1)
            masks += above
        words = -(-nodes // 64)
        ancestors = torch.tensor(
            [
                [int.from_bytes(part, "little", signed=True) for part in _words(mask, words)]
                for mask in masks
            ]
        )
        self.request = torch.arange(requests).repeat_interleave(nodes).cuda()
        lengths = [torch.full((requests,), n, device="cuda") for n in (context, 0, nodes)]
        self.keys = torch.zeros(requests, context + nodes, dtype=torch.int32, device="cuda")
        self.seen = torch.zeros(shape.rows, words, dtype=torch.int64, device="cuda")
        self.extents = torch.zeros(requests, 4, dtype=torch.int64, device="cuda")
        self.planned = (
            *(torch.tensor(positions).cuda(), self.request, *lengths),
            *(pages, tree, ancestors.cuda(), self.keys, self.seen, self.extents),
        )
        self.layers = min(LAUNCHES, max(2, -(-ROTATED_BYTES // shape.kv_bytes)))
        self.q = torch.randn(self.layers, shape.rows, HEADS * SIZE, device="cuda").bfloat16()
        self.kv = torch.randn(
            2, self.layers, first + shape.rows, shape.kv_heads, SIZE, device="cuda"
        ).bfloat16()
        self.out = torch.full_like(self.q, torch.nan)
        self.work = torch.zeros(WORK_SIZE, dtype=torch.int32, device="cuda")
        self.use(tile_for(shape.rows, requests, shape.group, SIZE, self.q.dtype))

    def use(self, tile: Tile | None) -> None:
        """Plan with a tile."""
        self.tile = tile
        size = scratch_size(tile, self.q.device)
        self.scratch = torch.empty(size, dtype=torch.uint8, device="cuda")
        self.plan(0)

    def plan(self, _: int) -> None:
        """Plan the step."""
        given: Any = (*self.planned, self.work, self.shape.kv_heads, self.shape.group, self.tile)
        plan_attention(*given)

    def attend(self, layer: int) -> None:
        """Ours, of a layer."""
        k, v = self.kv[:, layer]
        plan = (self.keys, self.seen, self.extents, self.work)
        tree_attention(self.q[layer], k, v, *plan, self.scratch, self.out[layer], SCALE, self.tile)

    def peer(self) -> Callable[[int], None]:
        """Torch's attention; query heads of a K/V head are rows, as in ours."""
        shape = self.shape
        mask = self._mask().repeat_interleave(shape.group, 1)[:, None]
        query = self.q.view(self.layers, shape.requests, shape.nodes, shape.kv_heads, -1, SIZE)
        query = query.transpose(2, 3).reshape(self.layers, shape.requests, shape.kv_heads, -1, SIZE)
        kv = self.kv[:, :, self.keys.long()].transpose(3, 4).contiguous()
        self.peer_out = torch.empty_like(query)

        def attend(layer: int) -> None:
            k, v = kv[:, layer]
            self.peer_out[layer] = scaled_dot_product_attention(
                query[layer], k, v, mask, scale=SCALE
            )

        return attend

    def _mask(self) -> Tensor:
        """(requests, nodes, keys): what is seen."""
        shape = self.shape
        bits = self.seen.view(torch.uint8)[:, :, None] >> torch.arange(8, device="cuda").byte() & 1
        seen = bits.view(shape.requests, shape.nodes, -1)[..., : shape.nodes].bool()
        return torch.cat([seen.new_ones(*seen.shape[:2], shape.context), seen], 2)

    def error(self) -> float:
        """The greatest difference from the peer."""
        shape = self.shape
        theirs = self.peer_out.view(
            self.layers, shape.requests, shape.kv_heads, shape.nodes, -1, SIZE
        )
        theirs = theirs.transpose(2, 3).reshape(self.out.shape)
        return float((self.out.float() - theirs.float()).abs().max())


def _words(mask: int, words: int) -> list[bytes]:
    raw = mask.to_bytes(8 * words, "little")
    return [raw[8 * word : 8 * word + 8] for word in range(words)]


def read_speed() -> float:
    """Bytes a second of a plain read of a large array."""
    array = torch.zeros(1 << 29, dtype=torch.int32, device="cuda")
    return 1e6 * array.nbytes / median(microseconds(lambda _: void(array.amax()), 1))


def product_speed() -> float:
    """Operations a second of a large product in bfloat16."""
    a, b, c = torch.randn(3, 8192, 8192, device="cuda").bfloat16()
    return 1e6 * 2 * 8192**3 / median(microseconds(lambda _: void(torch.mm(a, b, out=c)), 1))


def void(_: object) -> None:
    """Nothing."""


def measure(shapes: Sequence[Shape]) -> list[Row]:
    """All shapes."""
    read, product = read_speed(), product_speed()
    rows = [
        Row(name="read", value=read / 1e12, unit="TB/s"),
        Row(name="product", value=product / 1e12, unit="TFLOP/s"),
    ]
    for shape in shapes:
        step = Step(shape)
        times = microseconds(step.attend, step.layers)
        peer = median(microseconds(step.peer(), step.layers))
        floor = 1e6 * max(shape.kv_bytes / read, shape.operations / product)
        if not (error := step.error()) < 0.02:
            sys.exit(f"{shape.name}: {error} from the peer")
        plan = median(microseconds(step.plan, 1))
        against = {"floor": floor, "torch": peer, "plan": plan, "error": error}
        rows.append(
            Row(
                name=shape.name,
                value=median(times),
                unit="us",
                spread=stdev(times),
                against=against,
            )
        )
        del step
        torch.cuda.empty_cache()
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write the result file if told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the result file")
    given = parser.parse_args(arguments)
    with torch.no_grad():
        rows = measure(SHAPES)
    speeds, steps = rows[:2], rows[2:]
    print(*(f"{row.name} {row.value:.2f} {row.unit}" for row in speeds), sep="\n")
    header = ["us of a layer", "ours", "spread", "floor", "torch", "plan", "error"]
    print(markdown(header, [[r.name, r.value, r.spread, *r.against.values()] for r in steps]))
    if given.write:
        print(write("gpu_attention", rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
