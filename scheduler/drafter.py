"""What is known of a speculator: how long it takes, what it proposes, how often that survives.

All of it is measured while texts are written. What follows from it is for
:mod:`specinfer.scheduler.adaptive` to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median_low
from time import perf_counter

from specinfer.scheduler.drafting import trees_of
from specinfer.scheduler.online_cost import OnlineCurve
from specinfer.scheduler.probing import Probing
from specinfer.scheduler.speculators import Context, Speculator
from specinfer.scheduler.step_cost import StepCost
from specinfer.scheduler.supply import Supply
from specinfer.scheduler.survival import Survival
from specinfer.scheduler.token_tree import TokenTree
from specinfer.scheduler.tree_budget import Offer, Some

TRIAL = 9
"""Trees that a drafter may draw before it is judged."""
LEAST = 0.02
"""Nodes that survive less likely are left out of plans."""
BY_LEVELS = StepCost((1, 2), (1.0, 2.0))
"""What is expected before anything is known: each level takes as long as the first."""


@dataclass(slots=True)
class Drafter:
    """A speculator, and all that is known of it.

    Attributes:
        speculator: draws.
        survival: of its nodes.
        supply: of nodes.
        probing: when it is tried.
        costs: of drawing, by binary digits of the number of requests.
        probes: seconds of its probes.
        unpaid: seconds that went into texts which it has not yet all of.
        num_calls: how often it was asked and drew.
        asked: requests that it drew for in the step before: others cost it a prompt, or a gap.
        seen: the last step in which nodes of it were verified.
    """

    speculator: Speculator
    survival: Survival = field(default_factory=Survival)
    supply: Supply = field(default_factory=Supply)
    probing: Probing = field(default_factory=Probing)
    costs: dict[int, OnlineCurve] = field(default_factory=dict)
    probes: list[float] = field(default_factory=list)
    unpaid: float = 0.0
    num_calls: int = 0
    asked: frozenset[int] = frozenset()
    seen: int = 0

    @property
    def is_on_trial(self) -> bool:
        """Whether it was asked too seldom to be judged."""
        return self.num_calls < TRIAL

    @property
    def curves(self) -> dict[int, StepCost]:
        """Seconds of drawing, by binary digits of the number of requests, as far as known."""
        curves = {digits: cost.curve() for digits, cost in self.costs.items()}
        return {digits: curve for digits, curve in curves.items() if curve is not None}

    @property
    def probe_seconds(self) -> float | None:
        """Of a probe; None: there was none."""
        return median_low(self.probes) if self.probes else None

    def draft(self, contexts: Sequence[Context], *, is_probe: bool) -> dict[int, TokenTree]:
        """Trees by request, of those that it has all the text of; how long it took is noted."""
        asked = frozenset(context.request for context in contexts if context.may_draw)
        was_asked, self.asked = asked <= self.asked, asked
        start = perf_counter()
        trees = trees_of(self.speculator, contexts)
        seconds = perf_counter() - start
        if len(asked) < len(contexts) or not asked:
            self.unpaid += seconds if is_probe else 0.0
            return {request: trees[request] for request in asked}
        self.num_calls += 1
        digits = len(contexts).bit_length()
        if is_probe:
            self.probes = [*self.probes[-4:], seconds + self.unpaid]
            self.unpaid = 0.0
        if was_asked or (not self.costs and self.num_calls > TRIAL):
            depth = max(max(tree.depths) for tree in trees.values())
            curve = self.costs.setdefault(digits, OnlineCurve(BY_LEVELS))
            curve.add(max(1, depth), seconds)
        return trees

    def offer(self, cost: StepCost) -> Offer:
        """What is expected of it for a request."""
        depth = self.supply.depth
        pairs = zip(self.survival.table[:depth], self.supply.table[:depth], strict=True)
        levels = [
            [
                Some(survival, count)
                for survival, count in zip(survivals.tolist(), counts.tolist(), strict=True)
                if survival > LEAST and count > 0
            ]
            for survivals, counts in pairs
        ]
        return Offer(levels, [cost.time(level) for level in range(1, depth + 1)])
