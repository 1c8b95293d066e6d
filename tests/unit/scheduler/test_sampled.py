"""Sampling through the real engine: drafters and neighbours change nothing; the law is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import (
    Draft,
    Sizes,
    make_bench,
    noisy_copy,
    plain_forward,
    reduced,
    tiny_config,
    tiny_model,
)

from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.verifiers.choice import VERIFIERS

LLM = tiny_model(4, tiny_config(vocabulary=12))
GOOD, OTHER = noisy_copy(LLM, 1), noisy_copy(LLM, 2, 0.05)
DRAFTS: dict[str, Any] = {
    "no speculation": list,
    "n-gram": lambda: [NGramSpeculator(min_match=1)],
    "SSM": lambda: [Draft(GOOD, (1, 2, 1))],
    "two SSMs and n-grams": lambda: [
        Draft(GOOD, (2, 1)),
        Draft(OTHER, (1, 1, 1)),
        NGramSpeculator(min_match=1),
    ],
    "SSM, best first": lambda: [Draft(GOOD, (4, 4, 4), nodes=7)],
    "SSM of some tokens": lambda: [
        Draft(reduced(GOOD, range(3, 12)), (1, 2, 1), known=(tuple(range(3, 12)), 12))
    ],
    "SSM that draws": lambda: [Draft(GOOD, (2, 2), draws="without_replacement")],
    "the LLM itself": lambda: [Draft(LLM, (1, 1, 1))],
}


def request(number: int, temperature: float = 1.0, tokens: int = 20) -> Request:
    generator = np.random.default_rng(number)
    prompt = generator.integers(0, 12, 5 + number % 7).tolist()
    sampling = SamplingParams(temperature=temperature, seed=number)
    return Request(id=number, prompt=prompt, max_new_tokens=tokens, sampling=sampling)


def plain_text(asked: Request) -> list[int]:
    """By the oracle: float64 passes over the whole text, and the noise of each position."""
    from specinfer.scheduler.verifiers.chance import SeededChance

    tokens, seed = list(asked.prompt), asked.sampling.seed
    assert seed is not None
    for _ in range(asked.max_new_tokens):
        logits = plain_forward(LLM, tokens).logits[-1] / asked.sampling.temperature
        row = torch.softmax(logits, -1).numpy()
        tokens.append(SeededChance(seed).next_token(len(tokens), row))
    return tokens[len(asked.prompt) :]


@pytest.mark.parametrize("drafts", DRAFTS)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_coupled_texts_are_those_of_sampling_alone(drafts: str, temperature: float) -> None:
    """Whatever is guessed, and whoever is in the batch."""
    asked = [request(number, temperature) for number in range(8)]
    bench = make_bench(LLM, DRAFTS[drafts](), Sizes(requests=3))
    assert bench.write(asked) == [plain_text(request(n, temperature)) for n in range(8)]


def test_a_drafter_that_is_the_llm_is_always_right() -> None:
    """Its race has the same noise and the same probabilities."""
    bench = make_bench(LLM, [Draft(LLM, (1, 1, 1))])
    bench.write([request(n, tokens=21) for n in range(3)])
    assert bench.engine.stats.tokens_per_step == 4


def test_noise_that_is_shared_raises_acceptance() -> None:
    """Coupled draws of a drafter that is nearly right are more often right than the likeliest."""
    shared, own = (
        make_bench(LLM, [Draft(OTHER, (1,))], verifier=name) for name in ("coupled", "naive")
    )
    for bench in (shared, own):
        bench.write([request(n, 1.5, 60) for n in range(3)])
    assert shared.engine.stats.tokens_per_step > own.engine.stats.tokens_per_step + 0.1


# The law


def first_two_tokens(verifier: str, drafts: Sequence[Any], count: int) -> Counter[tuple[int, ...]]:
    bench = make_bench(SMALL, drafts, Sizes(requests=16, length=32), verifier=verifier)
    requests = [
        Request(
            id=n,
            prompt=[1, 2, 0],
            max_new_tokens=2 + DEPTH,
            sampling=SamplingParams(temperature=1.0, seed=n),
        )
        for n in range(count)
    ]
    return Counter(tuple(text[:3]) for text in bench.write(requests))


DEPTH = 2
SMALL = tiny_model(6, tiny_config(vocabulary=3, hidden=12, inner=12, layers=1, heads=2))
NEAR = noisy_copy(SMALL, 1, 0.2)
COUNT = 850


def expected(texts: int) -> dict[tuple[int, ...], float]:
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        found = {
            (*text, token): weight * float(p)
            for text, weight in found.items()
            for token, p in enumerate(
                torch.softmax(plain_forward(SMALL, [1, 2, 0, *text]).logits[-1], -1)
            )
        }
    return {text: weight * texts for text, weight in found.items()}


@pytest.mark.parametrize("verifier", [name for name in VERIFIERS if name != "greedy"])
@pytest.mark.parametrize(
    "drafts",
    [
        [Draft(NEAR, (2, 1))],
        [Draft(NEAR, (1, 1)), Draft(SMALL, (2,))],
        [Draft(NEAR, (2, 2, 2), nodes=4), NGramSpeculator(min_match=1)],
    ],
    ids=["SSM", "two SSMs", "best first and n-grams"],
)
def test_three_tokens_have_the_llms_law(verifier: str, drafts: Sequence[Any]) -> None:
    """Chi-square of the joint law of the first three tokens, far in the tail."""
    counts, cells = first_two_tokens(verifier, drafts, COUNT), expected(COUNT)
    chi_square = sum((counts[text] - mean) ** 2 / mean for text, mean in cells.items())
    degrees = len(cells) - 1
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees)


def test_a_verifier_that_cannot_sample_refuses_to() -> None:
    bench = make_bench(LLM, verifier="greedy")
    with pytest.raises(ConfigError, match=r"verifier greedy: temperature is above 0"):
        bench.engine.submit(request(0))
    bench.engine.submit(request(1, temperature=0.0))


# Log-probabilities


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("drafts", ["no speculation", "SSM"])
def test_log_probabilities_are_those_of_the_row_behind_each_token(
    drafts: str, temperature: float
) -> None:
    asked = request(3, temperature, tokens=12)
    asked.num_logprobs = 2
    make_bench(LLM, DRAFTS[drafts]()).write([asked])
    assert [told.token for told in asked.logprobs] == asked.output
    rows = torch.log_softmax(plain_forward(LLM, asked.tokens).logits, -1)
    for at, told in enumerate(asked.logprobs, start=len(asked.prompt) - 1):
        assert told.logprob == pytest.approx(float(rows[at, told.token]), abs=1e-4)
        assert [token for token, _ in told.top] == rows[at].topk(2).indices.tolist()


# What a drafter cannot say


def test_a_drafter_whose_tokens_are_all_banned_proposes_nothing() -> None:
    known = Draft(reduced(GOOD, range(3, 6)), (2, 1), known=((3, 4, 5), 12))
    banned = SamplingParams(temperature=1.0, seed=1, bad_words=((3,), (4,), (5,)))
    asked = request(1)
    asked.sampling = banned
    bench = make_bench(LLM, [known])
    (text,) = bench.write([asked])
    assert not {3, 4, 5} & set(text)
    assert bench.engine.stats.num_nodes == 0


def test_penalties_at_temperature_zero_leave_trees_as_wide_as_they_are() -> None:
    asked = request(1, temperature=0.0)
    asked.sampling = SamplingParams(repetition_penalty=1.3)
    bench = make_bench(LLM, [Draft(GOOD, (3,))])
    bench.write([asked])
    stats = bench.engine.stats
    assert stats.num_nodes >= 3 * (stats.num_steps - 1)
