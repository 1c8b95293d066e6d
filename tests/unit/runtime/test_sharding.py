"""Pieces as words: replicated, sharded, partial, along each axis of a mesh."""

from __future__ import annotations

import pytest

from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.mesh import Mesh, line
from specinfer.runtime.placement import FieldState, Piece
from specinfer.runtime.sharding import Partial, Replicated, Sharded, describe, share

GRID = IndexSpace((0, 0), (4, 6))
LINE = line(2)
SQUARE = Mesh.of({"data": 2, "tensor": 2})


def rows(low: int, high: int) -> IndexSpace:
    return GRID.along(0, low, high)


def columns(low: int, high: int) -> IndexSpace:
    return GRID.along(1, low, high)


def test_what_every_rank_holds_is_replicated() -> None:
    state = (Piece(GRID, 0b11),)
    assert describe(state, GRID, LINE) == {"ranks": Replicated()}


def test_blocks_of_rows_are_sharded_by_rows() -> None:
    state = (Piece(rows(0, 3), 0b01), Piece(rows(3, 4), 0b10))
    assert describe(state, GRID, LINE) == {"ranks": Sharded(0, ((0, 3), (3, 4)))}


def test_blocks_of_columns_are_sharded_by_columns() -> None:
    state = (Piece(columns(0, 3), 0b01), Piece(columns(3, 6), 0b10))
    assert describe(state, GRID, LINE) == {"ranks": Sharded(1, ((0, 3), (3, 6)))}


def test_a_shard_may_be_empty() -> None:
    state = (Piece(GRID, 0b01),)
    assert describe(state, GRID, LINE) == {"ranks": Sharded(0, ((0, 4), (4, 4)))}


def test_blocks_are_counted_from_the_start_of_the_region() -> None:
    state = (Piece(rows(0, 3), 0b01), Piece(rows(3, 4), 0b10))
    assert describe(state, rows(2, 4), LINE) == {"ranks": Sharded(0, ((2, 3), (3, 4)))}


def test_parts_of_a_sum_are_partial() -> None:
    state = (Piece(GRID, 0, "+", (0b11,)),)
    assert describe(state, GRID, LINE) == {"ranks": Partial("+")}


def test_a_mesh_of_two_axes_is_described_along_each() -> None:
    state = (Piece(rows(0, 2), 0b0011), Piece(rows(2, 4), 0b1100))
    found = describe(state, GRID, SQUARE)
    assert found == {"data": Sharded(0, ((0, 2), (2, 4))), "tensor": Replicated()}


def test_tiles_are_sharded_along_both_axes() -> None:
    state: FieldState = tuple(
        Piece(IndexSpace((2 * i, 3 * j), (2 * i + 2, 3 * j + 3)), 1 << (2 * i + j))
        for i in range(2)
        for j in range(2)
    )
    found = describe(state, GRID, SQUARE)
    assert found == {"data": Sharded(0, ((0, 2), (2, 4))), "tensor": Sharded(1, ((0, 3), (3, 6)))}


def test_sums_along_one_axis_of_two() -> None:
    state = (Piece(GRID, 0, "max", (0b0011, 0b1100)),)
    assert describe(state, GRID, SQUARE) == {"data": Replicated(), "tensor": Partial("max")}


@pytest.mark.parametrize(
    "state",
    [
        (Piece(rows(0, 2), 0b10), Piece(rows(2, 4), 0b01)),
        (Piece(rows(0, 3), 0b11), Piece(rows(3, 4), 0b10)),
        (Piece(rows(0, 1), 0b01), Piece(rows(1, 3), 0b10), Piece(rows(3, 4), 0b01)),
        (Piece(rows(0, 2), 0, "+", (0b11,)), Piece(rows(2, 4), 0b11)),
        (Piece(GRID, 0b11, "+", (0b11,)),),
        (Piece(rows(0, 2), 0b01), Piece(rows(2, 3), 0b10), Piece(rows(3, 4), 0)),
    ],
    ids=[
        "backwards",
        "overlapping",
        "cyclic",
        "partly a sum",
        "a sum with a base",
        "never written",
    ],
)
def test_what_is_nothing_regular_has_no_words(state: FieldState) -> None:
    assert describe(state, GRID, LINE) is None


def test_on_a_mesh_what_differs_within_a_group_has_no_words() -> None:
    state = (Piece(rows(0, 2), 0b0001), Piece(rows(2, 4), 0b1110))
    assert describe(state, GRID, SQUARE) is None


@pytest.mark.parametrize(
    ("sharding", "text"),
    [(Replicated(), "R"), (Sharded(1, ((0, 3), (3, 6))), "S(1)"), (Partial("+"), "P(+)")],
)
def test_shardings_have_short_names(sharding: object, text: str) -> None:
    assert str(sharding) == text


def test_blocks_are_as_equal_as_can_be() -> None:
    assert share(7, 3) == ((0, 3), (3, 5), (5, 7))
    assert share(0, 2) == ((0, 0), (0, 0))
