"""Invariant numerics: in bfloat16, too, a text with speculation is bit for bit the one without."""

from __future__ import annotations

import pytest
import torch
from tiny_models import Draft, Sizes, make_bench, noisy_copy, tiny_config, tiny_model

from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.ngram import NGramSpeculator

INVARIANT = ("invariant", "cpu")
MODEL = tiny_model(3, tiny_config("qwen2", hidden=48), dtype=torch.bfloat16)
SSM = Draft(noisy_copy(MODEL, 1, 0.05), (2, 2, 1))
WIDE = Draft(noisy_copy(MODEL, 2, 0.08), (3, 2, 1, 1))
DRAFTS: dict[str, list[Draft | Speculator]] = {
    "SSM": [SSM],
    "two SSMs": [SSM, WIDE],
    "n-grams": [NGramSpeculator()],
}
PROMPTS = [[1 + i % 7, 2 * i % 40, 3, i % 5] * (1 + i % 6) for i in range(8)]


def write(drafts: list[Draft | Speculator], requests: int, processors: tuple[str, ...]) -> object:
    sizes = Sizes(requests=requests, rows=30 * requests, length=128)
    bench = make_bench(MODEL, drafts, sizes, processors)
    return bench.write(
        [
            Request(id=id, prompt=prompt, max_new_tokens=40, eos_ids=frozenset({-1}))
            for id, prompt in enumerate(PROMPTS)
        ]
    )


@pytest.mark.parametrize("drafts", DRAFTS)
def test_what_is_guessed_changes_no_bit(drafts: str) -> None:
    plain = write([], 1, INVARIANT)
    assert write(DRAFTS[drafts], 1, INVARIANT) == plain
    assert write(DRAFTS[drafts], 3, INVARIANT) == plain
