"""The parameters that say how a request picks its tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are picked.

    Attributes:
        temperature: divides the logits; 0: the likeliest token.
        seed: of all that is random.
    """

    temperature: float = 0.0
    seed: int | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether there is but one right token."""
        return self.temperature == 0


GREEDY = SamplingParams()
