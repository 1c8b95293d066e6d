"""The laws that the stochastic benchmark works with, against the verifiers' own code.

Every answer of chance is gone through, at a toy vocabulary, with the code that drafts, merges and
verifies. The oracle counts how many tokens a step had where the text began in a certain way.
"""

from __future__ import annotations

import importlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from enumeration import law

from specinfer.scheduler.speculators.drawing import draw, grow
from specinfer.scheduler.token_tree import TokenTree, merge
from specinfer.scheduler.verifiers.choice import VERIFIERS

ROOT = Path(__file__).parents[2]
VOCABULARY = 3
Text = tuple[int, ...]
Model = Callable[[Text], Any]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    names = ("acceptance_law", "step_law", "sampled_texts", "stochastic")
    return SimpleNamespace(
        **{name: importlib.import_module(f"benchmarks.{name}") for name in names}
    )


def model(seed: int, vocabulary: int = VOCABULARY) -> Model:
    """Probabilities behind any text, made from a seed."""
    return lambda text: np.random.default_rng([seed, *text, 9]).dirichlet(np.ones(vocabulary))


def chain(ssm: Model, draws: str, widths: Sequence[int], chance: Any) -> TokenTree:
    tree, frontier = TokenTree(-1), [0]
    for depth, width in enumerate(widths):
        above, frontier = frontier, []
        for node in above:
            row = ssm(tuple(tree.path(node)[1:]))
            frontier += grow(tree, node, draw(draws, row, width, chance, depth))
    return tree


def certain(path: Sequence[int]) -> TokenTree:
    tree, node = TokenTree(-1), 0
    for token in path:
        node = tree.add(node, token)
    return tree


def step_laws(
    llm: Model, verifier: str, trees: Callable[[Any], list[TokenTree]], length: int
) -> dict[Text, list[float]]:
    """For each text, how likely a step that began it had 1, 2, ... tokens."""

    def run(chance: Any) -> Text:
        tree = merge(trees(chance))
        verify = VERIFIERS[verifier].verify
        rows = lambda node: llm(tuple(tree.path(node)[1:]))  # noqa: E731
        return tuple(verify(tree, rows, chance, 0).tokens)

    emitted = law(run)
    found: dict[Text, list[float]] = defaultdict(list)
    for text in product(range(VOCABULARY), repeat=length):
        likely = 1.0
        for number in range(length):
            likely *= llm(text[:number])[text[number]]
            found[text].append(emitted.get(text[: number + 1], 0.0) / likely)
    return found


def rates(bench: Any, llm: Model, ssm: Model, text: Text, verifier: str, draws: str) -> Any:
    """What the benchmark says of each position of a text."""
    found = []
    for number, token in enumerate(text):
        p, q = llm(text[:number]), ssm(text[:number])
        if draws == "top_k":
            found.append(bench.acceptance_law.among(int((q > q[token]).sum()), 3))
        elif verifier == "naive":
            found.append(bench.acceptance_law.independent(q[token], 3))
        elif draws == "iid":
            found.append(bench.acceptance_law.multi_step(p, q, token, 3))
        else:
            generator = np.random.default_rng(number)
            accepted, error = bench.acceptance_law.without_replacement(
                p, q, token, 3, 800, generator
            )
            assert error < 0.02
            found.append(accepted)
    return found


@pytest.mark.parametrize("widths", [(1, 1), (3, 1), (1, 2)])
@pytest.mark.parametrize(
    ("verifier", "draws", "tolerance"),
    [
        ("mss", "iid", 1e-12),
        ("naive", "iid", 1e-12),
        ("naive", "top_k", 1e-12),
        ("mss_without_replacement", "without_replacement", 0.04),
    ],
)
def test_steps_of_an_expansion(
    bench: Any, widths: Sequence[int], verifier: str, draws: str, tolerance: float
) -> None:
    for seed in range(1 if draws == "without_replacement" else 3):
        llm, ssm = model(seed), model(seed + 10)

        def trees(chance: Any, ssm: Model = ssm) -> list[TokenTree]:
            return [chain(ssm, draws, widths, chance)]

        for text, expected in step_laws(llm, verifier, trees, 3).items():
            known = rates(bench, llm, ssm, text, verifier, draws)
            found = bench.step_law.expansion_law(known, widths)(0)
            assert found == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("guess", [(), (1,), (2, 0), (0, 1, 1)])
