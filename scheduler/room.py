"""How large the launches of an iteration are that is issued before the one before it was read.

What it will do is not known then, only what had been done when the host last looked. A room is the
most that can follow from that. The batcher is told to stay within it, and what is not needed of it
is padding: so a room that is too small costs an iteration, one that is too large costs rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from specinfer.models.batch import StepShape
from specinfer.scheduler.iteration import Budgets, Iteration
from specinfer.scheduler.request import Request

PROMPT_ROWS = 64
"""Rows for texts are a multiple of it: few shapes, so that each is recorded only once."""
NOTHING = 1 << 60
"""Tokens that a model has of a text of which it lacks nothing."""


@dataclass(frozen=True, slots=True)
class Room:
    """The most that an iteration may need.

    Attributes:
        budgets: of the iteration.
        llm: shape of the LLM's pass.
        ssms: shapes of each SSM's passes, by level.
    """

    budgets: Budgets
    llm: StepShape
    ssms: tuple[tuple[StepShape, ...], ...]


class Rooms:
    """Finds rooms by what has been read.

    Args:
        budgets: the most of any iteration.
        levels: of each SSM: nodes of a request's tree, by level.
    """

    def __init__(self, budgets: Budgets, levels: Sequence[Sequence[int]]) -> None:
        self._budgets = budgets
        self._levels = levels
        self._running: set[int] = set()
        self._known: list[dict[int, int]] = [{} for _ in range(1 + len(levels))]

    def read(self, iteration: Iteration) -> None:
        """Take note of what an iteration has computed, and of whom."""
        for known, freed in zip(self._known, iteration.freed, strict=True):
            for request in freed:
                known.pop(request, None)
        self._running.difference_update(iteration.freed[0])
        self._running.update(admitted.request for admitted in iteration.admitted)
        for known, chunks in zip(self._known, (iteration.chunks, *iteration.drafts), strict=True):
            known.update({c.request: NOTHING if c.is_last else c.stop for c in chunks})

    def next(self, requests: Mapping[int, Request]) -> Room:
        """The room of the next iteration.

        Args:
            requests: by number: that have not ended, by what was read, the oldest first; at least
                one.
        """
        most = self._budgets
        count = min(len(requests), most.requests)
        # Nobody overtakes: who runs is among the first.
        first = dict(islice(requests.items(), count))
        rows = min(count * (1 + most.nodes) + self._lack(0, first), most.rows)
        lack = max((self._lack(ssm, first) for ssm in range(1, len(self._known))), default=0)
        deepest = max(map(len, self._levels), default=0)
        draft_rows = min(count * (1 + deepest) + lack, most.draft_rows or most.rows)
        ssms = [
            (
                StepShape(draft_rows, count, count),
                *(StepShape(count * nodes, count, count * nodes) for nodes in levels[:-1]),
            )
            for levels in self._levels
        ]
        return Room(
            replace(most, rows=rows, requests=count, draft_rows=draft_rows),
            StepShape(rows, count, count * (1 + most.nodes)),
            tuple(ssms),
        )

    def _lack(self, model: int, requests: Mapping[int, Request]) -> int:
        """Rows to have for texts that a model lacks; an SSM computes those that the LLM has."""
        lacking = 0
        for id, request in requests.items():
            lack = max(0, request.length - self._known[model].get(id, 0))
            if id not in self._running:  # it may be, by now, or have to wait for long
                lack = min(lack, PROMPT_ROWS)
            if model == 0 or request.output:
                lacking += lack
        return -(-lacking // PROMPT_ROWS) * PROMPT_ROWS
