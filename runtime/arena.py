"""Where temporary values lie in one stretch of memory, so that those never alive at once share it.

Greedy by size (Pisarchyk and Lee, "Efficient memory management for deep neural net inference",
2020): the largest value is placed first, each into the smallest gap that the values alive at the
same time leave. The best plan is hard to find (it is the dynamic storage allocation problem), but
easy to recognise: no plan needs fewer bytes than are alive at some launch.

Plain values in and out. Nothing is allocated, and nobody is told that values share bytes: a write
must still wait for what reads the value that lay there before.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from specinfer.runtime.errors import SpecInferError


class ArenaError(SpecInferError):
    """Lifetimes that no arena can be planned for; names the value."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long a value is needed.

    Attributes:
        name: tells it from the others.
        first: the launch that makes it, a place in program order.
        last: the last launch that uses it; ``first`` if none does.
        num_bytes: its size; 0 takes no room.

    Raises:
        ArenaError: it ends before it begins, or its size is negative.
    """

    name: str
    first: int
    last: int
    num_bytes: int

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ArenaError(
                f"value {self.name}: last launch is {self.last}, "
                f"expected {self.first} (its first) or later"
            )
        if self.num_bytes < 0:
            raise ArenaError(f"value {self.name}: {self.num_bytes} bytes, expected at least 0")

    def meets(self, other: Lifetime) -> bool:
        """Whether both are alive at some launch."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class ArenaPlan:
    """A place for each value. Sizes count the bytes that alignment adds.

    Attributes:
        lifetimes: in program order.
        offsets: first byte of each value, by name, in program order; multiples of ``alignment``.
        num_bytes: size of the arena: the high-water mark of what lies in it.
        lower_bound: bytes alive at ``peak``; no plan with this alignment needs fewer.
        peak: the first launch at which most bytes are alive; 0 if there are none.
        sum_bytes: what the values would need without sharing.
        alignment: in bytes.
    """

    lifetimes: tuple[Lifetime, ...]
    offsets: Mapping[str, int]
    num_bytes: int
    lower_bound: int
    peak: int
    sum_bytes: int
    alignment: int

    def end(self, lifetime: Lifetime) -> int:
        """The first byte behind a value, without what alignment adds."""
        return self.offsets[lifetime.name] + lifetime.num_bytes

    def describe(self, columns: int = 60) -> str:
        """A line for each value: its name, bytes, and a bar over the launches.

        Args:
            columns: the longest bar; where launches are more, a character stands for several.
        """
        return "\n".join(_describe(self, columns))


def plan(lifetimes: Iterable[Lifetime], alignment: int = 64) -> ArenaPlan:
    """Place values so that those alive at one launch do not overlap.

    The order in which lifetimes are given does not matter.

    Args:
        lifetimes: of the values, each with its own name.
        alignment: offsets are multiples of this; 64 is a line of a cache.

    Raises:
        ArenaError: two values of one name, or an alignment below 1.

    >>> lifetimes = [Lifetime("a", 0, 1, 100), Lifetime("b", 1, 2, 64), Lifetime("c", 2, 3, 128)]
    >>> dict(plan(lifetimes).offsets)
    {'a': 0, 'b': 128, 'c': 0}
    """
    if alignment < 1:
        raise ArenaError(f"alignment is {alignment} bytes, expected at least 1")
    values = tuple(sorted(lifetimes, key=lambda value: (value.first, value.last, value.name)))
    sizes: dict[str, int] = {}
    for value in values:
        if value.name in sizes:
            raise ArenaError(f"value {value.name}: has two lifetimes, expected one")
        sizes[value.name] = -(-value.num_bytes // alignment) * alignment
    offsets = _place(values, sizes)
    lower_bound, peak = _most_alive(values, sizes)
    return ArenaPlan(
        lifetimes=values,
        offsets={value.name: offsets[value.name] for value in values},
        num_bytes=max((offsets[name] + size for name, size in sizes.items()), default=0),
        lower_bound=lower_bound,
        peak=peak,
        sum_bytes=sum(sizes.values()),
        alignment=alignment,
    )


def _place(values: Sequence[Lifetime], sizes: Mapping[str, int]) -> dict[str, int]:
    """The largest first; ``sorted`` is stable, so values of one size go in program order."""
    offsets: dict[str, int] = {}
    placed: list[tuple[int, int, int]] = []  # (begin, end, number), ascending
    by_size = sorted(range(len(values)), key=lambda n: -sizes[values[n].name])
    for number in by_size:
        value = values[number]
        size = sizes[value.name]
        if size == 0:
            offsets[value.name] = 0
            continue
        taken = [(begin, end) for begin, end, n in placed if values[n].meets(value)]
        begin = _best_fit(taken, size)
        offsets[value.name] = begin
        insort(placed, (begin, begin + size, number))
    return offsets


def _best_fit(taken: Iterable[tuple[int, int]], size: int) -> int:
    """Begin of the smallest gap that is large enough, the lowest of equals; else behind all.

    Args:
        taken: (begin, end) by begin; they may overlap.
        size: bytes asked for, at least 1.

    >>> _best_fit([(0, 1), (4, 6), (8, 9)], 2), _best_fit([(0, 1), (4, 6), (8, 9)], 4)
    (6, 9)
    """
    top = 0
    best: tuple[int, int] | None = None
    for begin, end in taken:
        gap = begin - top
        if gap >= size and (best is None or gap < best[0]):
            best = (gap, top)
        top = max(top, end)
    return top if best is None else best[1]


def _most_alive(values: Sequence[Lifetime], sizes: Mapping[str, int]) -> tuple[int, int]:
    """The most bytes alive at a launch, and the first launch that has them."""
    changes: dict[int, int] = {}
    for value in values:
        size = sizes[value.name]
        changes[value.first] = changes.get(value.first, 0) + size
        changes[value.last + 1] = changes.get(value.last + 1, 0) - size
    alive = most = peak = 0
    for launch in sorted(changes):
        alive += changes[launch]
        if alive > most:
            most, peak = alive, launch
    return most, peak


def _describe(plan: ArenaPlan, columns: int) -> Iterator[str]:
    if plan.lifetimes:
        start = plan.lifetimes[0].first
        launches = max(value.last for value in plan.lifetimes) - start + 1
        step = -(-launches // columns)
        names = max(len(value.name) for value in plan.lifetimes)
        digits = len(str(plan.num_bytes))
        for value in plan.lifetimes:
            low, high = (value.first - start) // step, (value.last - start) // step
            bar = "." * low + "#" * (high - low + 1)
            yield (
                f"{value.name:<{names}}  {plan.offsets[value.name]:>{digits}}"
                f" .. {plan.end(value):>{digits}}  {bar:.<{-(-launches // step)}}"
            )
    yield (
        f"high-water mark {plan.num_bytes} bytes, lower bound {plan.lower_bound} "
        f"(launch {plan.peak}), without sharing {plan.sum_bytes}"
    )
