"""Partitions: parts by colour, what is known of them, and projections onto them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from specinfer.runtime.errors import LaunchError
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.partition import (
    ID,
    PROJECTED,
    Colour,
    Partition,
    Projection,
    blocks,
    by_colour,
    equal,
    points,
    restricted,
    shift,
)
from specinfer.runtime.region import Region

LINE = Region(0, "line", (8,), {"value": "int64"})
GRID = Region(1, "grid", (4, 6), {"k": "int64", "v": "int64"})


def interval(low: int, high: int) -> IndexSpace:
    return IndexSpace((low,), (high,))


def bounds(partition: Partition) -> list[tuple[int, int]]:
    return [(part.space.lo[0], part.space.hi[0]) for part in partition]


def test_equal_parts_have_the_longer_ones_first() -> None:
    assert bounds(equal(LINE, 3)) == [(0, 3), (3, 6), (6, 8)]


def test_more_parts_than_points_leave_some_empty() -> None:
    parts = equal(LINE.rows(0, 2), 4)
    assert bounds(parts) == [(0, 1), (1, 2), (2, 2), (2, 2)]
    assert parts.is_disjoint
    assert parts.is_complete


def test_equal_parts_along_two_dimensions_have_colours_of_two() -> None:
    tiles = equal(GRID, (2, 3))
    assert list(tiles.parts) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert tiles[1, 2].space == IndexSpace((2, 4), (4, 6))


def test_dimensions_without_a_count_stay_whole() -> None:
    assert equal(GRID, 2)[1].space == IndexSpace((2, 0), (4, 6))


def test_blocks_have_the_sizes_given_which_may_be_zero() -> None:
    assert bounds(blocks(LINE, [5, 0, 3])) == [(0, 5), (5, 5), (5, 8)]


def test_blocks_along_another_dimension() -> None:
    columns = blocks(GRID, [2, 4], dim=1)
    assert columns[1].space == IndexSpace((0, 2), (4, 6))


def test_blocks_along_two_dimensions() -> None:
    assert blocks(GRID, [[1, 3], [6]])[1, 0].space == IndexSpace((1, 0), (4, 6))


def test_blocks_that_end_early_are_incomplete() -> None:
    assert not blocks(LINE, [5, 2]).is_complete


def test_any_rectangles_by_any_colours() -> None:
    parts = by_colour(LINE, {7: interval(0, 2), (1, 1): interval(4, 8)})
    assert [str(part) for part in (parts[7], parts[1, 1])] == ["line[0:2]", "line[4:8]"]
    assert parts.is_disjoint
    assert not parts.is_complete


def test_parts_that_share_a_point_are_aliased() -> None:
    parts = by_colour(LINE, {0: interval(0, 5), 1: interval(4, 8)})
    assert not parts.is_disjoint
    assert parts.is_complete


def test_parts_apart_in_the_second_dimension_only_are_disjoint() -> None:
    halves: dict[Colour, IndexSpace]
    halves = {0: IndexSpace((0, 0), (4, 3)), 1: IndexSpace((0, 3), (4, 6))}
    assert by_colour(GRID, halves, disjoint=True, complete=True).is_disjoint


def test_a_rectangle_moves_with_the_colour_and_is_cut_off_at_the_edges() -> None:
    halos = restricted(LINE, 3, interval(0, 3), 3, reach=1)
    assert bounds(halos) == [(0, 4), (2, 7), (5, 8)]
    assert not halos.is_disjoint
    assert halos.is_complete


def test_a_rectangle_without_reach_is_disjoint() -> None:
    assert restricted(LINE, 4, interval(0, 2), 2).is_disjoint


def test_a_rectangle_that_has_moved_out_is_empty() -> None:
    assert restricted(LINE, 4, interval(0, 4), 4)[3].space.is_empty


def test_a_rectangle_moves_along_several_dimensions() -> None:
    tiles = restricted(GRID, (2, 2), IndexSpace((0, 0), (2, 3)), (2, 3), reach=(1, 0))
    assert tiles[1, 1].space == IndexSpace((1, 3), (4, 6))


def test_a_part_can_be_partitioned_again() -> None:
    right = equal(LINE, 2)[1]
    assert bounds(equal(right, 2)) == [(4, 6), (6, 8)]
    assert bounds(blocks(right, [1, 3])) == [(4, 5), (5, 8)]
    assert bounds(restricted(right, 2, interval(4, 6), 2, reach=1)) == [(4, 7), (5, 8)]


def test_parts_of_a_part_are_complete_if_they_make_up_that_part() -> None:
    right = LINE.rows(4, 8)
    assert by_colour(right, {0: interval(4, 8)}, complete=True).is_complete


def test_parts_have_the_fields_of_what_is_partitioned() -> None:
    assert equal(GRID.part(None, "v"), 2)[0].fields == ("v",)
    assert equal(GRID, 2)[0].fields == ("k", "v")


def test_a_part_is_the_same_subregion_however_it_is_named() -> None:
    assert equal(LINE, 2)[0] is LINE.rows(0, 4)


def test_a_partition_tells_what_it_is() -> None:
    assert len(equal(LINE, 3)) == 3
    assert str(equal(LINE, 2, name="halves")) == "halves (2 parts, disjoint, complete)"
    aliased = by_colour(LINE, {0: interval(0, 2), 1: interval(1, 3)}, name="some")
    assert str(aliased) == "some (2 parts, aliased, incomplete)"


def test_nothing_is_partitioned_into_nothing() -> None:
    nothing = equal(Region(2, "nothing", (0,), {"value": "int64"}), 2)
    assert [part.space.is_empty for part in nothing] == [True, True]
    assert nothing.is_complete
    assert by_colour(nothing.whole, {}, complete=True).is_complete


def test_the_points_of_a_domain_are_in_order() -> None:
    assert points(2) == points((2,)) == [0, 1]
    assert points((1, 2)) == [(0, 0), (0, 1)]
    assert points(0) == []


def test_a_projection_chooses_the_part_of_a_point() -> None:
    parts = equal(LINE, 4)
    backwards = Projection("backwards", lambda point: 3 - point)
    assert parts[ID].part(1) is parts[1]
    assert parts[shift(1)].part(1) is parts[2]
    assert parts[backwards].part(1) is parts[2]


def test_a_projection_may_have_fewer_dimensions_than_the_domain() -> None:
    rows = equal(GRID, 2)
    assert rows[Projection("row", lambda point: point[0])].part((1, 2)) is rows[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: by_colour(LINE, {0: interval(0, 5), 1: interval(4, 8)}, disjoint=True),
            r"partition line.parts: declared disjoint, but parts 0 \[0:5\] and 1 \[4:8\] share",
        ),
        (
            lambda: by_colour(LINE, {0: interval(0, 5)}, complete=True, name="most"),
            r"partition most: declared complete, but no part holds \[5:8\]",
        ),
        (
            lambda: by_colour(LINE.rows(0, 4), {3: interval(2, 6)}),
            r"partition line\[0:4\].parts: part 3 is \[2:6\], which leaves \[0:4\]",
        ),
        (
            lambda: by_colour(LINE, {0: IndexSpace((0, 0), (1, 1))}),
            r"part 0 is \[0:1,0:1\], which leaves \[0:8\]",
        ),
        (lambda: blocks(LINE, [4, 5]), r"part 1 is \[4:9\], which leaves \[0:8\]"),
        (
            lambda: blocks(LINE, [4, -1]),
            r"line: blocks of sizes \[4, -1\] along dimension 0, expected each",
        ),
        (lambda: blocks(LINE, [4], dim=1), r"line: parts along dimension 1, expected one of its 1"),
        (lambda: blocks(LINE, [[4], [4]]), r"line: parts along dimension 1, expected one of its 1"),
        (lambda: equal(LINE, (2, 2)), r"line: parts along dimension 1, expected one of its 1"),
        (lambda: equal(LINE, -1), r"line: -1 equal parts, expected 0 or more"),
        (
            lambda: restricted(LINE, (2, 2), interval(0, 2), 2),
            r"line: restricted .* domain \(2, 2\), .* stride 2 .*, expected an extent of 1",
        ),
        (
            lambda: restricted(GRID, 2, IndexSpace((0, 0), (2, 6)), 2, reach=(1, 1)),
            r"grid: restricted parts with domain 2, .* stride 2 and reach \(1, 1\), expected",
        ),
        (
            lambda: restricted(GRID, 2, interval(0, 2), 2),
            r"grid: restricted parts with .* extent \[0:2\], .*, expected an extent of 2",
        ),
        (
            lambda: restricted(GRID, 2, IndexSpace((0, 0), (2, 7)), 2),
            r"part 0 is \[0:2,0:7\], which leaves \[0:4,0:6\]",
        ),
        (lambda: equal(LINE, 2)[2], r"partition line.parts: no colour 2 in 0\.\.1"),
        (lambda: equal(LINE, 0)[0], r"no colour 0 in \(none\)"),
        (lambda: equal(LINE, 2)[[0]], r"no colour \[0\] in 0\.\.1"),
        (
            lambda: equal(LINE, 2)[shift(1)].part(1),
            r"line.parts\[shift\(1\)\]: point 1 is sent to colour 2, which leaves the partition's "
            r"2 colours 0\.\.1",
        ),
        (lambda: equal(LINE, 2)[ID].part((0, 1)), r"point \(0, 1\) is sent to colour \(0, 1\)"),
    ],
)
def test_refuses(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        make()


@pytest.mark.parametrize(
    ("point", "offsets"), [((0, 1), (1,)), (0, (1, 0)), (0, ()), ((1, 1), (0, 0, 0))]
)
def test_a_shift_refuses_a_point_of_other_dimensions(point: Colour, offsets: Any) -> None:
    message = rf"shift\(.*\): point .* dimensions, expected {len(offsets)}, one for each offset"
    with pytest.raises(LaunchError, match=message):
        shift(*offsets).colour(point)


def test_a_shift_is_by_whole_numbers() -> None:
    with pytest.raises(LaunchError, match=r"shift by \(1.5,\), expected a whole number"):
        shift(cast(int, 1.5))


def test_integers_of_numpy_are_numbers() -> None:
    two, sizes = cast(int, np.int64(2)), np.array([3, 5])
    assert points(two) == [0, 1]
    assert points((two, 1)) == points(cast(Any, np.array([2, 1]))) == [(0, 0), (1, 0)]
    assert equal(LINE, two) is equal(LINE, 2)
    assert equal(GRID, (two, two)) is equal(GRID, [2, 2])
    assert blocks(LINE, cast(Any, sizes)) is blocks(LINE, [3, 5])
    assert blocks(GRID, [np.array([1, 3]), [two, 4]]) is blocks(GRID, [[1, 3], [2, 4]])
    assert restricted(LINE, two, interval(0, 4), two) is restricted(LINE, 2, interval(0, 4), 2)
    assert shift(two).colour(1) == 3
    assert type(points(two)[0]) is type(next(iter(blocks(LINE, cast(Any, sizes)).parts))) is int


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: points(cast(Any, 2.5)), r"domain 2\.5, expected a whole number"),
        (lambda: points(cast(Any, "ab")), "domain 'ab', expected a whole number"),
        (lambda: points(()), r"domain \(\): expected 0 or more points along each"),
        (lambda: equal(LINE, ()), "line: equal parts without a count, expected one at least"),
        (lambda: equal(LINE, cast(Any, 0.5)), r"line: equal parts: 0\.5, expected a whole number"),
        (lambda: blocks(LINE, cast(Any, 3)), "line: blocks of sizes 3, expected a list of sizes"),
        (lambda: blocks(LINE, [1.5, 6.5]), r"line: blocks of sizes 1\.5, expected a list"),
        (lambda: blocks(GRID, [[1.5], [6]]), r"grid: blocks of sizes \[1\.5\], expected a whole"),
        (lambda: blocks(GRID, [6], dim=-1), "grid: parts along dimension -1, expected one of its"),
        (
            lambda: restricted(LINE, 2, interval(0, 4), cast(Any, 0.5)),
            r"line: restricted parts with stride 0\.5, expected a whole number",
        ),
    ],
)
def test_refuses_what_is_no_number(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        make()


def test_projections_that_are_made_anew_each_time_are_forgotten() -> None:
    halves = equal(LINE, 2, name="halves")
    seen = halves[ID]
    for _ in range(3 * PROJECTED):
        assert halves[Projection("fresh", lambda point: point)].part(0) is halves[0]
        assert halves[ID] is seen  # used all the time, and so kept
    assert len(halves._projected) == PROJECTED
