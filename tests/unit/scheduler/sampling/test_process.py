"""Processed probabilities against a plain reference, and against transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from transformers.generation.logits_process import MinNewTokensLengthLogitsProcessor

from specinfer.scheduler.errors import RequestError
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.sampling.process import distribution, likeliest

END = frozenset({0, 3})
CHOICES: dict[str, Sequence[Any]] = {
    "temperature": (0.0, 0.3, 1.0, 1.7),
    "top_k": (0, 0, 1, 5, 1000),
    "top_p": (1.0, 1.0, 0.05, 0.6, 0.95),
    "min_p": (0.0, 0.0, 0.02, 0.3, 1.0),
    "typical_p": (1.0, 1.0, 0.2, 0.8),
    "repetition_penalty": (1.0, 1.0, 1.3, 0.7),
    "presence_penalty": (0.0, 0.0, 0.7, -1.0),
    "frequency_penalty": (0.0, 0.0, 0.4, -0.2),
    "logit_bias": ({}, {}, {4: 2.5, 9: -math.inf, 11: -1.0}),
    "bad_words": ((), (), ((5,), (1, 2, 6), (2, 7), (8, 8))),
    "min_new_tokens": (0, 0, 4, 9),
}


def row(seed: int, size: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64) * (1 + seed % 4)


def history(seed: int) -> tuple[list[int], list[int]]:
    generator = np.random.default_rng(seed)
    text = generator.integers(0, 12, 2 + seed % 15).tolist()
    # So that beginnings of bad words stand at the end, of the prompt alone or of both.
    text += [[], [1, 2], [2], [8]][seed % 4]
    num_prompt = int(generator.integers(1, len(text) + 1))
    if seed % 3 == 0:
        num_prompt = len(text) - seed % 2
    return text[:num_prompt], text[num_prompt:]


def some_params(seed: int) -> SamplingParams:
    generator = np.random.default_rng(seed + 1000)
    values = {n: options[int(generator.integers(len(options)))] for n, options in CHOICES.items()}
    return SamplingParams(**values, end_ids=END)


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp(scores - scores.max())
    weights /= weights.sum()
    return weights


def plain(
    logits: NDArray[np.float64], p: SamplingParams, prompt: list[int], output: list[int]
) -> NDArray[np.float64]:
    """Word by word what the documentation says, one token at a time."""
    scores = logits.copy()
    text = prompt + output
    for token in range(len(scores)):
        scores[token] += dict(p.logit_bias).get(token, 0.0)
        if token in text:
            by = p.repetition_penalty
            scores[token] = scores[token] / by if scores[token] > 0 else scores[token] * by
        scores[token] -= p.frequency_penalty * output.count(token)
        scores[token] -= p.presence_penalty * (token in output)
        for word in p.bad_words:
            would_be = [*text, token]
            if tuple(would_be[-len(word) :]) == word:
                scores[token] = -math.inf
        if token in p.end_ids and len(output) < p.min_new_tokens:
            scores[token] = -math.inf
    if p.temperature == 0:
        point: NDArray[np.float64] = np.eye(len(scores))[scores.argmax()]
        return point
    scores = scores / p.temperature

    def keep(is_kept: Any) -> None:
        probabilities = softmax(scores)
        away = [token for token in range(len(scores)) if not is_kept(token, probabilities)]
        scores[away] = -math.inf

    def mass_before(token: int, keys: Any, probabilities: Any) -> float:
        return float(sum(q for k, q in zip(keys, probabilities, strict=True) if k < keys[token]))

    if p.top_k:
        order = np.argsort(-scores, kind="stable")
        keep(lambda token, _: scores[token] >= scores[order[min(p.top_k, len(order)) - 1]])
    if p.top_p < 1:
        keep(lambda token, q: mass_before(token, -q, q) < p.top_p)
    if p.min_p > 0:
        keep(lambda token, q: q[token] >= p.min_p * q.max())
    if p.typical_p < 1:

        def is_typical(token: int, q: NDArray[np.float64]) -> bool:
            if q[token] == 0:
                return False
            surprise = np.array([-math.log(x) if x else math.inf for x in q])
            entropy = sum(x * s for x, s in zip(q, surprise, strict=True) if x)
            return mass_before(token, np.abs(surprise - entropy), q) < p.typical_p

        keep(is_typical)
    return softmax(scores)


@pytest.mark.parametrize("seed", range(300))
def test_probabilities_are_those_of_the_plain_reference(seed: int) -> None:
    logits, params, (prompt, output) = row(seed), some_params(seed), history(seed)
    before = logits.clone()
    found = distribution(logits, params, prompt, output)
    expected = plain(logits.numpy(), params, prompt, output)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-15)
    assert torch.equal(logits, before), "the row was changed"
    greedy = plain(logits.numpy(), SamplingParams(**as_greedy(params)), prompt, output)
    assert likeliest(logits, params, prompt, output) == greedy.argmax()


def as_greedy(params: SamplingParams) -> dict[str, Any]:
    values = {name: getattr(params, name) for name in CHOICES}
    return values | {"temperature": 0.0, "end_ids": params.end_ids}


def by_transformers(
    logits: torch.Tensor, p: SamplingParams, prompt: list[int], output: list[int]
) -> torch.Tensor:
    """Its processors, in the order in which it builds them."""
    processors: Any = LogitsProcessorList()
    end = torch.tensor(sorted(p.end_ids))
    if p.logit_bias:
        biases = {(token,): bias for token, bias in dict(p.logit_bias).items()}
        processors.append(SequenceBiasLogitsProcessor(sequence_bias=biases))
    if p.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(p.repetition_penalty))
    if p.bad_words:
        words = [list(word) for word in p.bad_words]
        processors.append(NoBadWordsLogitsProcessor(words, eos_token_id=None))
    if p.min_new_tokens:
        processors.append(
            MinNewTokensLengthLogitsProcessor(len(prompt), p.min_new_tokens, eos_token_id=end)
        )
    processors.append(TemperatureLogitsWarper(p.temperature))
    if p.top_k:
        processors.append(TopKLogitsWarper(p.top_k))
    if p.top_p < 1:
        processors.append(TopPLogitsWarper(p.top_p))
    if p.min_p:
        processors.append(MinPLogitsWarper(p.min_p))
    if p.typical_p < 1:
        processors.append(TypicalLogitsWarper(p.typical_p))
    scores: torch.Tensor = processors(torch.tensor([prompt + output]), logits[None].clone())
    return scores[0].softmax(-1)


@pytest.mark.parametrize("seed", range(300))
def test_probabilities_are_those_of_transformers(seed: int) -> None:
    values = {name: getattr(some_params(seed), name) for name in CHOICES}
    values |= {"presence_penalty": 0.0, "frequency_penalty": 0.0}  # it has none
    values["temperature"] = values["temperature"] or 0.5
    params = SamplingParams(**values, end_ids=END)
    logits, (prompt, output) = row(seed), history(seed)
    found = distribution(logits, params, prompt, output)
    expected = by_transformers(logits, params, prompt, output)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)


def test_a_large_row_is_cut_as_a_small_one() -> None:
    """Where top_p has no full sort, and where it must sort an almost flat row."""
    for scale in (0.01, 3.0, 30.0):
        logits = row(1, 50_000) * scale
        for top_p in (1e-9, 0.3, 0.9, 0.999999):
            found = distribution(logits, SamplingParams(temperature=1.0, top_p=top_p), [0], [])
            ranked, order = logits.softmax(-1).sort(descending=True)
            count = int((ranked.cumsum(0) < top_p).sum()) + 1
            assert set(found.nonzero().ravel().tolist()) == set(order[:count].tolist())
            np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-12)


def typical(weights: NDArray[np.float64], mass: float) -> NDArray[np.bool_]:
    """The tokens that ``typical_p`` keeps, by a sort of all that are possible."""
    ranked = np.sort(weights[weights > 0])
    surprise = -np.log(ranked)
    distance = np.abs(surprise - ranked @ surprise)
    order = np.argsort(distance, kind="stable")
    place = int(np.searchsorted(np.cumsum(ranked[order]), mass))
    kept = ranked[distance <= distance[order[min(place, len(order) - 1)]]]
    found: NDArray[np.bool_] = (weights >= kept[0]) & (weights <= kept[-1])
    return found


def large_rows() -> dict[str, torch.Tensor]:
    size = 20_000
    rows = {f"normal, {scale}": row(1, size) * scale for scale in (0.01, 1.0, 4.0, 300.0)}
    steps = torch.arange(size, dtype=torch.float64)
    return rows | {
        "bfloat16, with ties": (row(2, size) * 3).bfloat16(),
        "flat": torch.zeros(size),
        "flat but for one": torch.zeros(size).index_fill(0, torch.tensor([7]), 9.0),
        "a long tail": -1.1 * (1 + steps).log(),
        "distances of all sizes": -(1.5 ** (-steps / 20)),
        "far too many that are impossible": torch.where(steps % 50 == 3, 0.01 * steps, -torch.inf),
        "few": row(3, 5),
    }


@pytest.mark.parametrize("kind", large_rows())
def test_typical_tokens_are_those_that_a_sort_finds(kind: str) -> None:
    logits = large_rows()[kind]
    weights = softmax(logits.double().numpy())
    for mass in (1e-9, 0.2, 0.5, 0.9, 0.999999):
        params = SamplingParams(temperature=1.0, typical_p=mass)
        found = distribution(logits, params, [0], []).numpy()
        kept = np.where(typical(weights, mass), weights, 0)
        np.testing.assert_array_equal(found > 0, kept > 0, str(mass))
        np.testing.assert_allclose(found, kept / kept.sum(), rtol=1e-9)


@pytest.mark.parametrize("cut", [{"top_k": 2}, {"top_p": 0.5}, {"typical_p": 0.5}])
def test_a_cut_keeps_all_of_a_tie(cut: dict[str, Any]) -> None:
    logits = torch.tensor([1.0, 2.0, 1.0, 1.0, -1e9], dtype=torch.bfloat16)
    found = distribution(logits, SamplingParams(temperature=1.0, **cut), [0], [])
    assert found[0] == found[2] == found[3] > 0
    assert found[4] == 0


def test_ties_at_temperature_0_go_to_the_first_token() -> None:
    logits = torch.tensor([1.0, 3.0, 3.0, 3.0])
    params = SamplingParams(logit_bias={1: -1.0})
    assert likeliest(logits, SamplingParams(), [0], []) == 1
    assert likeliest(logits, params, [0], []) == 2
    assert distribution(logits, params, [0], []).tolist() == [0, 0, 1, 0]


def test_a_tiny_top_p_or_temperature_leaves_the_likeliest_token() -> None:
    logits = row(3)
    best = int(logits.argmax())
    for params in (
        SamplingParams(temperature=1.0, top_p=5e-324),
        SamplingParams(temperature=5e-324),
        SamplingParams(temperature=1.0, min_p=1.0),
        SamplingParams(temperature=1.0, top_k=1),
    ):
        assert distribution(logits, params, [0], [])[best] == 1


def test_fewer_tokens_than_top_k_may_be_left() -> None:
    params = SamplingParams(temperature=1.0, top_k=3, logit_bias={0: -math.inf, 1: -math.inf})
    found = distribution(torch.zeros(4), params, [0], [])
    assert found.tolist() == [0, 0, 0.5, 0.5]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_with_every_token_banned_is_refused(temperature: float) -> None:
    params = SamplingParams(
        temperature=temperature,
        logit_bias={0: -math.inf},
        bad_words=((1,),),
        min_new_tokens=1,
        end_ids=frozenset({2}),
    )
    said = r"none of 3 tokens may be written; expected logit_bias \(on 1 tokens\), bad_words \(1\)"
    with pytest.raises(RequestError, match=said):
        distribution(torch.zeros(3), params, [0], [])
    with pytest.raises(RequestError, match=said):
        likeliest(torch.zeros(3), params, [0], [])
    assert likeliest(torch.zeros(3), params, [0], [1]) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_logit_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(RequestError, match=f"the logit of token 1 is {value}, expected a number"):
        distribution(torch.tensor([0.0, value]), SamplingParams(temperature=1.0), [0], [])


def test_the_path_of_a_tree_is_history() -> None:
    """What a frequency penalty sees at a node is the output with the path's tokens."""
    params = SamplingParams(frequency_penalty=2.0)
    assert likeliest(torch.tensor([3.0, 2.0]), params, [0], []) == 0
    assert likeliest(torch.tensor([3.0, 2.0]), params, [0], [0]) == 1
    assert likeliest(torch.tensor([3.0, 2.0]), params, [0], [0, 1]) == 0
