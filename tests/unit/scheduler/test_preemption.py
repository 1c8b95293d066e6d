"""Requests that lose their K/V, or find those of others, write the same texts."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from tiny_models import (
    Draft,
    Sizes,
    audit_kv,
    first_tie,
    make_bench,
    noisy_copy,
    plain_greedy,
    tiny_config,
    tiny_model,
)

from specinfer.scheduler.iteration import Budgets, Iteration
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators.ngram import NGramSpeculator

MODEL = tiny_model(3, tiny_config())
PAGES = 8


def serve(seed: int, seen: Counter[str]) -> None:
    rng = random.Random(seed)
    ssms = [Draft(noisy_copy(MODEL, n, 0.02), (2, 1, 1)) for n in (1, 2)]
    sizes = Sizes(requests=4, rows=rng.choice([64, 20]), length=128, pages=PAGES)
    bench = make_bench(MODEL, [*ssms, NGramSpeculator(6)], sizes)
    requests = []
    for id in range(12):
        end = [rng.randrange(40) for _ in range(rng.randint(1, 20))]
        prompt = [5] * rng.choice([0, 16, 32]) + end
        requests.append(Request(id=id, prompt=prompt, max_new_tokens=rng.randint(1, 60)))
        bench.engine.submit(requests[-1])
    begin = bench.engine._batcher.begin

    def noted(budgets: Budgets | None = None) -> Iteration:
        iteration = begin(budgets)
        seen["preempted"] += len(iteration.preempted)
        seen["found"] += sum(admitted.cached > 0 for admitted in iteration.admitted)
        asked = sum(map(len, iteration.drafts))
        seen["not asked"] += len(ssms) * len(iteration.decodes) - asked
        return iteration

    bench.engine._batcher.begin = noted  # type: ignore[method-assign]
    while not bench.engine.is_idle:
        bench.engine.step()
        seen["iteration"] += 1
        # Whole pools, not in every iteration: the oracle computes all texts from nothing.
        models = [(bench.llm, MODEL), *[(d, draft.model) for d, draft in bench.ssms]]
        for decoder, model in models if seen["iteration"] % 4 == 0 else []:
            for id in decoder.slots.requests:
                assert audit_kv(decoder, model, id, requests[id].tokens) < 5e-5
    for request in requests:
        right = plain_greedy(MODEL, request.prompt, request.max_new_tokens)
        certain = first_tie(MODEL, request.prompt, right)
        assert request.output[:certain] == right[:certain]
    for decoder in [bench.llm, *[decoder for decoder, _ in bench.ssms]]:
        assert decoder.slots.num_available == PAGES


def test_texts_and_kv_are_right_in_pools_that_are_too_small() -> None:
    """The K/V of all models, as a pass over the whole text computes them, amid 200 iterations."""
    seen: Counter[str] = Counter()
    for seed in range(6):
        serve(seed, seen)
    assert min(seen["preempted"], seen["found"], seen["not asked"]) > 10, seen
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
