"""The tiled kernel of tree attention against its definition: all shapes, trees and divisions."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from specinfer.ops.kernels.attention_cuda import (
    TILES,
    WORK_SIZE,
    Tile,
    plan_attention,
    scratch_size,
    tile_for,
    tree_attention,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")

NAN = float("nan")
NEAR = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
PAGE = 16
SIDE = 16
"""Columns beside a matrix, of the wider one that it lies in."""


@dataclass
class Case:
    """A request: committed tokens, a chain, a tree behind it, and which nodes have a row."""

    prefix: int
    chain: int = 0
    parents: list[int] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)

    def ancestors(self, node: int) -> list[int]:
        """Of a tree's node: itself and what is above it, as places in the tree."""
        found = []
        while node >= 0:
            found.append(node)
            node = self.parents[node]
        return found

    def position(self, node: int) -> int:
        """Of the node-th uncommitted node."""
        behind = node - self.chain
        depth = 0 if behind < 0 else len(self.ancestors(behind)) - 1
        return self.prefix + min(node, self.chain) + depth

    def sees(self, node: int) -> list[int]:
        """Keys that a node sees, by their place."""
        if node < self.chain:
            return list(range(self.prefix + node + 1))
        above = [self.prefix + self.chain + one for one in self.ancestors(node - self.chain)]
        return list(range(self.prefix + self.chain)) + above


def random_case(generator: random.Random, most_keys: int, most_rows: int) -> Case:
    """Any request, at times of hundreds of nodes or none committed, and rows for some nodes."""
    if generator.random() < 0.15:
        return Case(0)
    prefix = generator.choice([0, generator.randrange(70), generator.randrange(most_keys)])
    chain = generator.choice([0, 1, generator.randrange(most_rows)])
    tree = generator.choice([0, 1, generator.randrange(most_rows)])
    if chain + tree == 0:
        chain = 1
    parents = [generator.randrange(-1, node) for node in range(tree)]
    nodes = range(chain + tree)
    some = sorted(generator.sample(nodes, generator.randint(1, len(nodes))))
    return Case(prefix, chain, parents, generator.choice([some, list(nodes)]))


@dataclass
class Step:
    """What a plan is given, what it fills, and which keys each row sees (None: it is padding)."""

    inputs: list[Tensor]
    plan: tuple[Tensor, Tensor, Tensor]
    visible: list[list[int] | None]
    slots: int


