"""What tests of lanes have texts drafted by, and how large the engines are."""

from __future__ import annotations

from tiny_models import Draft, Sizes, noisy_copy, reduced, tiny_model

from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.ngram import NGramSpeculator

MODEL = tiny_model(4)
GOOD = Draft(noisy_copy(MODEL, 1, 0.02), (2, 1, 1))
OTHER = Draft(noisy_copy(MODEL, 2, 0.05), (3, 2))
KNOWN = tuple(sorted({*range(1, 40, 3), 5, 6, 0, 2}))
FEW = Draft(reduced(GOOD.model, KNOWN), (2, 2, 1), known=(KNOWN, 40))
SIZES = Sizes(requests=3, rows=64, length=128)
DRAFTS: dict[str, list[Draft | Speculator]] = {
    "an SSM": [GOOD],
    "two SSMs": [GOOD, OTHER],
    "n-grams": [NGramSpeculator()],
    "an SSM that knows few tokens": [FEW],
    "three": [FEW, OTHER, NGramSpeculator(4)],
    "an SSM and n-grams": [GOOD, NGramSpeculator(6, min_match=1, max_places=3)],
}
PROMPTS = [[1, 2, 3], [4, 5], [7] * 20, list(range(30)), [9, 8, 7, 6, 5], [3]]
