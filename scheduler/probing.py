"""When a drafter that is not asked, or not asked for all it can, is tried all the same.

What is not verified gives no evidence, so a drafter that was switched off would stay so for ever. A
*probe* asks for one level more, and for one request only. One whose guesses were all right is
followed at once by one of twice the depth, so that a drafter that has become good comes back soon.
Then nothing is tried until a small share of the time has paid for all of it.
"""

from __future__ import annotations

from math import ceil

SHARE = 0.01
"""Of the time that may go into probes of one drafter."""
SOONEST, LATEST = 16, 2048
"""Steps to wait, at least and at most."""


class Probing:
    """The probes of one drafter.

    >>> probing = Probing()
    >>> probing.is_due(0), probing.more
    (True, 1)
    >>> probing.took(0, was_right=True, cost=0.25)
    >>> probing.is_due(1), probing.more
    (True, 2)
    >>> probing.took(1, was_right=False, cost=0.5)
    >>> probing.is_due(75), probing.is_due(76), probing.more
    (False, True, 1)

    Attributes:
        more: levels that the next one asks for, beyond those that are asked for anyway.
    """

    def __init__(self) -> None:
        self.more = 1
        self._next = 0
        self._spent = 0.0

    def is_due(self, step: int) -> bool:
        """Whether this step is to probe."""
        return step >= self._next

    def took(self, step: int, *, was_right: bool, cost: float) -> None:
        """Take what came of a probe.

        Args:
            step: in which it was made.
            was_right: whether the LLM agreed with it, as deep as it went, and it may go deeper.
            cost: of it, in steps without it.
        """
        self._spent += cost
        if was_right:
            self.more, self._next = 2 * self.more, step + 1
        else:
            wait = min(max(ceil(self._spent / SHARE), SOONEST), LATEST)
            self.more, self._next, self._spent = 1, step + wait, 0.0
