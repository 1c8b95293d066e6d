"""A GPU writes what the oracle writes, whatever is guessed; its steps are replayed as graphs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from gpu.gpu_runtime import gpu_runtime
from tiny_models import (
    Draft,
    Sizes,
    make_bench,
    noisy_copy,
    plain_greedy,
    reduced,
    tiny_config,
    tiny_model,
)

from specinfer.scheduler import engine
from specinfer.scheduler.lanes.ladder import Climb, Ladder
from specinfer.scheduler.lanes.rungs import Rung
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.step_cost import StepCost

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")

CONFIG = tiny_config(hidden=256, inner=96, heads=4, kv_heads=2)
MODEL = tiny_model(4, CONFIG)
SSM = Draft(noisy_copy(MODEL, 1, 0.02), (2, 1, 1))
WIDE = Draft(noisy_copy(MODEL, 2, 0.05), (3, 2, 2, 1))
KNOWN = tuple(range(0, 40, 3))
FEW = Draft(reduced(SSM.model, KNOWN), (2, 2, 1), known=(KNOWN, 40))
DRAFTS: dict[str, list[Draft | Speculator]] = {
    "incremental": [],
    "SSM": [SSM],
    "two SSMs": [SSM, WIDE],
    "n-grams": [NGramSpeculator()],
    "an SSM that knows few tokens": [FEW],
    "two SSMs and n-grams": [SSM, WIDE, NGramSpeculator()],
}
PROMPTS = [[1, 2, 3], [4, 5], [7] * 20, list(range(30)), [9, 8, 7, 6, 5], [3]]


def request(id: int, prompt: list[int], max_new_tokens: int) -> Request:
    return Request(id=id, prompt=prompt, max_new_tokens=max_new_tokens, eos_ids=frozenset({-1}))


@pytest.mark.parametrize("how", ["serial", "ahead", "lanes"])
@pytest.mark.parametrize("drafts", DRAFTS)
def test_writes_what_the_oracle_writes(drafts: str, how: str) -> None:
    runtime = gpu_runtime()
    sizes = Sizes(requests=3, rows=48, length=128)
    lookahead, lanes = int(how != "serial"), how == "lanes"
    bench = make_bench(
        MODEL, DRAFTS[drafts], sizes, runtime=runtime, lookahead=lookahead, lanes=lanes
    )
    for _ in range(2):  # graphs are replayed the second time
        requests = [request(id, prompt, 40) for id, prompt in enumerate(PROMPTS)]
        assert bench.write(requests) == [plain_greedy(MODEL, prompt, 40) for prompt in PROMPTS]
    if lanes:
        assert bench.engine.stats.num_by_lanes > 20
    if how != "ahead":
        assert sum(trace.stats.replayed for trace in runtime.traces) > 20
    runtime.close()


class AnyRung:
    """A ladder that takes chances."""

    def __init__(self, rungs: Sequence[Rung], cost: StepCost) -> None:
        self._rungs = rungs
        self._generator = random.Random(5)
        self._last = 0

    def begin(self) -> None:
        """It does not matter."""

    def next(self, lanes: int, left: int) -> int:
        """Any of them, and mostly the last one again: graphs are to be replayed."""
        if self._generator.random() < 0.3:
            self._last = self._generator.randrange(len(self._rungs))
        return self._last

    def took(self, climb: Climb) -> None:
        """It does not matter, either."""


@pytest.mark.parametrize("is_sampled", [False, True])
@pytest.mark.parametrize("ladder", [Ladder, AnyRung])
@pytest.mark.parametrize("drafts", [name for name in DRAFTS if DRAFTS[name]])
def test_trees_of_any_size_write_the_same(
    drafts: str, ladder: Any, is_sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "Ladder", ladder)
    runtime = gpu_runtime()
    cost = StepCost((1, 64), (1.0, 1.2))
    sizes = Sizes(requests=3, rows=48, length=128)
    bench = make_bench(
        MODEL, DRAFTS[drafts], sizes, runtime=runtime, lookahead=1, lanes=True, cost=cost
    )
    plain = make_bench(MODEL, [], sizes)
    for _ in range(3):
        texts = []
        for one in (plain, bench):
            requests = [request(id, prompt, 60) for id, prompt in enumerate(PROMPTS)]
            for each in requests:
                if is_sampled:
                    each.sampling = SamplingParams(temperature=0.8, top_p=0.9, seed=each.id)
            texts.append(one.write(requests))
        assert texts[0] == texts[1]
    assert bench.engine.stats.num_by_lanes > 40
    runtime.close()


@pytest.mark.parametrize("lanes", [False, True])
@pytest.mark.parametrize("drafts", ["SSM", "an SSM that knows few tokens", "two SSMs and n-grams"])
def test_sampled_texts_are_those_of_the_cpu(drafts: str, lanes: bool) -> None:
    runtime = gpu_runtime()
    texts = []
    for given in (runtime, None):
        bench = make_bench(
            MODEL,
            DRAFTS[drafts],
            Sizes(),
            runtime=given,
            verifier="coupled",
            lookahead=int(lanes and given is not None),
            lanes=lanes,
        )
        requests = [request(id, prompt, 60) for id, prompt in enumerate(PROMPTS)]
        for one in requests:
            top_k, min_p = (0, 3)[one.id % 2], (0.0, 0.1)[one.id // 3]
            one.sampling = SamplingParams(
                temperature=0.8, top_p=0.9, top_k=top_k, min_p=min_p, seed=one.id
            )
        texts.append(bench.write(requests))
        if lanes and given is not None:
            assert bench.engine.stats.num_by_lanes > 20
    assert texts[0] == texts[1]
    runtime.close()
