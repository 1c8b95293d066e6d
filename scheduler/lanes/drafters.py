"""Which speculators lanes can stand in for, and what does it."""

from __future__ import annotations

from collections.abc import Sequence

from specinfer.runtime.context import Runtime
from specinfer.scheduler.lanes.drafter import LaneDrafter
from specinfer.scheduler.lanes.ngram import NGramDrafter, can_match
from specinfer.scheduler.lanes.ssm import SSMDrafter, can_expand
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.speculators.ssm import SSMSpeculator


def can_draw(speculator: Speculator) -> bool:
    """Whether lanes can draw its trees."""
    match speculator:
        case SSMSpeculator():
            return can_expand(speculator)
        case NGramSpeculator():
            return can_match(speculator)
        case _:
            return False


def most_lacking(speculators: Sequence[Speculator]) -> int:
    """Tokens that an SSM may lack of a text behind an iteration."""
    if len(speculators) == 1:
        return 2  # a leaf of its own, and the LLM's token
    # What it has not proposed, another one may have.
    return 1 + max(map(_depth, speculators), default=0)


def can_catch_up(speculators: Sequence[Speculator], lanes: int) -> bool:
    """Whether a step of each SSM has the rows for what it may lack of so many texts."""
    rows = lanes * most_lacking(speculators)
    return all(rows <= one.limits.rows for one in speculators if isinstance(one, SSMSpeculator))


def make_drafters(
    runtime: Runtime, speculators: Sequence[Speculator], lanes: int
) -> list[LaneDrafter]:
    """One for each speculator, all of which :func:`can_draw` has accepted."""
    chain = most_lacking(speculators)
    drafters: list[LaneDrafter] = []
    for number, speculator in enumerate(speculators):
        name = f"{speculator.name}{number}.lanes"
        if isinstance(speculator, SSMSpeculator):
            drafters.append(SSMDrafter(speculator, name, lanes, chain))
        elif isinstance(speculator, NGramSpeculator):
            drafters.append(NGramDrafter(runtime, speculator, name, lanes))
    return drafters


def _depth(speculator: Speculator) -> int:
    """Most levels of its trees."""
    if isinstance(speculator, SSMSpeculator):
        return len(speculator.expansion)
    return speculator.max_nodes
