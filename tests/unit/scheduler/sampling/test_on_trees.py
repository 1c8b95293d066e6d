"""Each node of a tree is processed with its own path as history: texts are those without trees."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_models import Draft, Sizes, make_bench, noisy_copy, plain_forward, tiny_config, tiny_model

from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.sampling.process import distribution
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.verifiers.chance import SeededChance

LLM = tiny_model(4, tiny_config(vocabulary=12))
GOOD = noisy_copy(LLM, 1)
PROMPT = [3, 5, 3, 7, 5]
PARAMS = {
    "repetition": SamplingParams(repetition_penalty=1.8),
    "counts": SamplingParams(frequency_penalty=0.5, presence_penalty=0.4),
    "bad words": SamplingParams(bad_words=((3, 5), (7,), (1, 2, 4), (8, 8))),
    "least length": SamplingParams(min_new_tokens=9, end_ids=frozenset({1, 2, 3})),
    "all, sampled": SamplingParams(
        temperature=1.3,
        top_p=0.9,
        min_p=0.01,
        repetition_penalty=1.2,
        frequency_penalty=0.2,
        bad_words=((3, 5), (8, 8)),
        logit_bias={4: 1.0},
        seed=11,
    ),
}


def plain_text(params: SamplingParams, count: int) -> list[int]:
    """A pass over the whole text for each token."""
    output: list[int] = []
    for _ in range(count):
        tokens = [*PROMPT, *output]
        row = distribution(plain_forward(LLM, tokens).logits[-1], params, PROMPT, output).numpy()
        if params.is_greedy:
            output.append(int(row.argmax()))
        else:
            output.append(SeededChance(params.seed or 0).next_token(len(tokens), row))
    return output


@pytest.mark.parametrize("name", PARAMS)
def test_a_tree_changes_no_text(name: str) -> None:
    params = PARAMS[name]
    drafts: list[Any] = [Draft(GOOD, (2, 2, 1)), NGramSpeculator(min_match=1)]
    asked = Request(id=0, prompt=PROMPT, max_new_tokens=24, sampling=params)
    bench = make_bench(LLM, drafts, Sizes())
    assert bench.write([asked]) == [plain_text(params, 24)]
    assert bench.engine.stats.tokens_per_step > 1, "no guess was right: the test shows nothing"
