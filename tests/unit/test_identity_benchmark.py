"""What the benchmark of identity calls a tie: only what rounding can do."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.sampling.process import distribution
from specinfer.scheduler.verifiers.chance import SeededChance

ROUNDING = 1e-3
PLACE = 9


@pytest.fixture
def swap_gap(monkeypatch: pytest.MonkeyPatch) -> Any:
    # The folder of the repository is not importable where only the package is installed.
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return importlib.import_module("benchmarks.identity").swap_gap


def picked(logits: torch.Tensor, sampling: SamplingParams) -> int:
    row = distribution(logits, sampling, [], []).numpy()
    return int(row.argmax()) if sampling.seed is None else chance(sampling).next_token(PLACE, row)


def chance(sampling: SamplingParams) -> SeededChance:
    assert sampling.seed is not None
    return SeededChance(sampling.seed)


def swaps(size: float, top_p: float | None) -> list[tuple[torch.Tensor, SamplingParams, int, int]]:
    """Rows whose token is another one if every logit moves by at most ``size``."""
    rng, found = np.random.default_rng(3), []
    for seed in range(4000):
        logits = torch.from_numpy(rng.normal(size=40))
        moved = logits + torch.from_numpy(rng.uniform(-size, size, 40))
        sampling = SamplingParams()
        if top_p is not None:
            sampling = SamplingParams(temperature=1.0, top_p=top_p, seed=seed)
        tokens = picked(logits, sampling), picked(moved, sampling)
        if tokens[0] != tokens[1]:
            found.append((logits, sampling, *tokens))
    return found


@pytest.mark.parametrize("top_p", [None, 1.0, 0.7])
def test_what_rounding_swaps_is_near(swap_gap: Any, top_p: float | None) -> None:
    found = swaps(ROUNDING, top_p)
    assert found
    for logits, sampling, left, right in found:
        assert swap_gap(logits, sampling, PLACE, left, right) <= 2 * ROUNDING


@pytest.mark.parametrize("top_p", [None, 1.0, 0.7])
def test_what_rounding_cannot_swap_is_far(swap_gap: Any, top_p: float | None) -> None:
    found = swaps(2.0, top_p)
    gaps = [swap_gap(logits, sampling, PLACE, *tokens) for logits, sampling, *tokens in found]
    assert np.mean(np.array(gaps) > 10 * ROUNDING) > 0.9
