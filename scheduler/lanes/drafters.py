"""Which speculators lanes can stand in for, and what does it."""

from __future__ import annotations

from collections.abc import Sequence

from specinfer.runtime.context import Runtime
from specinfer.scheduler.lanes.drafter import LaneDrafter
from specinfer.scheduler.lanes.ngram import NGramDrafter, can_match
from specinfer.scheduler.lanes.rungs import Rung, Share
from specinfer.scheduler.lanes.ssm import FollowingSSM, SSMDrafter, can_expand
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.speculators.ssm import SSMSpeculator

SHALLOWEST = 4
"""Levels of n-grams below which lanes are not worth it."""


def can_draw(speculator: Speculator) -> bool:
    """Whether lanes can draw its trees."""
    match speculator:
        case SSMSpeculator():
            return can_expand(speculator)
        case NGramSpeculator():
            return can_match(speculator)
        case _:
            return False


def deepest(speculators: Sequence[Speculator], lanes: int) -> int:
    """Most levels of trees such that a step of each SSM has the rows for what it then may lack."""
    rows = [one.limits.rows for one in speculators if isinstance(one, SSMSpeculator)]
    if not rows:
        return max(map(_depth, speculators), default=0)
    return min(rows) // lanes - 1


def most_lacking(speculators: Sequence[Speculator], lanes: int) -> int:
    """Tokens that an SSM may lack of a text behind an iteration."""
    if len(speculators) == 1:
        return 2  # a leaf of its own, and the LLM's token
    # What it has not proposed, another one may have.
    most = max(map(_depth, speculators), default=0)
    return 1 + min(most, deepest(speculators, lanes))


def can_catch_up(speculators: Sequence[Speculator], lanes: int) -> bool:
    """Whether a step of each SSM has the rows for what it may lack of so many texts.

    Trees of n-grams are kept from going deeper than that, but not to less than a few levels.
    """
    if len(speculators) == 1:
        return deepest(speculators, lanes) >= 1
    least = max(map(_least_depth, speculators), default=0)
    return least <= deepest(speculators, lanes)


def full_rung(speculators: Sequence[Speculator], lanes: int) -> Rung:
    """All that the speculators draw, all of whom :func:`can_draw` has accepted."""
    shares: list[Share] = []
    for one in speculators:
        shares.append(one.expansion if isinstance(one, SSMSpeculator) else one.max_nodes)
    return Rung(tuple(shares), deepest(speculators, lanes))


def following(speculators: Sequence[Speculator], lanes: int) -> list[FollowingSSM | None]:
    """What follows the texts, for each speculator; None: it is no SSM."""
    chain = most_lacking(speculators, lanes)
    return [
        FollowingSSM(one, f"{one.name}{number}.lanes", lanes, chain)
        if isinstance(one, SSMSpeculator)
        else None
        for number, one in enumerate(speculators)
    ]


def make_drafters(
    runtime: Runtime,
    speculators: Sequence[Speculator],
    ssms: Sequence[FollowingSSM | None],
    rung: Rung,
    name: str,
    lanes: int,
) -> list[LaneDrafter | None]:
    """What draws the trees of a rung, for each speculator; None: it draws nothing there.

    Args:
        runtime: issues launches.
        speculators: whose trees are drawn.
        ssms: of :func:`following`.
        rung: what is drawn.
        name: of the rung's tables.
        lanes: at most.
    """
    drafters: list[LaneDrafter | None] = []
    for number, (one, ssm) in enumerate(zip(speculators, ssms, strict=True)):
        own, share = f"{name}.{one.name}{number}", rung.shares[number]
        if not share:
            drafters.append(None)
        elif ssm is not None and isinstance(share, tuple):
            drafters.append(SSMDrafter(ssm, share, own, lanes))
        elif isinstance(one, NGramSpeculator) and isinstance(share, int):
            drafters.append(NGramDrafter(runtime, one, share, rung.deepest, own, lanes))
    return drafters


def _depth(speculator: Speculator) -> int:
    """Most levels of its trees."""
    if isinstance(speculator, SSMSpeculator):
        return len(speculator.expansion)
    return speculator.max_nodes


def _least_depth(speculator: Speculator) -> int:
    """Levels that its trees have at least, if they find so many."""
    levels = _depth(speculator)
    return levels if isinstance(speculator, SSMSpeculator) else min(levels, SHALLOWEST)
