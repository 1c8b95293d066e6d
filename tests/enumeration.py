"""Every way that chance can go, with its weight: laws of programs, exactly, by running them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T", bound=Hashable)


class Script:
    """Answers questions as it was told to, then takes the first answer; notes what else there was.

    It is a chance (``specinfer.scheduler.verifiers.chance.Chance``) whose answers are chosen. Each
    position of a text has a hidden number in [0, 1) that :meth:`next_token` looks at: what is known
    of it is an interval, which every question cuts further.
    """

    def __init__(self, told: Sequence[int]) -> None:
        self._told = told
        self.taken: list[int] = []
        self.choices: list[list[float]] = []
        self._intervals: dict[Hashable, tuple[float, float]] = {}

    @property
    def weight(self) -> float:
        """The probability of these answers."""
        pairs = zip(self.taken, self.choices, strict=True)
        return float(np.prod([weights[at] for at, weights in pairs]))

    def choose(self, weights: Sequence[float]) -> int:
        """One of some answers that have these probabilities; none of probability 0."""
        possible = [at for at, weight in enumerate(weights) if weight > 0]
        number = len(self.taken)
        chosen = self._told[number] if number < len(self._told) else 0
        self.taken.append(chosen)
        self.choices.append([weights[at] for at in possible])
        return possible[chosen]

    def accept(self, probability: float) -> bool:
        return self.choose([probability, 1 - probability]) == 0

    def draw(self, probabilities: Any) -> int:
        return self.choose(list(probabilities))

    def next_token(self, position: int, probabilities: Any) -> int:
        return self.look(position, list(probabilities))

    def likely_tokens(
        self, position: int, probabilities: Any, count: int
    ) -> list[tuple[int, float]]:
        """What the position's number says, then the likeliest others."""
        first = self.next_token(position, probabilities)
        others = sorted(range(len(probabilities)), key=lambda t: (t != first, -probabilities[t]))
        return [(token, 1 / (1 + i)) for i, token in enumerate(others[:count])]

    def look(self, place: Hashable, weights: Sequence[float]) -> int:
        """Where the hidden number of a place falls among weights laid end to end."""
        low, high = self._intervals.get(place, (0.0, 1.0))
        ends = np.cumsum(weights)
        starts = ends - weights
        parts = np.maximum(np.minimum(ends, high) - np.maximum(starts, low), 0)
        parts[parts < 1e-15] = 0
        chosen = self.choose(list(parts / parts.sum()))
        self._intervals[place] = (max(starts[chosen], low), min(ends[chosen], high))
        return chosen


def law(
    run: Callable[[Any], T], script: Callable[[Sequence[int]], Script] = Script
) -> dict[T, float]:
    """The probability of every result.

    Args:
        run: a program that asks a script, and nothing else, for all that is random.
        script: makes one.
    """
    found: defaultdict[T, float] = defaultdict(float)
    told: list[int] = []
    while True:
        answers = script(told)
        result = run(answers)
        found[result] += answers.weight
        taken = answers.taken
        while taken and taken[-1] + 1 == len(answers.choices[len(taken) - 1]):
            taken.pop()
        if not taken:
            return dict(found)
        told = [*taken[:-1], taken[-1] + 1]


def distance(one: dict[T, float], other: dict[T, float]) -> float:
    """Total variation: half of the sum of all differences."""
    return sum(abs(one.get(k, 0.0) - other.get(k, 0.0)) for k in {*one, *other}) / 2
