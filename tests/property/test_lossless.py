"""Lossless speculation: whatever is guessed, the text is the one that the LLM alone writes.

The oracle is a plain float64 pass over each whole text, which knows neither caches nor trees: every
token written has to be its likeliest. Where the two best logits are closer than float32 can tell
apart, the rest of that text is not judged.

The second half plants bugs. Those that change texts must be found here; a bug in a speculator
changes none, by design, and must be found by looking at the SSM's K/V instead.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import (
    Bench,
    Draft,
    Sizes,
    TinyModel,
    audit_kv,
    first_tie,
    make_bench,
    noisy_copy,
    plain_greedy,
    tiny_config,
    tiny_model,
)

from specinfer.models.batch import IntArray, TokenBatch, ancestor_bits
from specinfer.runtime.privilege import RW
from specinfer.runtime.task import task
from specinfer.scheduler.decoder import Decoder, Work, _depths
from specinfer.scheduler.engine import Event
from specinfer.scheduler.kv_pages import KVPages
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.speculators.ssm import SSMSpeculator
from specinfer.scheduler.token_tree import TokenTree
from specinfer.scheduler.verifiers import Accepted, follow

NUM_SCENARIOS = 40
SEEN_OFTEN = {
    "end of text inside an accepted run": 10,
    "tree of more than 64 nodes": 10,
    "accepted node behind the 64th": 5,
    "prompt computed in chunks": 10,
    "prompt and trees in one pass": 10,
    "request that had to wait": 10,
    "whole branch accepted": 10,
    "nothing accepted": 10,
    "one token wanted": 5,
    "node that several drafters proposed": 10,
    "tree of several drafters": 10,
}
"""What the scenarios must try, and how often at least."""


class Lossy(AssertionError):
    """A text that the LLM alone would not have written."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a request asks for, and the tokens that end its text."""

    tokens: tuple[int, ...]
    max_new_tokens: int
    eos_ids: frozenset[int]
    plain: tuple[int, ...]
    num_certain: int

    @property
    def right(self) -> list[int]:
        """What has to be written; up to the first tie only."""
        ends = [i + 1 for i, token in enumerate(self.plain) if token in self.eos_ids]
        return list(self.plain[: min(ends, default=self.max_new_tokens)][: self.num_certain])


@dataclass(frozen=True, slots=True)
class Scenario:
    """A model, requests, and what speculates for them."""

    model: TinyModel
    prompts: tuple[Prompt, ...]
    drafts: tuple[Draft | int, ...]
    sizes: Sizes
    processors: tuple[str, ...]

    def bench(self) -> Bench:
        speculators: list[Draft | Speculator] = [
            NGramSpeculator(draft, min_match=1) if isinstance(draft, int) else draft
            for draft in self.drafts
        ]
        return make_bench(self.model, speculators, self.sizes, self.processors)

    def requests(self) -> list[Request]:
        return [
            Request(id=n, prompt=p.tokens, max_new_tokens=p.max_new_tokens, eos_ids=p.eos_ids)
            for n, p in enumerate(self.prompts)
        ]


@cache
def scenario(seed: int) -> Scenario:
    generator = random.Random(seed)
    model = _random_model(generator)
    prompts = tuple(_random_prompt(generator, model) for _ in range(generator.randint(1, 5)))
    drafts = tuple(_random_drafts(generator, model))
    sizes = Sizes(
        requests=generator.randint(1, 3), rows=generator.choice([1, 3, 16, 100]), length=112
    )
    is_compiled = model.dtype == torch.float32 and generator.random() < 0.5
    processors = ("numba", "cpu") if is_compiled else ("cpu",)
    return Scenario(model, prompts, drafts, sizes, processors)


def _random_model(generator: random.Random) -> TinyModel:
    """A model whose texts are varied: not every random one has that much to say."""
    while True:
        kv_heads = generator.choice([1, 2, 3])
        config = tiny_config(
            generator.choice(["llama", "qwen2"]),
            vocabulary=generator.choice([12, 30, 50]),
            layers=generator.choice([1, 2, 2, 3]),
            heads=kv_heads * generator.choice([1, 2]),
            kv_heads=kv_heads,
            tie_word_embeddings=generator.random() < 0.3,
        )
        dtype = torch.float64 if generator.random() < 0.2 else torch.float32
        model = tiny_model(generator.randrange(1000), config, dtype=dtype)
        if len(set(plain_greedy(model, [1, 2, 3], 20))) >= 8:
            return model


