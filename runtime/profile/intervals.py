"""Sets of moments, as sorted disjoint intervals of integers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Interval = tuple[int, int]


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Every moment that lies in one of them.

    >>> union([(4, 6), (0, 2), (1, 3), (3, 3)])
    [(0, 3), (4, 6)]
    """
    merged: list[Interval] = []
    for start, stop in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        elif start < stop:
            merged.append((start, stop))
    return merged


def minus(intervals: Sequence[Interval], others: Sequence[Interval]) -> list[Interval]:
    """Moments of sorted disjoint intervals that lie in none of the others, which are such too.

    >>> minus([(0, 10)], [(2, 3), (5, 7), (9, 12)])
    [(0, 2), (3, 5), (7, 9)]
    """
    rest: list[Interval] = []
    first = 0
    for start, stop in intervals:
        while first < len(others) and others[first][1] <= start:
            first += 1
        at = first
        while at < len(others) and others[at][0] < stop:
            if start < others[at][0]:
                rest.append((start, others[at][0]))
            start = others[at][1]
            at += 1
        if start < stop:
            rest.append((start, stop))
    return rest


def length(intervals: Iterable[Interval]) -> int:
    """How long disjoint intervals are together."""
    return sum(stop - start for start, stop in intervals)
