"""Values share an arena where their lifetimes allow it."""

from __future__ import annotations

import random

import pytest

from specinfer.runtime.arena import ArenaError, Lifetime, plan


def test_no_values_need_no_memory() -> None:
    planned = plan([])
    assert (planned.num_bytes, planned.lower_bound, dict(planned.offsets)) == (0, 0, {})
    assert planned.describe() == (
        "high-water mark 0 bytes, lower bound 0 (launch 0), without sharing 0"
    )


def test_values_of_one_launch_lie_side_by_side() -> None:
    planned = plan([Lifetime("a", 3, 3, 10), Lifetime("b", 3, 3, 70)])
    assert dict(planned.offsets) == {"a": 128, "b": 0}
    assert planned.num_bytes == planned.lower_bound == 192


def test_a_value_read_by_the_launch_that_makes_another_does_not_share_with_it() -> None:
    planned = plan([Lifetime("x", 0, 1, 64), Lifetime("y", 1, 2, 64), Lifetime("z", 2, 3, 64)])
    assert dict(planned.offsets) == {"x": 0, "y": 64, "z": 0}


def test_the_smallest_gap_that_fits_is_taken() -> None:
    # When `fit` comes, `bottom` and `middle` are gone: 8 bytes below `a` are free, and 6 above.
    planned = plan(
        [
            Lifetime("bottom", 0, 0, 8),
            Lifetime("a", 0, 2, 7),
            Lifetime("middle", 0, 0, 6),
            Lifetime("b", 0, 2, 5),
            Lifetime("fit", 1, 2, 4),
        ],
        alignment=1,
    )
    assert dict(planned.offsets) == {"bottom": 0, "middle": 15, "a": 8, "b": 21, "fit": 15}
    assert planned.num_bytes == planned.lower_bound == 26


def test_a_value_of_zero_bytes_takes_no_room_and_disturbs_nobody() -> None:
    planned = plan([Lifetime("nothing", 0, 9, 0), Lifetime("x", 0, 9, 64)])
    assert dict(planned.offsets) == {"x": 0, "nothing": 0}
    assert planned.num_bytes == 64


def test_the_high_water_mark_of_a_chain_is_two_of_its_values() -> None:
    chain = [Lifetime(f"v{n}", n, n + 1, 256) for n in range(100)]
    planned = plan(chain)
    assert (planned.num_bytes, planned.peak, planned.sum_bytes) == (512, 1, 25600)


def test_the_plan_may_need_more_than_the_lower_bound() -> None:
    """Not a wish, but the price of the greedy order: see that the two are told apart."""
    pick = random.Random(1)
    plans = [
        plan(
            Lifetime(f"v{n}", first, first + pick.randrange(6), pick.randrange(1, 2000))
            for n, first in enumerate(pick.choices(range(20), k=30))
        )
        for _ in range(50)
    ]
    excess = [planned.num_bytes / planned.lower_bound for planned in plans]
    assert min(excess) == 1 < max(excess)
    assert sum(excess) / len(excess) < 1.05


def test_a_plan_is_described_a_line_for_each_value() -> None:
    planned = plan([Lifetime("x", 0, 1, 100), Lifetime("y", 1, 2, 64), Lifetime("long", 0, 3, 8)])
    assert planned.describe().splitlines() == [
        "x       0 .. 100  ##..",
        "long  128 .. 136  ####",
        "y     192 .. 256  .##.",
        "high-water mark 256 bytes, lower bound 256 (launch 1), without sharing 256",
    ]


def test_a_long_plan_is_drawn_in_few_columns() -> None:
    planned = plan(Lifetime(f"v{n:02}", n, n + 1, 64) for n in range(90))
    lines = planned.describe(columns=10).splitlines()
    assert lines[0].endswith("  #.........")
    assert lines[89].endswith("  ........##")
    assert len({len(line) for line in lines[:-1]}) == 1


def test_a_value_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ArenaError, match=r"value x: last launch is 2, expected 3 \(its first\)"):
        Lifetime("x", 3, 2, 1)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ArenaError, match="value x: -1 bytes, expected at least 0"):
        Lifetime("x", 0, 0, -1)


def test_two_values_of_one_name_are_refused() -> None:
    with pytest.raises(ArenaError, match="value x: has two lifetimes, expected one"):
        plan([Lifetime("x", 0, 1, 1), Lifetime("x", 4, 5, 1)])


def test_an_alignment_below_one_is_refused() -> None:
    with pytest.raises(ArenaError, match="alignment is 0 bytes, expected at least 1"):
        plan([], alignment=0)
