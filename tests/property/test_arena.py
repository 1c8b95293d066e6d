"""Values that are alive at once never share a byte, and sharing never costs.

The judge knows nothing of intervals, gaps or orders: it writes each value's bytes down, launch by
launch, and looks for two owners of one byte.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specinfer.runtime import arena
from specinfer.runtime.arena import ArenaPlan, Lifetime, plan

ALIGNMENTS = (1, 2, 3, 8)
NUM_SAMPLES = 400


@st.composite
def lifetimes(draw: st.DrawFn, sizes: st.SearchStrategy[int] | None = None) -> list[Lifetime]:
    sizes = st.integers(0, 20) if sizes is None else sizes
    made = []
    for n in range(draw(st.integers(0, 12))):
        first = draw(st.integers(-2, 8))
        made.append(Lifetime(f"v{n}", first, first + draw(st.integers(0, 5)), draw(sizes)))
    return made


def check(values: Sequence[Lifetime], alignment: int, planned: ArenaPlan) -> None:
    """Raise AssertionError where a plan is not what it should be."""
    assert sorted(planned.offsets) == sorted(value.name for value in values)
    most = 0
    for launch in range(-2, 14):
        owners: dict[int, str] = {}
        blocks = 0
        for value in values:
            if launch in range(value.first, value.last + 1):
                offset = planned.offsets[value.name]
                assert offset >= 0, value
                assert offset % alignment == 0, value
                for byte in range(offset, offset + value.num_bytes):
                    assert byte < planned.num_bytes, value
                    assert owners.setdefault(byte, value.name) == value.name, (launch, byte)
                blocks += len(range(0, value.num_bytes, alignment))
        most = max(most, blocks * alignment)
    total = sum(len(range(0, value.num_bytes, alignment)) for value in values) * alignment
    assert planned.lower_bound == most
    assert planned.sum_bytes == total
    assert most <= planned.num_bytes <= total


@settings(max_examples=400, deadline=None)
@given(values=lifetimes(), alignment=st.sampled_from(ALIGNMENTS))
def test_a_plan_is_sound_and_between_its_bounds(values: list[Lifetime], alignment: int) -> None:
    check(values, alignment, plan(values, alignment))


@settings(max_examples=200, deadline=None)
@given(values=lifetimes(), data=st.data())
def test_the_order_of_the_input_does_not_matter(
    values: list[Lifetime], data: st.DataObject
) -> None:
    one, other = plan(values), plan(data.draw(st.permutations(values)))
    assert one == other
    assert list(one.offsets) == list(other.offsets)


@settings(max_examples=200, deadline=None)
@given(values=lifetimes(st.just(5)), alignment=st.sampled_from(ALIGNMENTS))
def test_values_of_one_size_need_no_more_than_is_alive(
    values: list[Lifetime], alignment: int
) -> None:
    planned = plan(values, alignment)
    assert planned.num_bytes == planned.lower_bound


@settings(max_examples=200, deadline=None)
@given(values=lifetimes())
def test_a_launch_at_the_peak_has_the_most_bytes_alive(values: list[Lifetime]) -> None:
    planned = plan(values, 1)
    alive = [value for value in values if value.first <= planned.peak <= value.last]
    assert sum(value.num_bytes for value in alive) == planned.lower_bound


def _samples() -> Iterable[tuple[list[Lifetime], int]]:
    pick = random.Random(0)
    for _ in range(NUM_SAMPLES):
        yield (
            [
                Lifetime(f"v{n}", first, first + pick.randrange(4), pick.randrange(20))
                for n, first in enumerate(pick.choices(range(8), k=pick.randrange(12)))
            ],
            pick.choice(ALIGNMENTS),
        )


def _judge_samples() -> None:
    for values, alignment in _samples():
        check(values, alignment, plan(values, alignment))


def _fit_that_forgets_ends(taken: Iterable[tuple[int, int]], size: int) -> int:
    top = 0
    for begin, end in taken:
        if begin - top >= size:
            return top
        top = end  # the last one to begin need not be the last to end
    return top


def _fit_one_too_small(taken: Iterable[tuple[int, int]], size: int) -> int:
    return _best_fit(taken, max(size - 1, 1))


def _fit_beyond(taken: Iterable[tuple[int, int]], size: int) -> int:
    return _best_fit(taken, size) + 24  # a multiple of every alignment


_best_fit = arena._best_fit
BUGS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "the last launch does not count": (
        Lifetime,
        "meets",
        lambda self, other: self.first < other.last and other.first < self.last,
    ),
    "only values made later are met": (
        Lifetime,
        "meets",
        lambda self, other: self.first <= other.first <= self.last,
    ),
    "no two values meet": (Lifetime, "meets", lambda self, other: False),
    "a gap may begin inside a value": (arena, "_best_fit", _fit_that_forgets_ends),
    "a gap may be a byte too small": (arena, "_best_fit", _fit_one_too_small),
    "a value may lie beyond all others": (arena, "_best_fit", _fit_beyond),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_judge_finds_planted_bugs(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*BUGS[bug])
    with pytest.raises(AssertionError):
        _judge_samples()


def test_the_judge_has_nothing_to_say_without_bugs() -> None:
    _judge_samples()