@pytest.mark.parametrize("chains", [1, 2])
def test_steps_of_a_merge(bench: Any, chains: int, guess: Text) -> None:
    """Of chains that one SSM draws, and a path that is certain, at times longer than these."""
    for seed in range(2):
        llm, ssm = model(seed), model(seed + 10)

        def trees(chance: Any, ssm: Model = ssm) -> list[TokenTree]:
            return [*(chain(ssm, "iid", (1, 1), chance) for _ in range(chains)), certain(guess)]

        for text, expected in step_laws(llm, "mss", trees, 4).items():
            known = rates(bench, llm, ssm, text, "mss", "iid")
            likely = [ssm(text[:number])[token] for number, token in enumerate(text)]
            reach = len(certain(guess).follow(text))
            law = bench.step_law.merged_law(known, likely, chains, 2, [reach] * 4)
            found = [*law(0), 0.0, 0.0, 0.0][:4]
            assert found == pytest.approx(expected, abs=1e-12)


def test_acceptance_adds_up_to_what_is_not_rejected(bench: Any) -> None:
    """Over the LLM's tokens the first trial accepts with the mass that both models share."""
    p, q = model(1, 50)(()), model(2, 50)(())
    accepted = [bench.acceptance_law.multi_step(p, q, token, 4) for token in range(50)]
    assert p @ np.array(accepted)[:, 0] == pytest.approx(np.minimum(p, q).sum())
    assert all(one <= other for row in accepted for one, other in pairwise(row))


def test_steps_have_the_mean_and_variance_of_what_can_happen(bench: Any) -> None:
    """Against going through every number of tokens of every step."""
    chances = [[0.2, 0.5, 0.3], [0.6, 0.4], [1.0], [0.1, 0.9], [0.3, 0.7], [0.5, 0.5]]
    found: dict[int, float] = defaultdict(float)

    def go(position: int, count: int, weight: float) -> None:
        if position >= len(chances):
            found[count] += weight
            return
        for tokens, probability in enumerate(chances[position], start=1):
            go(position + tokens, count + 1, weight * probability)

    go(1, 0, 1.0)
    mean = sum(count * weight for count, weight in found.items())
    variance = sum((count - mean) ** 2 * weight for count, weight in found.items())
    worked_out = bench.step_law.steps(len(chances), chances.__getitem__)
    assert worked_out == pytest.approx((mean, variance))


def test_ranks_give_the_replay_of_greedy_texts(bench: Any) -> None:
    replay = importlib.import_module("benchmarks.replay").replay
    generator = np.random.default_rng(3)
    for widths in [(1, 1, 3, 1), (2, 2), (1,) * 8]:
        ranks = generator.integers(0, 4, 30).tolist()
        known = [bench.acceptance_law.among(rank, 3) for rank in ranks]
        mean, variance = bench.step_law.steps(30, bench.step_law.expansion_law(known, widths))
        assert (mean, variance) == (len(replay(ranks, widths)), 0)


def test_a_reading_is_of_the_text(bench: Any) -> None:
    """Equal models accept everything that can be accepted; the race is won by what was written."""
    from specinfer.scheduler.verifiers.chance import SeededChance

    key, prompt = "a/1", [1, 2]
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    seed = bench.sampled_texts.seed_of(key)
    rows = torch.softmax(logits.double(), 1).numpy()
    output = [SeededChance(seed).next_token(2 + i, row) for i, row in enumerate(rows)]
    reach = bench.sampled_texts.ngram_reach(prompt, output, 6)
    text = bench.sampled_texts.reading(prompt, output, logits, logits, reach, key)
    assert (len(text), text.strays, text.race) == (6, 0, [0] * 6)
    assert text.multi_step == text.without_replacement == [[1.0] * 5] * 6
    assert text.likely == pytest.approx(rows[range(6), output], abs=1e-5)
    (other,) = bench.sampled_texts.by_set({key: text})["a"].values()
    assert bench.stochastic.per_step([other], [bench.stochastic.tree_law(other, "mss", (1, 1))])[
        0
    ] == pytest.approx(5 / 2)


def test_ngrams_reach_as_far_as_the_text_repeats(bench: Any) -> None:
    assert bench.sampled_texts.ngram_reach([1, 2, 3, 4, 5, 1], [2, 3, 4, 9, 9], 5) == [
        0,
        2,
        1,
        0,
        0,
    ]


def test_committed_readings_give_the_committed_figures(bench: Any) -> None:
    readings, _ = bench.sampled_texts.read_back(bench.stochastic.READINGS)
    rows = json.loads((ROOT / "benchmarks/results/stochastic.json").read_text())["rows"]
    stored = {row["name"]: row["value"] for row in rows}
    for row in bench.stochastic._gains("piqa", bench.stochastic._long(readings["piqa"])):
        assert row.value == pytest.approx(stored[row.name])
