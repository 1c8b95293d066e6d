"""Tree attention alone, beside the attention of torch that knows masks.

A step has some requests, each with a tree of some nodes behind some committed tokens. Ours runs as
in a model: tasks of a trace, over K/V in pages. Torch's gets K/V that were gathered beforehand, and
the query heads of a K/V head as rows, which is how ours reads them. Both go over as many layers as
do not fit the caches.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from specinfer.models.batch import BatchLimits, TokenBatch, ancestor_bits, load_batch
from specinfer.models.model import tables
from specinfer.ops.attention import (
    PAGE_SLOTS,
    HeadShape,
    plan_attention,
    scratch_bytes,
    tree_attention,
)
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.region import Region
from specinfer.runtime.task import Task
from specinfer.scheduler.bench.ceilings import Ceilings
from specinfer.scheduler.bench.loading import Place
from specinfer.scheduler.bench.report import Row, repeated
from specinfer.scheduler.bench.timing import Clock, Run, captured, waiter

HEADS = ("requests", "rows", "heads", "K/V heads", "committed")
"""What the parts of a row's name are."""

ROTATED_BYTES = {"cuda": 200 << 20, "cpu": 64 << 20}
"""K/V that are gone through before the first layer's are met again, at least."""
MOST_LAYERS = 24
REACH = 8
"""How far up a node's parent is at most, by number: trees are deep, as drafts are."""
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """A step.

    Attributes:
        requests: in it.
        rows: nodes of the tree of each.
        heads: of queries.
        kv_heads: of keys and values.
        context: committed tokens of each request.
        size: of a head.
    """

    requests: int
    rows: int
    heads: int
    kv_heads: int
    context: int
    size: int = 128

    @property
    def name(self) -> str:
        """In results."""
        return f"{self.requests}/{self.rows}/{self.heads}/{self.kv_heads}/{self.context}"

    @property
    def keys(self) -> int:
        """Of a request."""
        return self.context + self.rows

    @property
    def group(self) -> int:
        """Query heads of a K/V head."""
        return self.heads // self.kv_heads

    def kv_bytes(self, dtype: torch.dtype) -> int:
        """Keys and values that are looked at."""
        return 2 * self.requests * self.keys * self.kv_heads * self.size * dtype.itemsize

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 4 * self.requests * self.rows * self.heads * self.size * self.keys