def make_step(cases: list[Case], padding: int, generator: random.Random) -> Step:
    """Cases on the GPU, with rows of padding behind them."""
    most = max(len(case.parents) + case.chain for case in cases)
    pages_each = max(-(-case.prefix // PAGE) for case in cases) + 1
    order = list(range(len(cases) * pages_each))
    generator.shuffle(order)
    words = -(-max(most, 1) // 64) + 1
    pages = torch.tensor(order).view(len(cases), pages_each)
    first = len(order) * PAGE
    tree = torch.arange(first, first + len(cases) * most).view(len(cases), most).flip(1)
    tree = tree.contiguous()
    positions, request, visible, masks = [], [], list[list[int] | None](), []
    for r, case in enumerate(cases):
        slots = pages[r].mul(PAGE)[:, None].add(torch.arange(PAGE)).ravel().tolist()
        slots = slots[: case.prefix] + tree[r].tolist()
        for node in case.nodes:
            positions.append(case.position(node))
            request.append(r)
            above = case.ancestors(node - case.chain) if node >= case.chain else []
            masks.append([sum(1 << (a % 64) for a in above if a // 64 == w) for w in range(words)])
            visible.append([slots[key] for key in case.sees(node)])
    for _ in range(padding):
        positions.append(0)
        request.append(len(cases) - 1)
        visible.append(None)
        masks.append([0] * words)
    signed = [[bits - (1 << 64) if bits >> 63 else bits for bits in row] for row in masks]
    given = [
        positions,
        request,
        [case.prefix for case in cases],
        [case.chain for case in cases],
        [case.chain + len(case.parents) for case in cases],
    ]
    keys = torch.full((len(cases), pages_each * PAGE + most), -(2**30), dtype=torch.int32)
    seen = torch.full((len(positions), words), -1)
    extents = torch.full((len(cases), 4), -7)
    plan = (keys.cuda(), seen.cuda(), extents.cuda())
    tables = [torch.tensor(values).cuda() for values in given]
    tables += [pages.cuda(), tree.cuda(), torch.tensor(signed).cuda()]
    return Step(tables, plan, visible, first + len(cases) * most)


def poison(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """(rows, columns) of NaN, within a wider and longer matrix of NaN."""
    wide = torch.full((rows + 1, columns + 2 * SIDE), NAN, dtype=dtype, device="cuda")
    return wide[:rows, SIDE : SIDE + columns]


def expected(q: Tensor, k: Tensor, v: Tensor, visible: list[int], scale: float) -> Tensor:
    """(heads, size) in float64: a row (heads, size) over the keys that it sees."""
    group = q.shape[0] // k.shape[1]
    keys, values = (x[visible].double().repeat_interleave(group, 1) for x in (k, v))
    weights = torch.einsum("hd,khd->hk", q.double() * scale, keys).softmax(1)
    return torch.einsum("hk,khd->hd", weights, values)


def check(
    cases: list[Case], padding: int, kv_heads: int, group: int, size: int, dtype: torch.dtype
) -> None:
    """Every row is right by all tiles; what is not a row's is not written."""
    generator = random.Random(len(cases) + kv_heads + group)
    step = make_step(cases, padding, generator)
    rows, heads = len(step.visible), kv_heads * group
    torch.manual_seed(rows)
    q = poison(rows, heads * size, dtype)
    q.copy_(torch.randn(rows, heads * size, device="cuda") * 1.5)
    k, v = (torch.randn(step.slots, kv_heads, size, device="cuda").to(dtype) for _ in range(2))
    scale = 0.8 * size**-0.5
    right = {
        row: expected(q[row].view(heads, size), k, v, visible, scale)
        for row, visible in enumerate(step.visible)
        if visible is not None
    }
    chosen = tile_for(rows, len(cases), group, size, dtype)
    tiles: list[Tile | None] = [*TILES[size].values()] if chosen else [None]
    for tile in tiles:
        work = torch.full((WORK_SIZE,), -1, dtype=torch.int32, device="cuda")
        plan: Any = (*step.inputs, *step.plan, work, kv_heads, group, tile)
        plan_attention(*plan)
        scratch = torch.full((scratch_size(tile, q.device) // 4,), NAN, device="cuda")
        outs = [poison(rows, heads * size, dtype) for _ in range(2)]
        for out in outs:
            tree_attention(q, k, v, *step.plan, work, scratch, out, scale, tile)
        for row, at_row in right.items():
            found = outs[0][row].view(heads, size).double()
            off = (found - at_row).abs().max() / (1 + at_row.abs().max())
            assert off < NEAR[dtype], (tile, row)
        real = len(right)
        assert torch.equal(outs[0][:real], outs[1][:real])  # the very same bits
        assert outs[0]._base is not None
        outs[0].fill_(NAN)
        assert outs[0]._base.isnan().all()  # nothing beside


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("seed", range(24))
def test_random_steps(seed: int, dtype: torch.dtype) -> None:
    generator = random.Random(seed)
    kv_heads, group = generator.choice([(1, 1), (3, 1), (2, 4), (2, 6), (2, 7), (1, 32), (8, 4)])
    size = generator.choice([64, 96, 128, 256])
    most_keys, most_rows = generator.choice([(100, 20), (3000, 90), (700, 200)])
    number = generator.choice([1, 2, 5, 40]) if most_rows < 90 else generator.randint(1, 4)
    cases = [random_case(generator, most_keys, most_rows) for _ in range(number)]
    if not any(case.nodes for case in cases):
        cases.append(Case(5, 1, [], [0]))
    check(cases, generator.choice([0, 3]), kv_heads, group, size, dtype)


@pytest.mark.parametrize("size", [64, 96, 128, 256])
def test_one_row_of_a_long_context(size: int) -> None:
    check([Case(9001, 1, [], [0])], 0, 1, 4, size, torch.bfloat16)


def test_a_long_prompt() -> None:
    check([Case(130, 600, [], list(range(600)))], 8, 2, 7, 128, torch.bfloat16)


def test_more_requests_than_a_warp_has_lanes() -> None:
    cases = [Case(7 * r, 1, [-1, 0], [0, 1, 2]) for r in range(70)]
    check(cases, 2, 2, 2, 64, torch.bfloat16)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_plans_that_follow_each_other_at_once(size: int) -> None:
    """Kernels begin while those in front of them end: none may go by an old plan."""
    generator = random.Random(size)
    first = [Case(900, 2, [-1, 0, 0], [0, 2, 4]), Case(40, 5, [], [1, 3, 4]), Case(0, 1, [], [0])]
    steps = [make_step(cases, 0, generator) for cases in (first, first[1::-1] + first[2:])]
    kv_heads, group, dtype, scale = 4, 2, torch.bfloat16, 0.1
    rows, columns = len(steps[0].visible), kv_heads * group * size
    q = torch.randn(rows, columns, device="cuda").to(dtype)
    k, v = (torch.randn(steps[0].slots, kv_heads, size, device="cuda").to(dtype) for _ in range(2))
    for tile in TILES[size].values():
        work = torch.zeros(WORK_SIZE, dtype=torch.int32, device="cuda")
        scratch = torch.full((scratch_size(tile, q.device) // 4,), NAN, device="cuda")

        shared: Any = (*steps[0].plan, work, scratch)
        alone, found = list[Tensor](), list[list[Tensor]]()
        for step in [*steps, *steps * 30]:
            plan: Any = (*step.inputs, *shared[:4], kv_heads, group, tile)
            plan_attention(*plan)
            outs = [torch.full_like(q, NAN) for _ in range(2)]
            for out in outs:
                given: Any = (q, k, v, *shared, out, scale, tile)
                tree_attention(*given)
            if len(alone) < len(steps):
                torch.cuda.synchronize()
                alone.append(outs[0])
            found = [*found[-1:], outs]
        torch.cuda.synchronize()
        for outs, right in zip(found, alone, strict=True):
            assert not right.isnan().any()
            assert all(torch.equal(out, right) for out in outs)
