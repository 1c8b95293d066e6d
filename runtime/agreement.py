"""Agreement between ranks: at the end of an iteration they find out whether all is well.

Where a program waits - it reads, fences, or asks for the value of a future - its ranks exchange a
few numbers: the digest of what they issued, how much that is, and how many of their tasks raised.
They do so before anything moves for it: ranks that differ would wait for each other in transfers
that do not match. So they do where their mappers are asked about a launch for the first time.

* Other digests: the ranks exchange their histories, and each raises what differs first.
* A task raised somewhere: what its launch and its dependents should have written counts as never
  made on *all* ranks. Which data these are follows from the launches alone, so that every rank
  works out the same, wherever the tasks ran. Every rank raises the first cause.

A read of such data raises again; a task that overwrites them (``WD``) makes them whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NoReturn

from specinfer.runtime.aftermath import Spot, spread
from specinfer.runtime.dependence import Requirement
from specinfer.runtime.divergence import first_difference, ranks_text
from specinfer.runtime.errors import DivergenceError, PoisonedError
from specinfer.runtime.executor import Failure
from specinfer.runtime.machine import Control, physical_key
from specinfer.runtime.poison import PoisonedData
from specinfer.runtime.replication import (
    History,
    Launched,
    Replayed,
)

LONGEST = 4096
"""Entries after which the ranks compare what they issued even if nobody waits."""


class Agreement:
    """What this rank has to tell the others, and what was never made.

    Args:
        control: how to exchange it.

    Attributes:
        history: what this rank issued.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        self.history = History()
        self._poisoned = PoisonedData()
        control.follow(self.history)

    @property
    def is_due(self) -> bool:
        """Whether so much was issued since the last time that it has to be compared."""
        return self.history.number - self.history.settled >= LONGEST

    def meet(self, failures: Sequence[Failure], poisoned: PoisonedData) -> None:
        """Exchange with the other ranks; all of them are here.

        Args:
            failures: what raised on this rank since the last time.
            poisoned: this rank's own view of what was never made; brought in line with the others.

        Raises:
            DivergenceError: the ranks issued different things.
            PoisonedError: a task raised, on any rank.
            BaseException: what this rank was interrupted by.
        """
        history = self.history
        if history.settled == history.number:  # nothing since the last time, here as on all ranks
            return
        # What could not run for want of a value that was never made is no cause of its own.
        failures = [f for f in failures if not isinstance(f.error, PoisonedError)]
        met = self._control.exchange((history.digest, history.number, len(failures)))
        if any(words[:2] != met[0][:2] for words in met):
            self._raise_difference()
        raised: dict[Spot, str] = {}
        if any(words[2] for words in met):
            raised = self._gather_causes(failures)
        if raised or self._poisoned:
            spread(self._poisoned, history.unsettled, history.settled, raised)
            poisoned.spaces = self._here()
        history.settle()
        if raised:
            own = next((f.error for f in failures), None)
            if own is not None and not isinstance(own, Exception):
                raise own
            first = raised[min(raised, key=_order)]
            more = f" ({len(raised) - 1} more raised)" if len(raised) > 1 else ""
            raise PoisonedError(first + more) from own

    def compare(self) -> None:
        """Find out whether the ranks issued the same so far; what raised is told when they meet.

        Raises:
            DivergenceError: they did not.
        """
        history = self.history
        met = self._control.exchange((history.digest, history.number, 0))
        if any(words[:2] != met[0][:2] for words in met):
            self._raise_difference()

    def made(self, requirement: Requirement) -> None:
        """Take in that data were made by no launch: they got other memory, on all ranks."""
        self._poisoned.spreads([requirement])

    def _raise_difference(self) -> NoReturn:
        told = self._control.gather(self.history.told(since=self.history.settled))
        found = first_difference(dict(enumerate(told)))
        raise DivergenceError(
            f"the ranks do not run the same program: {found or 'what differs is too long ago'}"
        )

    def _gather_causes(self, failures: Sequence[Failure]) -> dict[Spot, str]:
        """Where tasks raised on any rank, and the story of each."""
        found: dict[tuple[Spot, str], list[int]] = {}
        own = [self._told(failure) for failure in failures]
        for rank, told in enumerate(self._control.gather(own)):
            for spot, story in told:
                found.setdefault((spot, story), []).append(rank)
        causes: dict[Spot, str] = {}
        for (spot, story), ranks in found.items():
            causes.setdefault(spot, f"{story} on {ranks_text(ranks)}")
        return causes

    def _told(self, failure: Failure) -> tuple[Spot, str]:
        """Where an operation of this rank raised."""
        entries = self.history.unsettled
        at = bisect_right(entries, failure.id, key=lambda entry: entry.first) - 1
        entry, within = entries[max(at, 0)], 0
        launch = f"launch of {failure.operation}"
        if isinstance(entry, Replayed):
            base = entry.launches[0].first
            starts = [launched.first - base for launched in entry.launches]
            within = bisect_right(starts, failure.id - entry.first) - 1
            launch = f"launch {entry.launches[within].launch} replayed, {failure.operation}"
        elif isinstance(entry, Launched):
            launch = f"launch {entry.launch}, {failure.operation}"
        operation, error = failure.operation, failure.error
        executable = getattr(operation, "executable", None)  # also of a call that is watched
        colour = None if executable is None else executable.colour
        number = self.history.settled + max(at, 0)
        return (number, within, colour), f"{launch}, raised {type(error).__name__}: {error}"

    def _here(self) -> dict[Any, Any]:
        """What was never made, as the memories of this rank and its futures."""
        here: dict[Any, Any] = {}
        for key, spaces in self._poisoned.spaces.items():
            if isinstance(key, tuple) and key[0] == "future":
                here[key] = list(spaces)
            else:
                for is_partial in (False, True):
                    memory = physical_key(key, self._control.rank, is_partial=is_partial)  # type: ignore[arg-type]
                    here[memory] = list(spaces)
        return here


def _order(spot: Spot) -> tuple[Any, ...]:
    number, within, colour = spot
    at = (colour,) if isinstance(colour, int) else colour or ()
    return number, within, at
