"""METG(50 %): the smallest granularity at which a system is still half as fast as it could be.

Granularity is the time that a core spends on a task, overhead included; efficiency is the share of
it that is the task's own work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Sizes of tasks that are measured, in units of the overhead of an empty one; up to the first that
is efficient enough."""

SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    """One size of tasks.

    Attributes:
        granularity: seconds of a core for each task.
        efficiency: share of that which is work.
    """

    granularity: float
    efficiency: float


def metg(samples: Sequence[Sample], share: float = SHARE) -> float | None:
    """The granularity at which the efficiency crosses ``share``; None if it never gets there.

    Between two samples it is interpolated over the logarithm of the granularity. If even the
    smallest tasks are efficient, the answer is their granularity: it is no more than that.

    >>> metg([Sample(1e-6, 0.25), Sample(4e-6, 0.75)])
    2e-06
    """
    ordered = sorted(samples, key=lambda sample: sample.granularity)
    above = [i for i, sample in enumerate(ordered) if sample.efficiency >= share]
    if not above:
        return None
    first = above[0]
    if first == 0:
        return ordered[0].granularity
    low, high = ordered[first - 1], ordered[first]
    part = (share - low.efficiency) / (high.efficiency - low.efficiency)
    between = log(low.granularity) + part * (log(high.granularity) - log(low.granularity))
    return round(exp(between), 12)


def measure(
    run: Callable[[int], float], tasks: int, cores: int, per_iteration: float
) -> list[Sample]:
    """Samples up to the size at which half of the time is work: one curve.

    Args:
        run: seconds that the graph takes with so many iterations a task.
        tasks: of the graph.
        cores: that work on it.
        per_iteration: seconds of one iteration.
    """
    overhead = run(0) * cores / tasks
    samples = []
    for factor in FACTORS:
        iterations = max(1, round(factor * overhead / per_iteration))
        granularity = run(iterations) * cores / tasks
        samples.append(Sample(granularity, iterations * per_iteration / granularity))
        if samples[-1].efficiency > SHARE:
            break
    return samples
