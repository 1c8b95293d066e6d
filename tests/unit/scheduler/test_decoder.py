"""A decoder computes chains and trees, and holds the K/V of what was committed.

Each test drives it as speculation does and compares with plain float64 passes over whole texts.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch
from tiny_models import (
    Sizes,
    TinyModel,
    audit_kv,
    kv_memory,
    make_decoder,
    make_room,
    plain_forward,
    random_parents,
    tiny_config,
    tiny_model,
)
from torch import Tensor

from specinfer.scheduler.decoder import Decoder, Work

VOCABULARY = 40
NODES = 90
SIZES = Sizes(requests=3, rows=64, length=80)
NEAR = 5e-5
"""What float32 may be off by, two layers deep; K/V of another token are off by 0.1 and more."""


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def model(request: pytest.FixtureRequest) -> TinyModel:
    return tiny_model(3, tiny_config(request.param, vocabulary=VOCABULARY))


def step(decoder: Decoder, works: list[Work]) -> Tensor:
    """Logits of a step, one row for each that was asked for."""
    logits = decoder.model.runtime.read(decoder.step(works))
    assert isinstance(logits, Tensor)
    return logits.clone()


def path_to(parents: list[int], node: int) -> list[int]:
    above = path_to(parents, parents[node]) if parents[node] >= 0 else []
    return [*above, node]


def random_tokens(generator: random.Random, count: int) -> list[int]:
    return [generator.randrange(VOCABULARY) for _ in range(count)]


@dataclass
class Speculating:
    """A request in a random walk: its text, and the tree that hangs behind it."""

    text: list[int]
    parents: list[int]
    tokens: list[int]
    computed: int = 0

    def right_logits(self, model: TinyModel, first: int, last: int) -> Tensor:
        """Logits behind the text and each of the tree's nodes ``first`` to ``last``."""
        rows = [plain_forward(model, self.text).logits[-1]] if first == 0 else []
        for node in range(first, last):
            path = [self.tokens[n] for n in path_to(self.parents, node)]
            rows.append(plain_forward(model, [*self.text, *path]).logits[-1])
        return torch.stack(rows)


@pytest.mark.parametrize("seed", range(6))
def test_logits_and_kv_are_those_of_the_paths(model: TinyModel, seed: int) -> None:
    """Random prompts in chunks, trees in one step or several, and commits of random paths."""
    generator = random.Random(seed)
    decoder = make_decoder(model, SIZES, nodes=NODES)
    texts: dict[int, list[int]] = {}
    for request in range(3):
        assert make_room(decoder, request, SIZES.length)
        texts[request] = random_tokens(generator, generator.choice([1, 2, 15, 16, 17, 30]))
    for request, text in texts.items():
        split = generator.randint(0, len(text) - 1)
        if split:
            works = [Work(request=request, chain=text[:split], chain_logits=False)]
            assert len(step(decoder, works)) == 0
        logits = step(decoder, [Work(request=request, chain=text[split:])])
        right = plain_forward(model, text).logits[-1:]
        torch.testing.assert_close(logits.double(), right, atol=NEAR, rtol=NEAR)

    for _ in range(4):
        trees = {}
        for request, text in texts.items():
            text += random_tokens(generator, generator.choice([1, 1, 1, 3]))
            nodes = generator.choice([0, 1, 5, 20, 20, 70, NODES])
            parents = random_parents(generator, nodes)
            trees[request] = Speculating(text, parents, random_tokens(generator, nodes))
        # Drafting computes a tree level by level; verification all of it at once.
        for last_step in range(generator.choice([1, 1, 3])):
            works, right_rows = [], []
            for request, tree in trees.items():
                stop = generator.randint(tree.computed, len(tree.tokens))
                if last_step == 0 or stop > tree.computed:
                    chain = tree.text[decoder.slots.length(request) :]
                    first = tree.computed
                    works.append(
                        Work(
                            request=request,
                            chain=chain,
                            tokens=tree.tokens[:stop],
                            parents=tree.parents[:stop],
                            computed=first,
                        )
                    )
                    rows = tree.right_logits(model, first, stop)
                    right_rows.append(rows if chain or first else rows[1:])
                    tree.computed = stop
            if works:
                logits = step(decoder, works)
                torch.testing.assert_close(
                    logits.double(), torch.cat(right_rows), atol=NEAR, rtol=NEAR
                )
        paths = []
        for request, tree in trees.items():
            assert decoder.slots.length(request) == len(tree.text)
            path = (
                path_to(tree.parents, generator.randrange(tree.computed)) if tree.computed else []
            )
            path = path[: SIZES.length - 5 - len(tree.text)]
            paths.append((request, path))
            texts[request] = tree.text + [tree.tokens[node] for node in path]
        decoder.commit(paths)
        for request, text in texts.items():
            assert decoder.slots.length(request) == len(text)
            assert audit_kv(decoder, model, request, text) < NEAR


def test_requests_do_not_see_each_other(model: TinyModel) -> None:
    """A request's logits are the same alone and among others."""
    texts = [[1, 2, 3], [7] * 20, [5, 4]]
    together = make_decoder(model, SIZES, nodes=NODES)
    for request in range(3):
        make_room(together, request, 40)
    works = [
        Work(request=request, chain=text, tokens=[8, 9], parents=[-1, 0])
        for request, text in enumerate(texts)
    ]
    rows = step(together, works).view(3, 3, VOCABULARY)
    for request, work in enumerate(works):
        alone = make_decoder(model, SIZES, nodes=NODES)
        make_room(alone, request, 40)
        torch.testing.assert_close(step(alone, [work]), rows[request], atol=1e-5, rtol=1e-5)


def test_slots_of_a_released_request_serve_the_next(model: TinyModel) -> None:
    decoder = make_decoder(model, Sizes(requests=1, length=32), nodes=4)
    free = decoder.slots.num_available
    for request, token in enumerate([3, 4, 5]):
        assert make_room(decoder, request, 32)
        assert not make_room(decoder, 9, 1)
        assert 9 not in decoder.slots
        text = [token] * 20
        step(decoder, [Work(request=request, chain=text)])
        assert audit_kv(decoder, model, request, text) < NEAR
        decoder.slots.release(request)
        assert decoder.slots.num_available == free


def test_uncommitted_nodes_touch_no_committed_slot(model: TinyModel) -> None:
    decoder = make_decoder(model, SIZES, nodes=NODES)
    make_room(decoder, 0, 60)
    step(decoder, [Work(request=0, chain=[1, 2, 3])])
    committed = torch.from_numpy(decoder.slots.committed(0, 0, 3))
    before = kv_memory(decoder, "k")[:, committed].clone()
    step(decoder, [Work(request=0, tokens=[4, 5, 6], parents=[-1, -1, 1])])
    assert torch.equal(kv_memory(decoder, "k")[:, committed], before)
    assert decoder.slots.length(0) == 3
    nowhere = torch.from_numpy(decoder.slots.committed(0, 3, 6))
    assert kv_memory(decoder, "k")[:, nowhere].isnan().all()


def test_committing_nothing_does_nothing(model: TinyModel) -> None:
    decoder = make_decoder(model, SIZES, nodes=NODES)
    make_room(decoder, 0, 60)
    decoder.commit([])
    decoder.commit([(0, [])])
    assert decoder.slots.length(0) == 0
