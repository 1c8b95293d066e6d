"""Rectangles meet where they share a point, and cover each other where all points are shared."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from specinfer.runtime.errors import LaunchError
from specinfer.runtime.index_space import IndexSpace

ROWS = IndexSpace((0, 0), (4, 8))
TAIL = IndexSpace((2, 0), (4, 8))
CORNER = IndexSpace((3, 6), (6, 9))
NOWHERE = IndexSpace((1, 1), (1, 5))

# All rectangles in a grid of three by three, empty ones too.
INTERVALS = [(low, high) for low in range(3) for high in range(low, 4)]
GRID = [IndexSpace((i, k), (j, n)) for (i, j), (k, n) in product(INTERVALS, INTERVALS)]


def points(space: IndexSpace) -> set[tuple[int, ...]]:
    return set(product(*map(range, space.lo, space.hi)))


def test_shape_counts_points_along_each_dimension() -> None:
    assert TAIL.shape == (2, 8)
    assert NOWHERE.shape == (0, 4)


def test_neighbours_do_not_overlap() -> None:
    assert not IndexSpace((0, 0), (2, 8)).overlaps(TAIL)
    assert TAIL.overlaps(CORNER)


def test_an_empty_space_overlaps_nothing_and_is_covered_by_all() -> None:
    assert NOWHERE.is_empty
    assert not ROWS.overlaps(NOWHERE)
    assert not NOWHERE.overlaps(NOWHERE)
    assert TAIL.covers(NOWHERE)


def test_covers_itself_and_its_parts_only() -> None:
    assert ROWS.covers(ROWS)
    assert ROWS.covers(TAIL)
    assert not TAIL.covers(ROWS)
    assert not ROWS.covers(CORNER)


def test_overlap_and_cover_agree_with_sets_of_points() -> None:
    point_sets = {space: points(space) for space in GRID}
    for one, other in product(GRID, GRID):
        assert one.overlaps(other) == bool(point_sets[one] & point_sets[other]), (one, other)
        assert one.covers(other) == (point_sets[other] <= point_sets[one]), (one, other)


def test_slices_select_the_points_of_an_array() -> None:
    array = np.arange(32).reshape(4, 8)
    assert np.array_equal(array[TAIL.slices], array[2:])


@pytest.mark.parametrize(
    ("lo", "hi"),
    [((), ()), ((0,), (1, 1)), ((0,) * 5, (1,) * 5)],
    ids=["no dimension", "corners of different dimension", "five dimensions"],
)
def test_refuses_what_has_not_one_to_four_dimensions(
    lo: tuple[int, ...], hi: tuple[int, ...]
) -> None:
    with pytest.raises(LaunchError, match="expected 1 to 4 dimensions"):
        IndexSpace(lo, hi)


@pytest.mark.parametrize(
    ("lo", "hi"), [((2,), (1,)), ((-1,), (1,))], ids=["upside down", "below 0"]
)
def test_refuses_corners_out_of_order(lo: tuple[int, ...], hi: tuple[int, ...]) -> None:
    with pytest.raises(LaunchError, match=r"expected 0 <= lo <= hi"):
        IndexSpace(lo, hi)
