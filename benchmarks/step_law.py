"""How many verification steps a text takes, exactly, from the acceptance at its positions.

Given the text, the children of different nodes and the coins tossed for them are independent. So a
step walks along the text until a level of the tree holds no accepted child; there the LLM adds a
token of its own, and the next step begins behind it, whatever happened before. The number of steps
is a sum over a Markov chain: its mean and variance need no simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb

Rates = Sequence[Sequence[float]]
"""At each position, how likely one of the first 1, 2, ... trials is accepted, given its token."""

Law = Callable[[int], Sequence[float]]
"""Probabilities of 1, 2, ... tokens of a step whose first token is at a position."""


def steps(length: int, law: Law) -> tuple[float, float]:
    """Mean and variance of the steps that write a text, whose first token is the prefill's.

    Args:
        length: tokens of the text.
        law: of a step; tokens behind the end of the text are not counted.

    >>> steps(6, lambda position: [0.0, 0.0, 1.0])
    (2.0, 0.0)
    """
    means, squares = [0.0] * (length + 1), [0.0] * (length + 1)
    for position in range(length - 1, 0, -1):
        mean = square = 0.0
        for tokens, probability in enumerate(law(position), start=1):
            end = min(position + tokens, length)
            mean += probability * means[end]
            square += probability * squares[end]
        means[position], squares[position] = 1 + mean, 1 + 2 * mean + square
    if length < 2:
        return 0.0, 0.0
    return means[1], squares[1] - means[1] ** 2


def expansion_law(rates: Rates, widths: Sequence[int]) -> Law:
    """Steps with a tree that has so many children at each node of a level.

    Args:
        rates: of the SSM's draws.
        widths: children of each node, by level.

    >>> expansion_law([[0.5, 1.0]] * 3, (1, 2))(0)
    [0.5, 0.0, 0.5]
    """

    def law(position: int) -> list[float]:
        found, alive = [], 1.0
        for width, row in zip(widths, rates[position:], strict=False):
            found.append(alive * (1 - row[width - 1]))
            alive *= row[width - 1]
        return [*found, alive]

    return law


def merged_law(
    rates: Rates, likely: Sequence[float], chains: int, depth: int, reach: Sequence[int]
) -> Law:
    """Steps with a merge of chains, drawn independently by one SSM, and a certain tree, tried last.

    A chain whose draw is not the text's token is left behind. Of those that go on together, all of
    them are tried at the next node. A certain guess that is right is always accepted: given that no
    draw was, what is left of the LLM's probabilities is what it is accepted with.

    Args:
        rates: of independent draws of the SSM, for up to ``chains`` trials.
        likely: the SSM's probability of the token at each position.
        chains: how many.
        depth: of the chains.
        reach: for a step that begins at each position, how many levels of the certain tree agree
            with the text; all 0: there is none.
    """

    def law(position: int) -> list[float]:
        found: list[float] = []
        alive = {chains: 1.0}
        for level in range(min(max(depth, reach[position]), len(rates) - position)):
            at = position + level
            following: dict[int, float] = {}
            ended = 0.0
            for number, probability in alive.items():
                trials = number if level < depth else 0
                before = 0.0
                for trial in range(trials):
                    accepted = rates[at][trial] - before
                    before = rates[at][trial]
                    _go_on(following, probability * accepted, trials - trial - 1, likely[at])
                if level < reach[position]:
                    following[0] = following.get(0, 0.0) + probability * (1 - before)
                else:
                    ended += probability * (1 - before)
            found.append(ended)
            alive = following
        return [*found, sum(alive.values())]

    return law


def _go_on(following: dict[int, float], probability: float, others: int, likely: float) -> None:
    """The accepted chain, and those of the others that happened to draw the same token."""
    for same in range(others + 1):
        share = comb(others, same) * likely**same * (1 - likely) ** (others - same)
        following[1 + same] = following.get(1 + same, 0.0) + probability * share
