"""Tree attention against its definition: every row attends to its own token path, and no other.

The oracle is SpecInfer's definition 4.1: the tree attention of a node is the attention of the last
token of a plain causal text, which is the path from the root to the node. It takes the paths one by
one, in float64, from tables of K/V that know no slots.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import Sizes, make_decoder, random_parents, tiny_model
from torch import Tensor
from unit.ops.apply import run_variant

from specinfer.ops.attention import (
    ATTENTION,
    PAGE_SLOTS,
    WORK_SIZE,
    HeadShape,
    commit_kv,
    plan_attention,
    tree_attention,
    write_kv,
)
from specinfer.ops.operator import ShapeError

NAN = float("nan")
EXTENT = make_decoder(tiny_model(0), Sizes()).model._tables["extents"].shape[1]
"""Numbers that the plan notes down for a request: as many as a model makes room for."""

PREFIXES = (0, 1, 2, 15, 16, 17, 31, 32, 33, 50)
TREES = (0, 1, 2, 7, 30, 63, 64, 65, 127, 128, 129, 200)


@dataclass
class Case:
    """One request: tokens are numbered prefix first, then chain, then tree.

    Attributes:
        prefix: committed tokens.
        chain: uncommitted tokens that are a chain.
        parents: of the tree's nodes; -1: the end of the chain.
        computed: nodes of the tree that an earlier step computed.
    """

    prefix: int
    chain: int
    parents: list[int]
    computed: int

    @property
    def total(self) -> int:
        return self.prefix + self.chain + len(self.parents)

    @property
    def rows(self) -> list[int]:
        """The tokens that this step computes."""
        start = self.prefix + self.chain
        return [*range(self.prefix, start), *range(start + self.computed, self.total)]

    def path(self, token: int) -> list[int]:
        """All tokens that come before ``token`` in its text, and itself."""
        start = self.prefix + self.chain
        if token < start:
            return list(range(token + 1))
        tree, node = [], token - start
        while node >= 0:
            tree.append(start + node)
            node = self.parents[node]
        return [*range(start), *reversed(tree)]


def random_case(generator: random.Random) -> Case:
    prefix, nodes = generator.choice(PREFIXES), generator.choice(TREES)
    chain = generator.choice([0, 0, 1, 1, 2, 15, 16, 17, 40])
    computed = generator.randint(0, nodes) if generator.random() < 0.5 else 0
    if chain + nodes - computed == 0:
        chain = 1
    return Case(prefix, chain, random_parents(generator, nodes), computed)


def dense(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attention of one row (heads, size) over all of k, v (tokens, kv_heads, size)."""
    group = q.shape[0] // k.shape[1]
    heads = []
    for head in range(q.shape[0]):
        scores = k[:, head // group] @ q[head] * scale
        weights = torch.exp(scores - scores.max())
        heads.append((weights / weights.sum()) @ v[:, head // group])
    return torch.stack(heads)


@dataclass
class Step:
    """The tensors of one step over some requests, and what has to come out."""

    rows: SimpleNamespace
    slots: Tensor
    requests: SimpleNamespace
    pages: Tensor
    tree: Tensor
    ancestors: Tensor
    kv: SimpleNamespace
    q: Tensor
    k: Tensor
    v: Tensor
    right: Tensor
    seen: list[list[int]]


def make_step(
    cases: list[Case], heads: int, kv_heads: int, size: int, scale: float, seed: int
) -> Step:
    generator, chance = torch.Generator().manual_seed(seed), random.Random(seed)
    shuffled = list(range(1, 2 + sum(-(-case.total // PAGE_SLOTS) for case in cases)))
    chance.shuffle(shuffled)
    scratch_start = (len(shuffled) + 1) * PAGE_SLOTS
    scratch = list(range(scratch_start, scratch_start + sum(len(c.parents) for c in cases) + 3))
    chance.shuffle(scratch)
    kv = SimpleNamespace(
        k=torch.full((1, scratch_start + len(scratch), kv_heads, size), NAN),
        v=torch.full((1, scratch_start + len(scratch), kv_heads, size), NAN),
    )
    num_pages = max(-(-case.total // PAGE_SLOTS) for case in cases) + 1
    words = max(1, *(-(-len(case.parents) // 64) for case in cases)) + chance.randint(0, 1)
    pages = torch.zeros(len(cases), num_pages, dtype=torch.int64)
    tree = torch.zeros(len(cases), max(c.total - c.prefix for c in cases) + 2, dtype=torch.int64)
    position, request, slots, bits, q, k, v, right, seen = [], [], [], [], [], [], [], [], []
    for r, case in enumerate(cases):
        of_request = [shuffled.pop() for _ in range(-(-case.total // PAGE_SLOTS))]
        pages[r, : len(of_request)] = torch.tensor(of_request)
        start = case.prefix + case.chain
        slot_of = [of_request[t // PAGE_SLOTS] * PAGE_SLOTS + t % PAGE_SLOTS for t in range(start)]
        slot_of += [scratch.pop() for _ in case.parents]
        tree[r, : case.total - case.prefix] = torch.tensor(slot_of[case.prefix :])
        all_q = torch.randn(case.total, heads, size, generator=generator)
        all_k, all_v = torch.randn(2, case.total, kv_heads, size, generator=generator)
        rows = case.rows
        for token in range(case.total):
            if token not in rows:
                kv.k[0, slot_of[token]], kv.v[0, slot_of[token]] = all_k[token], all_v[token]
        for token in rows:
            path = case.path(token)
            position.append(len(path) - 1)
            request.append(r)
            slots.append(slot_of[token])
            mask = sum(1 << t - start for t in path if t >= start) if token >= start else 0
            bits.append([mask >> 64 * word & (1 << 64) - 1 for word in range(words)])
            q.append(all_q[token].flatten())
            k.append(all_k[token].flatten())
            v.append(all_v[token].flatten())
            out = dense(all_q[token].double(), all_k[path].double(), all_v[path].double(), scale)
            right.append(out.flatten())
            seen.append(sorted(slot_of[t] for t in path))
    return Step(
        rows=SimpleNamespace(positions=torch.tensor(position), request=torch.tensor(request)),
        slots=torch.tensor(slots),
        requests=SimpleNamespace(
            prefix_len=torch.tensor([case.prefix for case in cases]),
            chain_len=torch.tensor([case.chain for case in cases]),
            num_nodes=torch.tensor([case.total - case.prefix for case in cases]),
        ),
        pages=pages,
        tree=tree,
        ancestors=torch.from_numpy(np.array(bits, np.uint64).view(np.int64)),
        kv=kv,
        q=torch.stack(q),
        k=torch.stack(k),
        v=torch.stack(v),
        right=torch.stack(right),
        seen=seen,
    )


def heads_of(q: Tensor, kv: SimpleNamespace) -> HeadShape:
    """The shape of the attention that these are for."""
    *_, kv_heads, size = kv.k.shape
    return HeadShape(kv_heads, q.shape[1] // (kv_heads * size), size, q.dtype)


def run_step(step: Step, scale: float, kind: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Run the tasks; return their result, and the plan's ``keys`` and which of them are seen."""
    num_keys = step.pages.shape[1] * PAGE_SLOTS + step.tree.shape[1]
    requests = len(step.pages)
    keys = torch.full(
        (requests, num_keys), 3, dtype=torch.int32
    )  # a slot of the null page: nobody may look at it
    seen = torch.full((len(step.q), -(-step.tree.shape[1] // 64)), -1)
    work = torch.zeros(WORK_SIZE, dtype=torch.int32)
    scratch = torch.zeros(1, 1, dtype=torch.uint8)
    extents = torch.full((requests, EXTENT), -7)
    plan_attention(
        step.rows,
        step.requests,
        step.pages,
        step.tree,
        step.ancestors,
        keys,
        seen,
        extents,
        work,
        heads_of(step.q, step.kv),
    )
    out = torch.full_like(step.q, NAN)
    run_variant(write_kv, kind, step.k, step.v, step.slots, step.kv)
    run_variant(
        tree_attention, kind, step.q, step.kv, keys, seen, extents, work, scratch, out, scale
    )
    sees = torch.zeros(len(step.q), num_keys, dtype=torch.bool)
    for row, r in enumerate(step.rows.request.tolist()):
        stop, asked = extents[r, 2:].tolist()
        sees[row, :stop] = True
        for node in range(asked):
            sees[row, stop - asked + node] = bool(int(seen[row, node // 64]) >> node % 64 & 1)
    return out, keys, sees


@pytest.mark.parametrize("kind", ["cpu", "numba"])
@pytest.mark.parametrize("seed", range(40))
def test_every_row_attends_to_its_own_token_path(seed: int, kind: str) -> None:
    generator = random.Random(seed)
    kv_heads = generator.choice([1, 2, 3])
    heads = kv_heads * generator.choice([1, 2, 3])
    size, scale = generator.choice([1, 4, 8, 10]), generator.uniform(0.1, 1)
    cases = [random_case(generator) for _ in range(generator.randint(1, 4))]
    step = make_step(cases, heads, kv_heads, size, scale, seed)
    out, keys, sees = run_step(step, scale, kind)
    torch.testing.assert_close(out.double(), step.right, atol=1e-5, rtol=1e-5)
    for row, r in enumerate(step.rows.request.tolist()):
        looked_at = keys[r][sees[row]].tolist()
        assert sorted(looked_at) == step.seen[row]


def test_more_than_two_words_of_ancestors_occur() -> None:
    """A guard of the test above: its trees are what it is said to try."""
    cases = [random_case(random.Random(seed)) for seed in range(40)]
    assert any(len(case.parents) > 128 and case.computed == 0 for case in cases)
    assert any(case.computed > 64 and case.rows for case in cases)
    assert any(max(map(len, map(case.path, case.rows))) > 150 for case in cases)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_chain_is_a_causal_text_and_a_tree_of_one_node_is_its_next_token(prefix: int) -> None:
    chunk = make_step([Case(prefix, 18, [], 0)], 4, 2, 8, 0.5, seed=prefix)
    single = make_step([Case(prefix, 0, [-1], 0)], 4, 2, 8, 0.5, seed=prefix)
    for step in (chunk, single):
        found, *_ = run_step(step, 0.5)
        torch.testing.assert_close(found.double(), step.right, atol=1e-5, rtol=1e-5)


def test_writing_touches_the_slots_of_the_rows_only() -> None:
    kv = SimpleNamespace(k=torch.zeros(1, 9, 2, 3), v=torch.zeros(1, 9, 2, 3))
    k, v = torch.randn(2, 6), torch.randn(2, 6)
    write_kv(k, v, torch.tensor([7, 2]), kv)
    assert torch.equal(kv.k[0, [7, 2]].flatten(1), k)
    assert torch.equal(kv.v[0, [7, 2]].flatten(1), v)
    assert torch.equal(
        kv.k.abs().sum((0, 2, 3)) > 0, torch.tensor([*map(bool, b"\0\0\1\0\0\0\0\1\0")])
    )


def test_commit_moves_all_layers_and_leaves_the_sources() -> None:
    k, v = torch.randn(2, 3, 9, 2, 4)
    kv = SimpleNamespace(k=k.clone(), v=v.clone())
    commit_kv(kv, torch.tensor([[8, 5], [1, 2]]))
    for now, before in ((kv.k, k), (kv.v, v)):
        assert torch.equal(now[:, [1, 2]], before[:, [8, 5]])
        assert torch.equal(now[:, [0, 3, 4, 5, 6, 7, 8]], before[:, [0, 3, 4, 5, 6, 7, 8]])


GIVEN = {"head_size": 8, "scale": 0.5}


@pytest.mark.parametrize(
    ("shapes", "given", "message"),
    [
        ((("rows", 12), ("rows", 8), ("rows", 8)), {}, r"q is \('rows', 12\), expected \(rows, he"),
        ((("rows", 16), ("rows", 9), ("rows", 8)), {}, r"k is \('rows', 9\), expected \(rows, he"),
        (
            (("rows", 16), ("rows", 8), ("rows",)),
            {},
            r"v is \('rows',\), expected \(rows, heads x 8",
        ),
        ((("rows", 16), ("rows", 8), ("rows", 16)), {}, r"expected k as v, as many rows as q"),
        ((("rows", 16), ("some", 8), ("some", 8)), {}, r"expected k as v, as many rows as q"),
        ((("rows", 24), ("rows", 16), ("rows", 16)), {}, r"3 heads, expected a multiple of the 2"),
        ((("rows", 16), ("rows", 8), ("rows", 8)), {"scale": 0.0}, r"scale is 0.0, expected above"),
        ((("rows", 16), ("rows", 8)), {}, r"given 2 inputs, expected q, k, v"),
        ((("rows", 16),) * 3, {"heads": 2}, r"unknown attribute heads; known: head_size, scale"),
    ],
)
def test_refuses_shapes_that_do_not_fit(
    shapes: tuple[tuple[int | str, ...], ...], given: dict[str, float], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        ATTENTION.signature(shapes, GIVEN | given)


def test_refuses_a_missing_attribute() -> None:
    with pytest.raises(ShapeError, match="attribute scale is missing"):
        ATTENTION.signature((("rows", 16),) * 3, {"head_size": 8})
