"""Why an iteration was conducted by the host though lanes were asked for, in a few words.

It looks at what the host knows when it begins an iteration, with the same conditions as stretches
(:mod:`specinfer.scheduler.lanes.stretch`); it decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from specinfer.scheduler.lanes.drafters import can_catch_up, can_draw
from specinfer.scheduler.lanes.racing import can_write
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.verifiers.choice import AUTO

FEW_ROWS = "few rows for an SSM beside trees this deep (batch.max_rows)"
PROMPTS = "prompts"
JOINING = "requests that may join"
ENDS = "texts that end soon, or few pages"
PASSING = frozenset({PROMPTS, JOINING, ENDS})
"""Reasons that hold for a while, as texts begin and end."""


def why_by_host(
    speculators: Sequence[Speculator],
    running: Sequence[Request],
    *,
    lanes: int,
    has_prompts: bool,
    may_join: bool,
    verifier: str = AUTO,
) -> str:
    """The first reason that holds.

    Args:
        speculators: of the engine.
        running: requests that the iteration is for.
        lanes: most requests that run at once.
        has_prompts: whether it computes texts for the first time.
        may_join: whether somebody waits, and there is room.
        verifier: of requests that sample, by name.

    >>> why_by_host([], [], lanes=4, has_prompts=True, may_join=False)
    'prompts'
    """
    if others := [one.name for one in speculators if not can_draw(one)]:
        return f"speculator {others[0]}"
    if not can_catch_up(speculators, lanes):
        return FEW_ROWS
    if has_prompts:
        return PROMPTS
    for request in running:
        if not can_write(request, speculators, verifier):
            if not request.sampling.is_greedy:
                return "sampling"
            return "logprobs, penalties or limits on trees"
    return JOINING if may_join else ENDS
