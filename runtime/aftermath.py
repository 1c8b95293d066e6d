"""After a task raised: what was never made, worked out by every rank from the launches alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from specinfer.runtime.dependence import Requirement
from specinfer.runtime.partition import Colour
from specinfer.runtime.poison import PoisonedData
from specinfer.runtime.replication import Entry, Launched, Replayed

Spot = tuple[int, int, Colour | None]
"""Where a task raised: number of the entry, of the launch within a replay, and the point."""


def launches_of(entries: Sequence[Entry], start: int) -> Iterator[tuple[int, int, Launched]]:
    """The launches among entries, also those of replays, with their places.

    Args:
        entries: in program order.
        start: number of the first one.
    """
    for number, entry in enumerate(entries, start=start):
        if isinstance(entry, Launched):
            yield number, 0, entry
        elif isinstance(entry, Replayed):
            for within, launched in enumerate(entry.launches):
                yield number, within, launched


def spread(
    poisoned: PoisonedData,
    entries: Sequence[Entry],
    start: int,
    causes: Mapping[Spot, str],
) -> None:
    """Work out what was never made, from launches alone: the same on every rank.

    Args:
        poisoned: what was not, before these entries; fields and futures.
        entries: since then, in program order.
        start: number of the first one.
        causes: where tasks raised, and the story.
    """
    for number, within, launched in launches_of(entries, start):
        for point in launched.binding.points:
            raised = causes.get((number, within, point.colour))
            if raised is None and not poisoned:
                continue
            requirements = launched.requirements(point)
            # What raised on data that were never made is no cause of its own.
            cause = next(filter(None, (_read(poisoned, r) for r in requirements)), raised)
            if cause is not None:
                poisoned.add(requirements, cause)
            else:
                poisoned.spreads(requirements)


def _read(poisoned: PoisonedData, requirement: Requirement) -> str | None:
    if not requirement.privilege.reads:
        return None
    return poisoned.cause_in(requirement.key, requirement.space)
