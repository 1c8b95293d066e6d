"""The tasks of lanes against what the host does request by request."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from lane_cases import POISON, poisoned, random_tree, step_tables, tree_tables
from torch import Tensor

from specinfer.models.batch import TokenBatch
from specinfer.models.model import Model
from specinfer.scheduler.decoder import Decoder, Work
from specinfer.scheduler.kv_pages import KVPages
from specinfer.scheduler.lanes.batches import chain_batch, level_batch, verify_batch
from specinfer.scheduler.lanes.matching import match_text
from specinfer.scheduler.lanes.taking import take, take_draft, walk_greedy
from specinfer.scheduler.lanes.trees import add_tree, begin_tree, grow_tree
from specinfer.scheduler.speculators import Context
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.token_tree import TokenTree, merge
from specinfer.scheduler.verifiers import follow

LANES, NODES, CONTEXT, VOCABULARY = 4, 70, 200, 4
ROOT = 0
SEEDS = pytest.mark.parametrize("seed", range(8))


class World:
    """Texts in lanes, and a decoder on the host that has the same requests.

    Attributes:
        texts: of each lane; that of an empty one is forgotten in the tables, not in the decoder.
        used: lanes that are not empty.
        decoder: has no model: it only makes batches and moves.
    """

    def __init__(self, seed: int) -> None:
        self.generator = random.Random(seed)
        self.decoder = Decoder(cast(Model, None), KVPages(pages=99, requests=LANES, nodes=NODES))
        self.texts: list[list[int]] = []
        for lane in range(LANES):
            size = self.generator.randint(1, CONTEXT - NODES - 2)
            text = [self.generator.randrange(9, 99) for _ in range(size)]
            text[-1] = ROOT
            self.texts.append(text)
            assert self.decoder.slots.admit(lane, text) == 0
            # Pages of the requests are not in order.
            assert self.decoder.slots.grow(lane, min(CONTEXT, size + 40))
        for lane in range(LANES):
            assert self.decoder.slots.grow(lane, CONTEXT)
        self.used = [lane for lane in range(LANES) if self.generator.random() < 0.8]

    @property
    def length(self) -> Tensor:
        return torch.tensor([len(t) if r in self.used else 0 for r, t in enumerate(self.texts)])

    @property
    def text(self) -> Tensor:
        table = poisoned(LANES, CONTEXT)
        for lane, text in enumerate(self.texts):
            table[lane, : len(text)] = torch.tensor(text)
        return table

    @property
    def lane_pages(self) -> Tensor:
        return torch.from_numpy(
            np.stack([self.decoder.slots.pages(lane, CONTEXT) for lane in range(LANES)])
        )

    @property
    def scratch(self) -> dict[str, int]:
        slots = self.decoder.slots
        return {"scratch_start": slots.scratch_start, "scratch_nodes": slots.scratch_nodes}

    def trees(self, most: int = NODES) -> list[TokenTree | None]:
        """A random one for each lane that is not empty."""
        return [
            tree_of(*random_tree(self.generator, most, VOCABULARY)) if r in self.used else None
            for r in range(LANES)
        ]


def tree_of(tokens: Sequence[int], parents: Sequence[int]) -> TokenTree:
    tree = TokenTree(tokens[0])
    for token, parent in zip(tokens[1:], parents[1:], strict=True):
        tree.add(parent, token)
    assert tree.parents == parents
    return tree


def tables_of(trees: Sequence[TokenTree | None], nodes: int = NODES) -> dict[str, Tensor]:
    tables = tree_tables([(t.tokens, t.parents) if t else None for t in trees], nodes)
    return dict(zip(("tokens", "parents", "count"), tables, strict=True))


def check_step(
    step: dict[str, Any], batch: TokenBatch, lanes: Sequence[int], wanted: list[int] | None = None
) -> None:
    """That a step's tables hold a batch, whose requests are these lanes, and padding.

    Args:
        step: the tables.
        batch: of the host.
        lanes: of its requests.
        wanted: rows whose logits are; None: all.
    """
    rows, requests = step["rows"], step["requests"]
    per_lane = len(rows.tokens) // LANES
    assert rows.request.tolist() == [lane for lane in range(LANES) for _ in range(per_lane)]
    for lane in range(LANES):
        at = slice(lane * per_lane, (lane + 1) * per_lane)
        here = {name: field[at].tolist() for name, field in vars(rows).items()}
        bits = step["ancestors"][at]
        size = 0
        prefix = chain = nodes = 0
        if lane in lanes:
            r = list(lanes).index(lane)
            own = batch.request == r
            size = int(own.sum())
            prefix, chain, nodes = (
                int(field[r]) for field in (batch.prefix_len, batch.chain_len, batch.num_nodes)
            )
            assert here["tokens"][:size] == batch.tokens[own].tolist()
            assert here["positions"][:size] == batch.positions[own].tolist()
            assert here["slots"][:size] == batch.slots[own].tolist()
            words = batch.ancestors.shape[1]
            assert bits[:size, :words].tolist() == batch.ancestors[own].tolist()
            assert not bits[:, words:].any()
            pages = -(-prefix // 16)
            assert step["pages"][lane, :pages].tolist() == batch.pages[r, :pages].tolist()
            assert step["tree"][lane, :nodes].tolist() == batch.tree_slots[r, :nodes].tolist()
        padding = per_lane - size
        last = here["positions"][size - 1] if size else 0
        assert here["tokens"][size:] == here["slots"][size:] == [0] * padding
        assert here["positions"][size:] == [last] * padding
        assert not bits[size:].any()
        assert not step["tree"][lane, nodes:].any()
        found = [int(requests.__dict__[name][lane]) for name in vars(requests)]
        assert found == [prefix, chain, nodes]
    assert step["logit_rows"].tolist() == (wanted or list(range(len(rows.tokens))))
    assert not (step["pages"] == POISON).any()


@SEEDS
def test_a_chain_is_what_the_host_would_compute(seed: int) -> None:
    world, chain = World(seed), 5
    works, have = [], torch.tensor([3] * LANES)
    wanted = [lane * chain for lane in range(LANES)]
    for lane in world.used:
        text = world.texts[lane]
        begin = max(0, len(text) - world.generator.randint(1, chain + 2))
        world.decoder.slots.commit(lane, begin)
        works.append(Work(request=lane, chain=text[begin : begin + chain]))
        have[lane] = begin
        wanted[lane] += len(works[-1].chain) - 1
    batch = world.decoder.frame(works)
    step = step_tables(LANES, chain, 13, 9, LANES)
    chain_batch(world.length, world.text, have, world.lane_pages, *step.values())
    check_step(step, batch, world.used, wanted)


@SEEDS
def test_a_level_is_what_the_host_would_compute(seed: int) -> None:
    world = World(seed)
    trees = world.trees()
    first = world.generator.choice([1, 2, 9])
    last = first + world.generator.choice([1, 5, 30])
    works = []
    for lane in world.used:
        tree = trees[lane]
        assert tree
        world.decoder.slots.commit(lane, len(world.texts[lane]))
        part = tree.restricted(range(1, min(last, len(tree))))
        works.append(Work.of_tree(lane, part, computed=min(first, len(part))))
    batch = world.decoder.frame(works)
    step = step_tables(LANES, last - first, 13, NODES, LANES * (last - first))
    tables, pages = tables_of(trees).values(), world.lane_pages
    level_batch(world.length, *tables, pages, *step.values(), first, last, **world.scratch)
    check_step(step, batch, world.used)


@SEEDS
def test_a_verification_is_what_the_host_would_compute(seed: int) -> None:
    world = World(seed)
    trees = world.trees()
    works = []
    for lane in world.used:
        tree = trees[lane]
        assert tree
        world.decoder.slots.commit(lane, len(world.texts[lane]) - 1)
        works.append(Work.of_tree(lane, tree, chain=[tree.root]))
    batch = world.decoder.frame(works)
    step = step_tables(LANES, 1 + NODES, 13, 1 + NODES, LANES * (1 + NODES))
    tables, pages = tables_of(trees).values(), world.lane_pages
    verify_batch(world.length, *tables, pages, *step.values(), **world.scratch)
    check_step(step, batch, world.used)


@SEEDS
def test_trees_grow_from_the_last_token(seed: int) -> None:
    world = World(seed)
    expansion = [world.generator.randint(1, 3) for _ in range(3)]
    trees = [TokenTree(text[-1]) for text in world.texts]
    frontiers = [[0] for _ in trees]
    tokens, parents = poisoned(LANES, 1 + NODES), poisoned(LANES, 1 + NODES)
    count = poisoned(LANES)
    begin_tree(world.length, world.text, tokens, parents, count)
    assert count.tolist() == [int(lane in world.used) for lane in range(LANES)]
    for width in expansion:
        size, first = len(frontiers[0]), frontiers[0][0]
        drawn = torch.tensor(
            [world.generator.sample(range(50), width) for _ in range(LANES * size)]
        )
        grow_tree(drawn, tokens, parents, count, first, width)
        rows = iter(drawn.tolist())
        frontiers = [
            [tree.add(node, token) for node in frontier for token in next(rows)]
            for tree, frontier in zip(trees, frontiers, strict=True)
        ]
    for lane, tree in enumerate(trees):
        used = len(tree) if lane in world.used else 0
        assert count[lane] == used
        assert tokens[lane, :used].tolist() == tree.tokens[:used]
        assert parents[lane, :used].tolist() == tree.parents[:used]
    assert not (tokens == POISON).any()
    assert not (parents == POISON).any()


@SEEDS
def test_trees_are_merged_as_the_host_merges_them(seed: int) -> None:
    world = World(seed)
    drafts = [world.trees(most=20) for _ in range(3)]
    roots = [TokenTree(ROOT) if lane in world.used else None for lane in range(LANES)]
    merged = tables_of(roots, 60)
    for trees in drafts:
        add_tree(*tables_of(trees).values(), *merged.values())
    for lane in range(LANES):
        used = int(merged["count"][lane])
        found = [merged[name][lane, :used].tolist() for name in ("tokens", "parents")]
        if lane in world.used:
            right = merge([tree for trees in drafts if (tree := trees[lane])])
            assert found == [right.tokens, right.parents]
        else:
            assert not used


@pytest.mark.parametrize("seed", range(30))
def test_guesses_are_those_of_the_speculator(seed: int) -> None:
    """Node for node, in texts that repeat more or less."""
    generator = random.Random(seed)
    nodes, least, most, depth = (
        generator.choice(few) for few in ([1, 5, 16, 40], [1, 2, 3], [1, 3, 8], [1, 4, 999])
    )
    vocabulary = generator.choice([1, 2, 3, 8])
    texts = []
    for _ in range(20):
        text = [generator.randrange(vocabulary) for _ in range(generator.randint(0, 80))]
        texts.append(text + text[generator.randint(0, 80) :] * generator.randint(0, 2))
    table = poisoned(len(texts), 300)
    for row, text in zip(table, texts, strict=True):
        row[: len(text)] = torch.tensor(text, dtype=torch.int64)
    shape = len(texts), 1 + nodes
    tokens, parents, count = poisoned(*shape), poisoned(*shape), poisoned(len(texts))
    length = torch.tensor(list(map(len, texts)))
    match_text(length, table, tokens, parents, count, least, most, depth)
    speculator = NGramSpeculator(nodes, least, max_places=most)
    for lane, text in enumerate(texts):
        used = int(count[lane])
        found = [t[lane, :used].tolist() for t in (tokens, parents)]
        if text:
            (right,) = speculator.draft([Context(lane, text, max_depth=depth)])
            assert found == [right.tokens, right.parents]
        else:
            assert not used
        assert not tokens[lane, used:].any()
        assert (parents[lane, used:] == -1).all()


def random_best(world: World, trees: Sequence[TokenTree | None]) -> Tensor:
    """(lanes, 1 + nodes): mostly the token of a child."""
    best = poisoned(LANES, 1 + NODES)
    for lane, tree in enumerate(trees):
        for node in range(len(tree) if tree else 0):
            assert tree
            tokens = [tree.tokens[child] for child in tree.children(node)]
            other = world.generator.randrange(VOCABULARY)
            best[lane, node] = world.generator.choice([*tokens, *tokens, other])
    return best


@SEEDS
def test_an_outcome_is_taken_as_the_host_takes_it(seed: int) -> None:
    """The walk, the texts that come of it, and where K/V go, also those of an SSM."""
    world = World(seed)
    trees = world.trees()
    tables = tables_of(trees)
    best = random_best(world, trees)
    path, outcome = poisoned(LANES, NODES), poisoned(LANES, NODES + 2)
    walk_greedy(best.view(-1), *tables.values(), path, outcome)

    own_trees = world.trees()  # of an SSM that may have proposed something else
    for lane in world.used[::2]:
        own_trees[lane] = trees[lane]
    computed = world.generator.randint(1, NODES)
    length, pages, text = world.length, world.lane_pages, world.text
    moves, have = poisoned(2, LANES * NODES), torch.tensor([7] * LANES)
    own = tables_of(own_trees).values()
    given = outcome, length, *own, have, pages, moves, computed
    take_draft(*given, **world.scratch)
    draft_moves = moves.clone()
    take(outcome, path, pages, text, length, moves, **world.scratch)

    for lane, tree in enumerate(trees):
        own_moves = [m[:, lane * NODES : (lane + 1) * NODES] for m in (moves, draft_moves)]
        if tree is None:
            assert outcome[lane].tolist() == [0] + [-1] * (NODES + 1)
            assert path[lane].tolist() == [-1] * NODES
            assert [length[lane].item(), have[lane].item()] == [0, 7]
            assert not any(m.any() for m in own_moves)
            continue
        accepted = follow(tree, lambda node, lane=lane: int(best[lane, node]))  # type: ignore[misc]
        nodes, tokens = accepted.nodes, accepted.tokens
        assert path[lane].tolist() == nodes + [-1] * (NODES - len(nodes))
        behind = [-1] * (NODES + 1 - len(tokens))
        assert outcome[lane].tolist() == [len(tokens), *tokens, *behind]
        whole = [*world.texts[lane], *tokens]
        assert length[lane] == len(whole)
        assert text[lane, : len(whole)].tolist() == whole
        assert (text[lane, len(whole) :] == POISON).all()
        own_tree = own_trees[lane]
        assert own_tree
        kept = [node for node in own_tree.follow(tokens[:-1]) if node < computed]
        assert have[lane] == len(world.texts[lane]) + len(kept)
        for committed, found in zip((nodes, kept), own_moves, strict=True):
            host = World(seed).decoder
            host.slots.commit(lane, len(world.texts[lane]))
            right = host.moves([(lane, [node - 1 for node in committed])])
            assert found[:, : len(committed)].equal(right)
            assert not found[:, len(committed) :].any()


def test_an_empty_tree_takes_the_next_token() -> None:
    """Where nothing is speculated, an iteration is a step of plain decoding."""
    tokens, parents, count = torch.tensor([[5]]), torch.tensor([[-1]]), torch.tensor([1])
    path, outcome = poisoned(1, 1), poisoned(1, 3)
    walk_greedy(torch.tensor([8]), tokens, parents, count, path, outcome)
    assert (path.tolist(), outcome.tolist()) == ([[-1]], [[1, 8, -1]])
    step = step_tables(1, 1, 1, 1, 1)
    pages, scratch = torch.tensor([[2]]), {"scratch_start": 64, "scratch_nodes": 1}
    verify_batch(torch.tensor([3]), tokens, parents, count, pages, *step.values(), **scratch)
    row = SimpleNamespace(**{name: field.item() for name, field in vars(step["rows"]).items()})
    assert (row.tokens, row.positions, row.request, row.slots) == (5, 2, 0, 34)
    assert step["tree"].tolist() == [[34]]
