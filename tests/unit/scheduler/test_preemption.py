"""Requests that lose their K/V, or find those of others, write the same texts."""

from __future__ import annotations

import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest
import torch
from tiny_models import (
    Bench,
    Draft,
    Sizes,
    TinyModel,
    kv_memory,
    make_bench,
    noisy_copy,
    plain_forward,
    plain_greedy,
    tiny_config,
    tiny_model,
)
from torch import Tensor

from specinfer.scheduler.decoder import Decoder
from specinfer.scheduler.iteration import Budgets, Iteration
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import GREEDY, SamplingParams
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.verifiers.chance import SeededChance

MODEL = tiny_model(3, tiny_config())
SSMS = [Draft(noisy_copy(MODEL, 1), (2, 1)), Draft(noisy_copy(MODEL, 2), (2,), layers=1)]
PAGES = 6
"""What the longest text takes: requests that run lose theirs to each other."""


class Audit:
    """What all K/V pools held, looked at again when texts are known: then one pass tells it all.

    Attributes:
        models: each with its decoder and how many layers of it run, the LLM first.
        seen: by model and request: keys and values of its committed tokens, as they were.
    """

    def __init__(self, bench: Bench) -> None:
        self.models: list[tuple[Decoder, TinyModel, int | None]] = [(bench.llm, MODEL, None)]
        self.models += [(decoder, draft.model, draft.layers) for decoder, draft in bench.ssms]
        self.seen: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def look(self) -> None:
        """Keep what is committed now: (layers, tokens, kv_heads, head_size) each."""
        for number, (decoder, *_) in enumerate(self.models):
            for id in decoder.slots.requests:
                slots = decoder.slots.committed(id, 0, decoder.slots.length(id))
                k, v = (kv_memory(decoder, name)[:, torch.from_numpy(slots)] for name in "kv")
                self.seen[number, id].append((k, v))

    def check(self, requests: Sequence[Request]) -> None:
        """Compare it with what a plain pass over each whole text computes."""
        for (number, id), found in self.seen.items():
            _, model, layers = self.models[number]
            right = plain_forward(model, requests[id].tokens, layers)
            for pair in found:
                for kept, whole in zip(pair, (right.keys, right.values), strict=True):
                    expected = whole[:, : kept.shape[1]]
                    distance = (kept.double() - expected).abs() / (1 + expected.abs())
                    assert (distance < 5e-5).all()  # and so no NaN


def check_text(request: Request) -> None:
    """Each token is the one that a plain pass over all before it picks."""
    before = len(request.prompt)
    logits = plain_forward(MODEL, request.tokens).logits[before - 1 : -1]
    for at, (token, row) in enumerate(zip(request.output, logits, strict=True), start=before):
        if request.sampling.is_greedy:
            assert row[token] > row.max() - 1e-4, f"request {request.id}: token {at}"
        else:
            seed = request.sampling.seed
            assert seed is not None
            law = torch.softmax(row / request.sampling.temperature, -1).numpy()
            assert token == SeededChance(seed).next_token(at, law), f"request {request.id}"


def a_request(id: int, rng: random.Random) -> Request:
    end = [rng.randrange(40) for _ in range(rng.randint(1, 8))]
    return Request(
        id=id,
        prompt=[5] * rng.choice([0, 0, 0, 16, 32]) + end,
        max_new_tokens=rng.choice([9, 50, 50, 50]),
        sampling=rng.choice([GREEDY, SamplingParams(temperature=0.8, seed=id)]),
    )


def serve(seed: int, rows: int, seen: Counter[str]) -> None:
    """Serve requests in pools that are too small; count what happened."""
    rng = random.Random(seed)
    sizes = Sizes(requests=5, rows=rows, length=128, pages=PAGES)
    bench = make_bench(MODEL, [*SSMS, NGramSpeculator(4)], sizes, verifier="coupled")
    audit = Audit(bench)
    requests = [a_request(id, rng) for id in range(26)]
    for request in requests:
        bench.engine.submit(request)
    begin = bench.engine._batcher.begin

    def noted(budgets: Budgets | None = None) -> Iteration:
        iteration = begin(budgets)
        seen["preempted"] += len(iteration.preempted)
        lost = [requests[id] for id in iteration.preempted]
        seen["preempted that sample"] += sum(not r.sampling.is_greedy for r in lost)
        seen["found"] += sum(admitted.cached > 0 for admitted in iteration.admitted)
        asked = sum(map(len, iteration.drafts))
        seen["not asked"] += len(SSMS) * len(iteration.decodes) - asked
        return iteration

    bench.engine._batcher.begin = noted  # type: ignore[method-assign]
    gone: set[int] = set()
    while not bench.engine.is_idle:
        bench.engine.step()
        seen["iteration"] += 1
        audit.look()
        going = [r.id for r in requests if r.finish_reason is None and r.id not in gone]
        if going and rng.random() < 0.04:
            id = rng.choice(going)
            gone.add(id)
            bench.engine.cancel(id)
    seen["cancelled"] += len(gone)
    assert all(request.finish_reason or request.id in gone for request in requests)
    audit.check(requests)
    for request in requests:
        check_text(request)
    for decoder, *_ in audit.models:
        assert decoder.slots.num_available == PAGES


def test_texts_and_kv_are_right_in_pools_that_are_too_small() -> None:
    """All K/V behind each of 200 iterations are those of a pass over the whole text."""
    seen: Counter[str] = Counter()
    for seed, rows in enumerate((20, 64)):
        serve(seed, rows, seen)
    often = ("preempted", "preempted that sample", "found", "not asked", "cancelled")
    assert min(seen[what] for what in often) > 8, seen
    assert seen["iteration"] >= 200, seen


def test_an_iteration_that_breaks_off_is_done_anew() -> None:
    bench = make_bench(MODEL, [Draft(noisy_copy(MODEL, 1, 0.02), (2, 1))], Sizes(requests=2))
    requests = [Request(id=id, prompt=[id, 5], max_new_tokens=20) for id in range(3)]
    for request in requests:
        bench.engine.submit(request)
    commit, num_calls = bench.llm.commit, 0

    def breaks(paths: Sequence[tuple[int, Sequence[int]]]) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls % 3 == 0:
            raise KeyboardInterrupt
        commit(paths)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(bench.llm), "commit", lambda decoder, paths: breaks(paths))
        while not bench.engine.is_idle:
            with contextlib.suppress(KeyboardInterrupt):
                bench.engine.step()
    assert num_calls > 5
    for request in requests:
        assert request.output == plain_greedy(MODEL, request.prompt, 20)
