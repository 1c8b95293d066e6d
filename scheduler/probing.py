"""When a drafter that is not asked, or not asked for all it can, is tried all the same.

What is not verified gives no evidence, so a drafter that was switched off would stay so for ever. A
*probe* asks for one level more, and for one request only, each time that a small share of the time
since the last one pays for it. A probe whose guesses were all right is followed by one of twice the
depth at once, so that a drafter that has become good comes back soon; any other is the last for a
while.
"""

from __future__ import annotations

from math import ceil

SHARE = 0.01
"""Of the time that may go into probes of one drafter."""
SOONEST, LATEST = 16, 512
"""Steps between a failed probe and the next one."""


class Probing:
    """The probes of one drafter.

    >>> probing = Probing()
    >>> probing.is_due(0), probing.depth(above=0)
    (True, 1)
    >>> probing.took(0, was_right=True, cost=0.5)
    >>> probing.is_due(1), probing.depth(above=0)
    (True, 2)
    >>> probing.took(1, was_right=False, cost=0.5)
    >>> probing.is_due(2), probing.is_due(51), probing.depth(above=0)
    (False, True, 1)
    """

    def __init__(self) -> None:
        self._next = 0
        self._more = 1

    def is_due(self, step: int) -> bool:
        """Whether this step is to probe."""
        return step >= self._next

    def depth(self, above: int) -> int:
        """Levels to ask for, where ``above`` would be asked for anyway."""
        return above + self._more

    def took(self, step: int, *, was_right: bool, cost: float) -> None:
        """Take what came of a probe.

        Args:
            step: in which it was made.
            was_right: whether the LLM agreed with it, as deep as it went.
            cost: of such a probe, in steps without it.
        """
        self._more = 2 * self._more if was_right else 1
        wait = 1 if was_right else min(max(ceil(cost / SHARE), SOONEST), LATEST)
        self._next = step + wait