class AttentionStep:
    """Inputs of a step, and what computes it.

    Args:
        shape: of the step.
        place: where it runs.
        seed: of trees, numbers and the order of pages.
    """

    def __init__(self, shape: AttentionShape, place: Place, seed: int = 1) -> None:
        self.shape, self.place = shape, place
        torch.manual_seed(seed)
        num_bytes = shape.kv_bytes(place.dtype)
        self.layers = min(MOST_LAYERS, max(2, -(-ROTATED_BYTES[place.device] // num_bytes)))
        batch = _batch(shape, random.Random(seed))
        self.seen = _mask(batch, shape).to(place.device)  # (requests, rows, keys)
        self._slots = torch.from_numpy(_slots(batch, shape)).to(place.device)
        num_slots = int(batch.slots.max()) + 1
        runtime = place.runtime
        self._kv = runtime.region(
            "kv",
            (self.layers, num_slots, shape.kv_heads, shape.size),
            {"k": place.dtype, "v": place.dtype},
        )
        for field in ("k", "v"):
            runtime.read(self._kv.part(None, field)).normal_()
        features = (shape.requests * shape.rows, shape.heads * shape.size)
        self._q = [runtime.region("q", features, {"i": place.dtype}) for _ in range(self.layers)]
        self._out = [runtime.region("o", features, {"i": place.dtype}) for _ in range(self.layers)]
        for q in self._q:
            runtime.read(q.part()).normal_()
        waiter(place.device)()  # tasks run on a stream of their own
        self._known = self._planned(batch)
        self._trace = runtime.trace("attention", self._launch)

    @property
    def scale(self) -> float:
        """What scores are multiplied with."""
        return float(self.shape.size**-0.5)

    def ours(self) -> None:
        """Compute all layers."""
        self._trace()

    def torch_attention(self) -> Run:
        """Compute all layers by torch's attention with a mask."""
        shape = self.shape
        mask = self.seen.repeat_interleave(shape.group, 1)[:, None]
        q, k, v = self._gathered()
        # (layers, requests, kv_heads, rows x heads of a group, size)
        folded = torch.unflatten(q, 2, (shape.kv_heads, shape.group)).transpose(3, 4).flatten(3, 4)
        self._theirs = torch.empty_like(folded)

        def run() -> None:
            for layer in range(self.layers):
                self._theirs[layer] = scaled_dot_product_attention(
                    folded[layer], k[layer], v[layer], mask, scale=self.scale
                )

        return captured(run, self.place.device)

    def flex_attention(self) -> Run:
        """Compute all layers by torch's compiled ``flex_attention``; raises where it cannot."""
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        torch.compiler.reset()  # of too many shapes it would compile none, in silence
        shape, seen = self.shape, self.seen
        q, k, v = self._gathered()
        block_mask = create_block_mask(
            lambda request, _, row, key: seen[request, row, key],
            shape.requests,
            None,
            shape.rows,
            shape.keys,
            device=self.place.device,
        )
        attend: Callable[..., Any] = torch.compile(flex_attention)
        out = torch.empty_like(q)

        def run() -> None:
            for layer in range(self.layers):
                out[layer] = attend(
                    q[layer],
                    k[layer],
                    v[layer],
                    block_mask=block_mask,
                    scale=self.scale,
                    enable_gqa=shape.group > 1,
                )

        return captured(run, self.place.device)

    def error(self) -> float:
        """The greatest difference between ours and torch's."""
        shape = self.shape
        theirs = torch.unflatten(self._theirs, 3, (shape.rows, shape.group)).transpose(2, 3)
        ours = torch.stack([self.place.runtime.read(out.part()) for out in self._out])
        return float((ours.float() - theirs.reshape(ours.shape).float()).abs().max())

    def _gathered(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as torch wants them: (layers, requests, heads, ..., size)."""
        shape, runtime = self.shape, self.place.runtime
        q = torch.stack([runtime.read(one.part()) for one in self._q])
        q = q.view(self.layers, shape.requests, shape.rows, shape.heads, shape.size)
        k, v = (
            runtime.read(self._kv.part(None, field))[:, self._slots].transpose(2, 3).contiguous()
            for field in ("k", "v")
        )
        return q.transpose(2, 3).contiguous(), k, v

    def _planned(self, batch: TokenBatch) -> dict[str, Any]:
        """Write a batch to its tables and plan it; all arguments that are the same in a layer."""
        shape, place = self.shape, self.place
        limits = BatchLimits(
            rows=batch.num_rows,
            requests=shape.requests,
            context=shape.context,
            nodes=shape.rows,
            logit_rows=batch.num_rows,
        )
        regions = {
            name: place.runtime.region(name, size, fields)
            for name, (size, fields) in tables(limits).items()
        }
        known: dict[str, Any] = {name: region.part() for name, region in regions.items()}
        place.runtime.launch(load_batch, **_of(load_batch, known | {"batch": batch}))
        heads = HeadShape(shape.kv_heads, shape.group, shape.size, place.dtype)
        size = scratch_bytes(heads, place.runtime.device_of(self._kv))
        scratch = place.runtime.region("scratch", (shape.kv_heads, size), {"i": torch.uint8})
        known |= {"heads": heads, "scratch": scratch.part(), "scale": self.scale}
        place.runtime.launch(plan_attention, **_of(plan_attention, known))
        return known

    def _launch(self) -> None:
        for layer, (q, out) in enumerate(zip(self._q, self._out, strict=True)):
            known = self._known | {"q": q.part(), "out": out.part(), "kv": _layer(self._kv, layer)}
            self.place.runtime.launch(tree_attention, **_of(tree_attention, known))


def measure_attention(
    shapes: Sequence[AttentionShape],
    new_place: Callable[[], Place],
    ceilings: Ceilings,
    clock: Clock,
) -> Iterator[Row]:
    """Time attention of all shapes, ours and torch's in turn, by the layer.

    Args:
        shapes: of steps.
        new_place: makes a place for each of them.
        ceilings: of that device.
        clock: takes the times.

    Raises:
        ArithmeticError: ours and torch's differ by more than rounding does.
    """
    for shape in shapes:
        place = new_place()
        times, remarks = _times(shape, place, clock)
        ours = median(times["ours"])
        floor = 1e6 * ceilings.floor(shape.kv_bytes(place.dtype), shape.operations)
        against: dict[str, Any] = {"floor": floor, "over floor": ours / floor}
        for peer in list(times)[1:]:
            found = median(times[peer])
            against |= {peer: found, f"{peer} over ours": found / ours}
        yield repeated(shape.name, times["ours"], "us", against | remarks)


def _times(
    shape: AttentionShape, place: Place, clock: Clock
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Microseconds of a layer, ours first, and what else is to be told."""
    remarks: dict[str, Any] = {}
    with place.runtime:
        step = AttentionStep(shape, place)
        cases = {"ours": step.ours, "torch": step.torch_attention()}
        if place.device != "cpu":
            refusal = _add_if_it_works(cases, "flex", step.flex_attention)
            remarks |= {"flex refused": refusal} if refusal else {}
        seconds = clock.seconds(cases, waiter(place.device), f"attention {shape.name}")
        remarks["error"] = error = step.error()
    if not error < TOLERANCE[place.dtype]:
        raise ArithmeticError(f"attention {shape.name}: differs from torch's by {error}")
    micro = 1e6 / step.layers
    return {name: [micro * one for one in found] for name, found in seconds.items()}, remarks


def _add_if_it_works(cases: dict[str, Run], name: str, make: Callable[[], Run]) -> str | None:
    """Make a case; or say why this torch cannot, for which it has many kinds of error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cases[name] = make()
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None


def _batch(shape: AttentionShape, generator: random.Random) -> TokenBatch:
    """Random trees behind texts whose pages lie in random order."""
    requests, rows, context = shape.requests, shape.rows, shape.context
    pages_each = -(-context // PAGE_SLOTS)
    pages = list(range(requests * pages_each))
    generator.shuffle(pages)
    first, words = len(pages) * PAGE_SLOTS, -(-rows // 64)
    positions, ancestors = [], []
    for _ in range(requests):
        parents = [-1] + [generator.randrange(max(0, i - REACH), i) for i in range(1, rows)]
        depths: list[int] = []
        for parent in parents:
            depths.append(depths[parent] + 1 if parent >= 0 else 0)
        positions.append(context + np.array(depths))
        ancestors.append(ancestor_bits(np.array(parents), words))
    tree = first + np.arange(requests * rows)
    count = np.full(requests, rows)
    return TokenBatch(
        tokens=np.zeros(requests * rows, np.int64),
        positions=np.concatenate(positions),
        request=np.repeat(np.arange(requests), rows),
        slots=tree,
        prefix_len=np.full(requests, context),
        pages=np.array(pages).reshape(requests, pages_each),
        tree_slots=tree.reshape(requests, rows),
        num_nodes=count,
        chain_len=np.zeros_like(count),
        ancestors=np.concatenate(ancestors),
        logit_rows=np.arange(requests * rows),
    )


def _slots(batch: TokenBatch, shape: AttentionShape) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(requests, keys): where the keys and values of each request lie."""
    within = np.arange(PAGE_SLOTS)
    committed = (batch.pages[:, :, None] * PAGE_SLOTS + within).reshape(shape.requests, -1)
    return np.concatenate([committed[:, : shape.context], batch.tree_slots], axis=1)


def _mask(batch: TokenBatch, shape: AttentionShape) -> Tensor:
    """(requests, rows, keys): what each row sees."""
    bits = np.unpackbits(batch.ancestors.view(np.uint8), axis=1, bitorder="little")
    seen = torch.from_numpy(bits[:, : shape.rows]).bool()
    seen = seen.view(shape.requests, shape.rows, shape.rows)
    return torch.cat([seen.new_ones(*seen.shape[:2], shape.context), seen], 2)


def _layer(kv: Region, layer: int) -> Any:
    _, *rest = kv.shape
    return kv.part(IndexSpace((layer, 0, 0, 0), (layer + 1, *rest)))


def _of(task: Task, known: dict[str, Any]) -> dict[str, Any]:
    """What of it a task takes."""
    return {name: known[name] for name in task.parameters}
