"""The random decisions of speculation, each asked for by name, so that a test can make them itself.

Verifiers and speculators never see a random number: they ask a :class:`Chance` for a coin or a
draw. In an engine the answers are a function of the request's seed and of the place in its text
(:class:`SeededChance`). A test answers every question in every way, and adds up the law of the
result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from specinfer.ops.noise import finish_times, key_of, uniform

Probabilities = NDArray[np.float64]
"""(vocabulary,) that sum to 1."""

COIN, DRAW, NEXT = range(3)
"""What a number is for: no two uses share one."""
NEAR = 16
"""First arrivals among which the winner of a similar race is looked for."""


class Chance(Protocol):
    """Answers."""

    def accept(self, probability: float) -> bool:
        """True with this probability, independently of all other answers."""
        ...

    def draw(self, probabilities: Probabilities) -> int:
        """A token, independently of all other answers."""
        ...

    def next_token(self, position: int, probabilities: Probabilities) -> int:
        """The token at a position of the text: the same answer whenever the question is the same.

        Where the probabilities differ the answers are as alike as the position's noise makes them.
        """
        ...

    def likely_tokens(
        self, position: int, probabilities: Probabilities, count: int
    ) -> Sequence[tuple[int, float]]:
        """Tokens that :meth:`next_token` may well answer for other probabilities, best first.

        With each how likely it is, taken that the others are about these.
        """
        ...


class SeededChance:
    """Answers that are a function of a seed.

    Args:
        seed: of the text.
        place: what else the independent answers belong to, such as the number of the drafter and
            the position of the root: never twice the same while a text is written.
    """

    def __init__(self, seed: int, *place: int) -> None:
        self._seed = seed
        self._place = place
        self._asked = 0

    def accept(self, probability: float) -> bool:
        """A coin of its own for each question."""
        return self._fresh(COIN) < probability

    def draw(self, probabilities: Probabilities) -> int:
        """By the inverse of the distribution function."""
        sums = np.cumsum(probabilities)
        at = int(np.searchsorted(sums, self._fresh(DRAW) * sums[-1], side="right"))
        # Rounding may lead behind the last token that can be drawn.
        return (
            at if at < len(sums) and probabilities[at] > 0 else int(probabilities.nonzero()[0][-1])
        )

    def next_token(self, position: int, probabilities: Probabilities) -> int:
        """The winner of the position's race."""
        return int(finish_times(key_of(self._seed, NEXT, position), probabilities).argmin())

    def likely_tokens(
        self, position: int, probabilities: Probabilities, count: int
    ) -> Sequence[tuple[int, float]]:
        """The first ones of the same race.

        Were the other probabilities these times independent exponential errors, a token would win
        in proportion to one over its time.
        """
        times = finish_times(key_of(self._seed, NEXT, position), probabilities)
        first = _least(times, max(count, NEAR))
        odds = 1 / times[first]
        shares = odds / odds.sum()
        return [(int(t), float(s)) for t, s in zip(first[:count], shares[:count], strict=True)]

    def _fresh(self, purpose: int) -> float:
        self._asked += 1
        return uniform(key_of(self._seed, purpose, *self._place), self._asked)


def _least(times: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """The places of the least finite times, in order."""
    found = np.argpartition(times, count)[:count] if count < len(times) else np.arange(len(times))
    found = found[np.isfinite(times[found])]
    return found[np.argsort(times[found], kind="stable")]