def _random_prompt(generator: random.Random, model: TinyModel) -> Prompt:
    vocabulary = model.config["vocab_size"]
    tokens = [generator.randrange(vocabulary) for _ in range(generator.randint(1, 60))]
    if generator.random() < 0.3:  # a text that repeats, for the n-grams
        tokens = (tokens[:7] * 9)[: len(tokens)]
    wanted = generator.choice([1, 2, 3, 10, 20, 20, 35, 35])
    plain = plain_greedy(model, tokens, wanted)
    # Any token may end the text; one written late and not before makes a long text that ends.
    late = [t for i, t in enumerate(plain) if i > wanted // 3 and t not in plain[:i]]
    eos = generator.choice([[], late[:1], late[-1:], [generator.randrange(vocabulary)]])
    num_certain = first_tie(model, tokens, plain)
    return Prompt(tuple(tokens), wanted, frozenset(eos), tuple(plain), num_certain)


def _random_drafts(generator: random.Random, model: TinyModel) -> list[Draft | int]:
    layers = model.config["num_hidden_layers"]
    drafts: list[Draft | int] = []
    for _ in range(generator.choice([1, 1, 1, 2, 2, 3])):
        kind = generator.choice(["ngram", "self", "close", "prefix", "other"])
        expansion = _random_expansion(generator)
        if kind == "ngram":
            drafts.append(generator.choice([1, 4, 12, 70]))
        elif kind == "self":
            drafts.append(Draft(model, expansion))
        elif kind == "close":
            drafts.append(Draft(noisy_copy(model, generator.randrange(1000)), expansion))
        elif kind == "prefix":
            drafts.append(Draft(model, expansion, layers=generator.randint(1, layers)))
        else:
            drafts.append(Draft(tiny_model(generator.randrange(1000), model.config), expansion))
    return drafts


def _random_expansion(generator: random.Random) -> tuple[int, ...]:
    if generator.random() < 0.35:
        return generator.choice([(2, 2, 2, 2, 2, 1), (1, 3, 3, 3, 1, 1), (4, 4, 2, 1, 1), (9, 8)])
    return tuple(generator.choice([1, 1, 1, 2, 3]) for _ in range(generator.randint(1, 5)))


# The law


def write(scene: Scenario, seen: Counter[str] | None = None) -> list[list[int]]:
    """Serve a scenario's requests to the end."""
    bench, requests = scene.bench(), scene.requests()
    for request in requests:
        bench.engine.submit(request)
    while not bench.engine.is_idle:
        events = bench.engine.step()
        if seen is not None:
            _note(seen, events)
            seen["request that had to wait"] += len(events) < len(requests) and any(
                request.id not in bench.llm.slots and request.finish_reason is None
                for request in requests
            )
    assert not bench.llm.slots.requests
    assert not any(decoder.slots.requests for decoder, _ in bench.ssms)
    return [request.output for request in requests]


def _note(seen: Counter[str], events: Sequence[Event]) -> None:
    trees = [event for event in events if event.tree is not None]
    seen["prompt computed in chunks"] += any(not event.tokens for event in events)
    seen["prompt and trees in one pass"] += 0 < len(trees) < len(events)
    for event in events:
        request, tree, nodes = event.request, event.tree, event.accepted
        seen["one token wanted"] += request.max_new_tokens == 1
        if tree is None:
            continue
        # The text ends at a node, not at the LLM's own token.
        seen["end of text inside an accepted run"] += len(nodes) == len(event.tokens)
        proposers = [{p.drafter for p in proposals} for proposals in tree.proposals]
        seen["tree of more than 64 nodes"] += len(tree) > 65
        seen["accepted node behind the 64th"] += any(node > 64 for node in nodes)
        seen["whole branch accepted"] += bool(nodes) and not tree.children(nodes[-1])
        seen["nothing accepted"] += len(tree) > 1 and not nodes
        seen["tree of several drafters"] += len(set().union(*proposers)) > 1
        seen["node that several drafters proposed"] += max(map(len, proposers)) > 1


def check(scene: Scenario, seen: Counter[str] | None = None) -> None:
    """Raise :class:`Lossy` unless every text is the one that the LLM alone writes."""
    for prompt, output in zip(scene.prompts, write(scene, seen), strict=True):
        if output[: len(prompt.right)] != prompt.right:
            raise Lossy(f"wrote {output}, expected {prompt.right} behind {prompt.tokens}")
        if len(prompt.right) < prompt.num_certain and len(output) != len(prompt.right):
            raise Lossy(f"wrote {output}, expected the text to end as {prompt.right}")


def check_all(seeds: Iterable[int]) -> None:
    for seed in seeds:
        check(scenario(seed))


@cache
def judged(seed: int) -> tuple[Lossy | None, Counter[str]]:
    """What became of a scenario, and what happened in it."""
    seen: Counter[str] = Counter()
    try:
        check(scenario(seed), seen)
    except Lossy as lossy:
        return lossy, seen
    return None, seen


@pytest.mark.parametrize("seed", range(NUM_SCENARIOS))
def test_speculation_does_not_change_the_text(seed: int) -> None:
    lossy, _ = judged(seed)
    if lossy:
        raise lossy


@pytest.mark.parametrize("seed", range(0, NUM_SCENARIOS, 3))
def test_without_speculation_the_text_is_the_same(seed: int) -> None:
    check(replace(scenario(seed), drafts=()))


def test_the_scenarios_try_what_they_are_for() -> None:
    seen = sum((judged(seed)[1] for seed in range(NUM_SCENARIOS)), Counter[str]())
    assert {what: seen[what] for what, n in SEEN_OFTEN.items() if seen[what] < n} == {}
    texts = [set(p.plain) for seed in range(NUM_SCENARIOS) for p in scenario(seed).prompts]
    assert sum(len(text) > 6 for text in texts) > 30, "the texts say too little"


# Bugs planted: those that change texts


Plant = Callable[[pytest.MonkeyPatch], None]
BITS = "specinfer.scheduler.decoder.ancestor_bits"
DEPTHS = "specinfer.scheduler.decoder._depths"
COMMIT = "specinfer.scheduler.decoder.commit_kv"
VERIFY = "specinfer.scheduler.acceptance.follow"
MERGE = "specinfer.scheduler.drafting.merge"
right_batch, right_commit, right_pages = Decoder._batch, Decoder.commit, KVPages.pages


def ancestors_without_the_parent(patch: pytest.MonkeyPatch) -> None:
    def bits(parents: IntArray, words: int) -> IntArray:
        found = ancestor_bits(parents, words).view(np.uint64)
        for node, parent in enumerate(parents.tolist()):
            if parent >= 0:
                found[node, parent // 64] &= ~np.uint64(1 << parent % 64)
        return found.view(np.int64)

    patch.setattr(BITS, bits)


def ancestors_of_the_first_word_only(patch: pytest.MonkeyPatch) -> None:
    def bits(parents: IntArray, words: int) -> IntArray:
        found = ancestor_bits(parents, words)
        found[:, 1:] = 0
        nodes = np.arange(64, len(parents))
        found[nodes, nodes // 64] = np.left_shift(1, nodes % 64)
        return found

    patch.setattr(BITS, bits)


def siblings_see_each_other(patch: pytest.MonkeyPatch) -> None:
    def bits(parents: IntArray, words: int) -> IntArray:
        found = ancestor_bits(parents, words)
        for node, parent in enumerate(parents.tolist()):
            for sibling in np.flatnonzero(parents[:node] == parent):
                found[node] |= ancestor_bits(parents, words)[sibling]
        return found

    patch.setattr(BITS, bits)


def positions_of_nodes_off_by_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DEPTHS, lambda parents: _depths(parents) + 1)


def positions_of_nodes_by_their_number(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DEPTHS, lambda parents: np.arange(len(parents)))


def logits_of_the_row_before(patch: pytest.MonkeyPatch) -> None:
    def batch(self: Decoder, works: Sequence[Work]) -> TokenBatch:
        found = right_batch(self, works)
        return replace(found, logit_rows=np.maximum(found.logit_rows - 1, 0))

    patch.setattr(Decoder, "_batch", batch)


def pages_in_another_order(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(KVPages, "pages", lambda *args: right_pages(*args)[::-1].copy())


def commit_not_done(patch: pytest.MonkeyPatch) -> None:
    @task(kv=RW)
    def commit(kv: Any, moves: torch.Tensor) -> None:
        pass

    patch.setattr(COMMIT, commit)


def commit_to_the_wrong_slot(patch: pytest.MonkeyPatch) -> None:
    @task(kv=RW)
    def commit(kv: Any, moves: torch.Tensor) -> None:
        sources, targets = moves
        kv.k[:, targets.flip(0)] = kv.k[:, sources]
        kv.v[:, targets.flip(0)] = kv.v[:, sources]

    patch.setattr(COMMIT, commit)


def commit_of_the_wrong_node(patch: pytest.MonkeyPatch) -> None:
    def commit(self: Decoder, paths: Sequence[tuple[int, Sequence[int]]]) -> None:
        others = [(request, [max(0, node - 1) for node in nodes]) for request, nodes in paths]
        right_commit(self, others)

    patch.setattr(Decoder, "commit", commit)


def bonus_token_of_the_wrong_row(patch: pytest.MonkeyPatch) -> None:
    def verify(tree: TokenTree, predicted: Callable[[int], int]) -> Accepted:
        accepted = follow(tree, predicted)
        row = accepted.nodes[-2] if len(accepted.nodes) > 1 else 0
        return Accepted(accepted.nodes, [*accepted.tokens[:-1], predicted(row)])

    patch.setattr(VERIFY, verify)


def one_node_too_many_accepted(patch: pytest.MonkeyPatch) -> None:
    def verify(tree: TokenTree, predicted: Callable[[int], int]) -> Accepted:
        accepted = follow(tree, predicted)
        node = accepted.nodes[-1] if accepted.nodes else 0
        if not tree.children(node):
            return accepted
        child = tree.children(node)[0]
        tokens = [*accepted.tokens[:-1], tree.tokens[child], predicted(child)]
        return Accepted([*accepted.nodes, child], tokens)

    patch.setattr(VERIFY, verify)


def end_of_text_inside_a_run_ignored(patch: pytest.MonkeyPatch) -> None:
    def take(self: Request, tokens: Sequence[int], logprobs: object = ()) -> list[int]:
        kept = list(tokens)[: self.num_remaining]
        self.output += kept
        if kept[-1] in self.eos_ids:
            self.finish_reason = "eos"
        elif not self.num_remaining:
            self.finish_reason = "length"
        return kept

    patch.setattr(Request, "take", take)


LOSSY: list[Plant] = [
    ancestors_without_the_parent,
    ancestors_of_the_first_word_only,
    siblings_see_each_other,
    positions_of_nodes_off_by_one,
    positions_of_nodes_by_their_number,
    logits_of_the_row_before,
    pages_in_another_order,
    commit_not_done,
    commit_to_the_wrong_slot,
    commit_of_the_wrong_node,
    bonus_token_of_the_wrong_row,
    one_node_too_many_accepted,
    end_of_text_inside_a_run_ignored,
]


@pytest.mark.parametrize("plant", LOSSY, ids=lambda plant: plant.__name__)
def test_finds_a_bug_that_changes_texts(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(Lossy):
        check_all(range(NUM_SCENARIOS))


# Bugs planted: those of speculators, which change none


class StaleKV(AssertionError):
    """K/V of a decoder that are not those of the request's committed tokens."""


AUDITED = range(0, NUM_SCENARIOS, 5)


def audit(scene: Scenario) -> None:
    """Serve a scenario's requests; compare all decoders' K/V with plain passes on the way."""
    bench, requests = scene.bench(), scene.requests()
    for request in requests:
        bench.engine.submit(request)
    decoders = [(bench.llm, Draft(scene.model, ())), *bench.ssms]
    step = 0
    while not bench.engine.is_idle:
        running = {event.request.id for event in bench.engine.step()}
        step += 1
        for decoder, draft in decoders if step % 3 == 0 else []:
            for id in running & set(decoder.slots.requests):  # an SSM may have no room for one
                distance = audit_kv(decoder, draft.model, id, requests[id].tokens, draft.layers)
                if not distance < 1e-4:
                    raise StaleKV(f"K/V of request {id} are off by {distance}")


def audit_all(seeds: Iterable[int]) -> None:
    for seed in seeds:
        audit(scenario(seed))


@pytest.mark.parametrize("seed", AUDITED)
def test_all_models_hold_the_kv_of_the_text(seed: int) -> None:
    audit(scenario(seed))


def ssm_keeps_its_first_guess(patch: pytest.MonkeyPatch) -> None:
    """The SSM's cache is not cut to what was accepted."""

    def accept(self: SSMSpeculator, tokens: dict[int, list[int]]) -> None:
        paths = []
        for request, accepted in tokens.items():
            if request not in self._drafts:
                continue
            tree, nodes = self._drafts[request].tree, [0]
            while tree.children(nodes[-1]):
                nodes.append(tree.children(nodes[-1])[0])
            computed = self._drafts[request].computed
            kept = [node - 1 for node in nodes[1 : len(accepted)] if node < computed]
            paths.append((request, kept))
        self.decoder.commit(paths)

    patch.setattr(SSMSpeculator, "accept", accept)


def merge_keyed_by_token_only(patch: pytest.MonkeyPatch) -> None:
    """A tree of fewer paths is still a tree: found in ``test_token_tree.py``."""

    def merge(trees: Sequence[TokenTree]) -> TokenTree:
        merged = TokenTree(trees[0].root)
        for tree in trees:
            for node in range(1, len(tree)):
                parent = tree.tokens[tree.parents[node]]
                if tree.tokens[node] not in merged.tokens and parent in merged.tokens:
                    merged.add(merged.tokens.index(parent), tree.tokens[node])
        return merged

    patch.setattr(MERGE, merge)


@pytest.mark.parametrize(
    "plant", [ssm_keeps_its_first_guess, merge_keyed_by_token_only], ids=lambda p: p.__name__
)
def test_a_wrong_speculator_changes_no_text(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    check_all(AUDITED)


def test_finds_an_ssm_whose_cache_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    ssm_keeps_its_first_guess(monkeypatch)
    with pytest.raises(StaleKV):
        audit_all(AUDITED)
