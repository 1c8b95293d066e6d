"""How many nodes a step verifies, for all requests together, and which: pure functions.

A node is worth its probability to survive: the expected tokens of a step are one for each request
and the sum over all nodes. A node costs a row. A node never survives more likely than the one above
it, so the B likeliest nodes of all trees are trees: the best ones of B nodes. What is left is to
choose B, for the most tokens in a given time; and, before anything is drawn, whom to ask and how
deeply, by what is expected of each drafter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

Time = Callable[[int], float]
"""Seconds of a step by the nodes that it verifies, never falling."""


def best_nodes(
    survivals: Sequence[Sequence[float]],
    most: Sequence[int],
    time: Time,
    sizes: Callable[[int], bool] = lambda _: True,
) -> list[list[int]]:
    """The nodes of each tree for the most tokens in a given time.

    Args:
        survivals: for each tree, of each node, the root's first; never more than the parent's.
        most: nodes of each tree, the root not counted.
        time: of a step.
        sizes: numbers of nodes that may be chosen; none and all always may.

    Returns:
        The nodes of each tree in increasing order, without the root.

    >>> best_nodes([[1.0, 0.9, 0.8, 0.2], [1.0, 0.3]], [9, 9], lambda nodes: 1 + 0.2 * nodes)
    [[1, 2], []]
    """
    order = sorted(
        (
            (-survival, tree, node)
            for tree, found in enumerate(survivals)
            for node, survival in enumerate(found)
            if node
        )
    )
    left = list(most)
    ranked: list[tuple[float, int, int]] = []
    for negative, tree, node in order:
        if left[tree] > 0:
            left[tree] -= 1
            ranked.append((-negative, tree, node))
    tokens = accumulate((survival for survival, _, _ in ranked), initial=float(len(survivals)))
    rates = [
        (gain / time(count), -count)
        for count, gain in enumerate(tokens)
        if count in (0, len(ranked)) or sizes(count)
    ]
    best = -max(rates)[1]
    chosen: list[list[int]] = [[] for _ in survivals]
    for _, tree, node in ranked[:best]:
        chosen[tree].append(node)
    return [sorted(nodes) for nodes in chosen]


class Some(NamedTuple):
    """Nodes of one kind that a drafter is expected to propose for a request.

    Attributes:
        survival: of each of them.
        number: how many there are, on average.
    """

    survival: float
    number: float


@dataclass(frozen=True, slots=True)
class Offer:
    """What is expected of a drafter.

    Attributes:
        levels: kinds of nodes of each level, the first below the root first.
        seconds: that it takes to draw so many levels, for all requests; the first is for one level.
    """

    levels: Sequence[Sequence[Some]]
    seconds: Sequence[float]

    def __post_init__(self) -> None:
        assert len(self.levels) == len(self.seconds)


@dataclass(frozen=True, slots=True)
class Plan:
    """Whom to ask, and what for.

    Attributes:
        depths: levels that each drafter draws; 0: it is not asked.
        nodes: that all trees together are expected to be worth.
        rate: tokens in a second, expected.
        draft_seconds: that drafting takes.
    """

    depths: tuple[int, ...]
    nodes: float
    rate: float
    draft_seconds: float


def plan(offers: Sequence[Offer], requests: int, time: Time, room: int) -> Plan:
    """The depths at which drafting and verifying yield the most tokens in a given time.

    From nobody on, the one depth of one drafter is changed that raises the rate most, for as long
    as one does.

    Args:
        offers: of each drafter, for a request; of nodes that several propose only one counts.
        requests: that draft; each is expected to be offered the same.
        time: of verification.
        room: most nodes.

    >>> chain = Offer([[Some(0.8, 1.0)], [Some(0.6, 1.0)], [Some(0.1, 1.0)]], [0.1, 0.2, 0.3])
    >>> plan([chain], 1, lambda nodes: 1 + 0.1 * nodes, room=8).depths
    (2,)
    """
    best = _planned(offers, (0,) * len(offers), requests, time, room)
    while True:
        changed = [
            _planned(offers, (*best.depths[:i], depth, *best.depths[i + 1 :]), requests, time, room)
            for i, offer in enumerate(offers)
            for depth in range(len(offer.levels) + 1)
            if depth != best.depths[i]
        ]
        better = max(changed, key=lambda found: found.rate, default=best)
        if better.rate <= best.rate:
            return best
        best = better


def _planned(
    offers: Sequence[Offer], depths: tuple[int, ...], requests: int, time: Time, room: int
) -> Plan:
    """What these depths yield, with the best number of nodes."""
    pairs = [*zip(offers, depths, strict=True)]
    drafting = sum(offer.seconds[depth - 1] for offer, depth in pairs if depth)
    kinds = sorted(
        (kind for offer, depth in pairs for level in offer.levels[:depth] for kind in level),
        reverse=True,
    )
    nodes, tokens = 0.0, float(requests)
    best = Plan(depths, nodes, tokens / (drafting + time(0)), drafting)
    for survival, number in kinds:
        added = min(number * requests, room - nodes)
        if added <= 0:
            continue
        nodes, tokens = nodes + added, tokens + added * survival
        # Between whole numbers of nodes the time is taken to grow evenly.
        whole = int(nodes)
        seconds = time(whole) + (nodes - whole) * (time(whole + 1) - time(whole))
        if (rate := tokens / (drafting + seconds)) > best.rate:
            best = Plan(depths, nodes, rate, drafting)
    return best
