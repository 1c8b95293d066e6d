"""What moves between ranks: from where the data lie, and what is wanted, to transfers.

Tests have the four ranks of a line; a set of ranks is written as bits, rank 0 last.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from specinfer.runtime.errors import MapperError
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.placement import (
    Contribution,
    Copy,
    FieldState,
    Fold,
    Move,
    Piece,
    Reset,
    Transfer,
    Want,
    is_local,
    merged,
    read,
    reduce,
    write,
    write_parts,
)

KEY = (0, "value")
EVERYONE = 0b1111
ALONE = (0b0001, 0b0010, 0b0100, 0b1000)


def interval(low: int, high: int) -> IndexSpace:
    return IndexSpace((low,), (high,))


LINE = interval(0, 8)
REPLICATED: FieldState = (Piece(LINE, EVERYONE),)


def shards(*bounds: tuple[int, int]) -> list[Want]:
    """Each rank's block of the line."""
    return [Want(rank, interval(*block)) for rank, block in enumerate(bounds)]


def sharded(*bounds: tuple[int, int]) -> FieldState:
    """Each rank holds its block only."""
    return merged([Piece(interval(*b), 1 << rank) for rank, b in enumerate(bounds)])


def whole_on(*ranks: int) -> list[Want]:
    return [Want(rank, LINE) for rank in ranks]


QUARTERS = ((0, 2), (2, 4), (4, 6), (6, 8))
PENDING: FieldState = (Piece(LINE, 0, "+", (EVERYONE,)),)


def kinds(transfers: Sequence[Transfer]) -> list[str]:
    return [transfer.kind for transfer in transfers]


class TestRead:
    def test_from_replicated_to_replicated_nothing_moves(self) -> None:
        assert read(KEY, REPLICATED, whole_on(0, 1, 2, 3)) == ([], REPLICATED)

    def test_from_replicated_to_sharded_nothing_moves(self) -> None:
        assert read(KEY, REPLICATED, shards(*QUARTERS)) == ([], REPLICATED)

    def test_from_sharded_to_the_same_shards_nothing_moves(self) -> None:
        state = sharded(*QUARTERS)
        assert read(KEY, state, shards(*QUARTERS)) == ([], state)

    def test_from_sharded_to_replicated_is_an_all_gather(self) -> None:
        transfers, after = read(KEY, sharded(*QUARTERS), whole_on(0, 1, 2, 3))
        assert kinds(transfers) == ["all-gather"]
        assert isinstance(transfers[0], Copy)
        assert transfers[0].blocks() == {r: interval(*b) for r, b in enumerate(QUARTERS)}
        assert after == REPLICATED

    def test_from_uneven_and_empty_shards_to_replicated_is_an_all_gather(self) -> None:
        uneven = ((0, 5), (5, 5), (5, 6), (6, 8))
        state: FieldState = tuple(
            Piece(interval(*b), 1 << rank) for rank, b in enumerate(uneven) if b[0] < b[1]
        )
        transfers, after = read(KEY, state, whole_on(0, 1, 2, 3))
        assert kinds(transfers) == ["all-gather"]
        assert after == REPLICATED

    def test_from_rows_to_columns_is_an_all_to_all(self) -> None:
        grid = IndexSpace((0, 0), (4, 4))
        rows: FieldState = tuple(Piece(grid.along(0, r, r + 1), 1 << r) for r in range(4))
        columns = [Want(rank, grid.along(1, rank, rank + 1)) for rank in range(4)]
        (transfer,), _ = read(KEY, rows, columns)
        assert transfer.kind == "all-to-all"
        assert isinstance(transfer, Copy)
        assert len(transfer.moves) == 4 * 3
        assert Move(1, 2, IndexSpace((1, 2), (2, 3))) in transfer.moves

    def test_from_one_rank_to_all_is_a_broadcast(self) -> None:
        (transfer,), after = read(KEY, (Piece(LINE, 0b0010),), whole_on(0, 1, 2, 3))
        assert transfer.kind == "broadcast"
        assert after == REPLICATED

    def test_from_one_rank_to_another_is_a_send(self) -> None:
        transfers, after = read(KEY, (Piece(LINE, 0b0001),), whole_on(2))
        assert transfers == [Copy(KEY, (Move(0, 2, LINE),))]
        assert transfers[0].kind == "send"
        assert after == (Piece(LINE, 0b0101),)

    def test_a_neighbour_gets_only_what_it_lacks(self) -> None:
        halos = [Want(1, interval(1, 5))]
        transfers, _ = read(KEY, sharded(*QUARTERS), halos)
        moves = (Move(0, 1, interval(1, 2)), Move(2, 1, interval(4, 5)))
        assert transfers == [Copy(KEY, moves)]

    def test_what_was_brought_is_not_brought_again(self) -> None:
        _, after = read(KEY, sharded(*QUARTERS), whole_on(0, 1, 2, 3))
        assert read(KEY, after, whole_on(0, 1, 2, 3))[0] == []

    def test_what_nobody_ever_wrote_is_not_sent(self) -> None:
        transfers, after = read(KEY, (Piece(LINE, 0),), whole_on(1))
        assert transfers == []
        assert after == (Piece(LINE, 0b0010),)

    def test_who_wants_nothing_gets_nothing(self) -> None:
        state = sharded(*QUARTERS)
        assert read(KEY, state, [Want(0, interval(3, 3))]) == ([], state)


class TestReadOfAPendingReduction:
    def test_for_all_is_an_all_reduce(self) -> None:
        transfers, after = read(KEY, PENDING, whole_on(0, 1, 2, 3))
        assert transfers == [Fold(KEY, LINE, "+", (EVERYONE,), (None,))]
        assert kinds(transfers) == ["all-reduce"]
        assert after == REPLICATED

    def test_in_shards_is_a_reduce_scatter(self) -> None:
        transfers, after = read(KEY, PENDING, shards(*QUARTERS))
        assert kinds(transfers) == ["reduce-scatter"]
        assert after == sharded(*QUARTERS)

    def test_in_uneven_and_empty_shards_is_a_reduce_scatter(self) -> None:
        transfers, after = read(KEY, PENDING, shards((0, 5), (5, 5), (5, 7), (7, 8)))
        assert kinds(transfers) == ["reduce-scatter"]
        assert read(KEY, after, shards((0, 5), (5, 5), (5, 7), (7, 8)))[0] == []

    def test_in_shards_that_overlap_is_an_all_reduce(self) -> None:
        wants = shards((0, 3), (2, 4), (4, 6), (6, 8))
        transfers, after = read(KEY, PENDING, wants)
        assert kinds(transfers) == ["all-reduce"]
        assert after == REPLICATED

    def test_by_one_rank_leaves_the_result_on_all_who_took_part(self) -> None:
        transfers, after = read(KEY, PENDING, whole_on(2))
        assert kinds(transfers) == ["all-reduce"]
        assert after == REPLICATED

    def test_adds_what_was_there_before_once(self) -> None:
        state = (Piece(LINE, EVERYONE, "+", (EVERYONE,)),)
        (fold,), _ = read(KEY, state, whole_on(0, 1, 2, 3))
        assert isinstance(fold, Fold)
        assert fold.bases == (0,)

    def test_fetches_what_was_there_before_if_no_part_has_it(self) -> None:
        state = (Piece(LINE, 0b1000, "+", (0b0011,)),)
        transfers, after = read(KEY, state, whole_on(0))
        assert transfers == [
            Copy(KEY, (Move(3, 0, LINE),)),
            Fold(KEY, LINE, "+", (0b0011,), (0,)),
        ]
        assert after == (Piece(LINE, 0b0011),)

    def test_by_one_rank_alone_moves_nothing(self) -> None:
        state = (Piece(LINE, 0b0001, "+", (0b0001,)),)
        transfers, after = read(KEY, state, whole_on(0))
        assert kinds(transfers) == ["fold"]
        assert is_local(transfers[0])
        assert after == (Piece(LINE, 0b0001),)

    def test_is_carried_out_whole_where_a_part_of_it_is_wanted(self) -> None:
        transfers, _ = read(KEY, PENDING, [Want(1, interval(2, 3))])
        (fold,) = transfers
        assert isinstance(fold, Fold)
        assert fold.space == LINE

    def test_elsewhere_is_left_alone(self) -> None:
        state = (Piece(interval(0, 4), EVERYONE), Piece(interval(4, 8), 0, "+", (EVERYONE,)))
        assert read(KEY, state, [Want(1, interval(0, 2))]) == ([], state)

    def test_on_a_mesh_of_two_by_two_is_done_by_each_group_for_itself(self) -> None:
        state = (Piece(LINE, 0, "+", (0b0011, 0b1100)),)
        transfers, after = read(KEY, state, whole_on(0, 1, 2, 3))
        assert transfers == [Fold(KEY, LINE, "+", (0b0011, 0b1100), (None, None))]
        assert after == REPLICATED

    def test_on_a_mesh_of_two_by_two_may_be_scattered_in_each_group(self) -> None:
        halves = shards((0, 4), (4, 8), (0, 4), (4, 8))
        state = (Piece(LINE, 0, "+", (0b0011, 0b1100)),)
        transfers, after = read(KEY, state, halves)
        assert kinds(transfers) == ["reduce-scatter"]
        assert after == (Piece(interval(0, 4), 0b0101), Piece(interval(4, 8), 0b1010))


class TestWrite:
    def test_discards_what_others_hold_and_moves_nothing(self) -> None:
        assert write(REPLICATED, 0b0010, LINE) == (Piece(LINE, 0b0010),)

    def test_discards_a_pending_reduction(self) -> None:
        assert write(PENDING, EVERYONE, LINE) == REPLICATED

    def test_of_a_few_points_leaves_the_others(self) -> None:
        assert write(REPLICATED, 0b0010, interval(2, 4)) == (
            Piece(interval(0, 2), EVERYONE),
            Piece(interval(2, 4), 0b0010),
            Piece(interval(4, 8), EVERYONE),
        )

    def test_of_nothing_changes_nothing(self) -> None:
        assert write(REPLICATED, 0b0010, interval(2, 2)) is REPLICATED

    def test_of_summands_leaves_a_sum_that_is_still_to_be_made(self) -> None:
        assert write_parts(REPLICATED, "+", Contribution(LINE, (EVERYONE,))) == PENDING

    def test_of_summands_by_one_group_on_each_side_of_a_mesh(self) -> None:
        groups = (0b0011, 0b1100)
        after = write_parts(REPLICATED, "+", Contribution(LINE, groups))
        assert after == (Piece(LINE, 0, "+", groups),)


class TestReduce:
    def test_starts_from_the_neutral_element_on_each_rank(self) -> None:
        contributions = [Contribution(LINE, (1 << rank,)) for rank in range(4)]
        transfers, after = reduce(KEY, REPLICATED, "+", contributions)
        assert transfers == [Reset(KEY, rank, LINE, "+") for rank in range(4)]
        assert all(is_local(transfer) for transfer in transfers)
        assert after == (Piece(LINE, EVERYONE, "+", (EVERYONE,)),)

    def test_with_the_same_operator_goes_on_with_the_same_parts(self) -> None:
        contributions = [Contribution(LINE, (1 << rank,)) for rank in range(4)]
        state = (Piece(LINE, EVERYONE, "+", (EVERYONE,)),)
        assert reduce(KEY, state, "+", contributions) == ([], state)

    def test_with_another_operator_carries_out_the_first_one(self) -> None:
        contributions = [Contribution(LINE, (1 << rank,)) for rank in range(4)]
        transfers, after = reduce(KEY, PENDING, "max", contributions)
        assert kinds(transfers) == ["all-reduce", "reset", "reset", "reset", "reset"]
        assert after == (Piece(LINE, EVERYONE, "max", (EVERYONE,)),)

    def test_by_another_rank_joins_the_parts(self) -> None:
        state = (Piece(LINE, EVERYONE, "+", (0b0001,)),)
        transfers, after = reduce(KEY, state, "+", [Contribution(LINE, (0b0100,))])
        assert transfers == [Reset(KEY, 2, LINE, "+")]
        assert after == (Piece(LINE, EVERYONE, "+", (0b0101,)),)

    def test_to_a_few_points_leaves_the_others(self) -> None:
        _, after = reduce(KEY, REPLICATED, "+", [Contribution(interval(0, 2), (0b0001,))])
        assert after == (
            Piece(interval(0, 2), EVERYONE, "+", (0b0001,)),
            Piece(interval(2, 8), EVERYONE),
        )

    def test_by_every_rank_for_itself_leaves_each_with_the_whole(self) -> None:
        _, after = reduce(KEY, REPLICATED, "+", [Contribution(LINE, ALONE)])
        assert after == (Piece(LINE, EVERYONE, "+", ALONE),)
        transfers, _ = read(KEY, after, whole_on(0, 1, 2, 3))
        assert kinds(transfers) == ["fold"]

    def test_by_groups_that_no_ranks_hold_once_is_refused(self) -> None:
        contributions = [Contribution(LINE, (0b01, 0b10)), Contribution(LINE, (0b11,))]
        with pytest.raises(
            MapperError, match=r"field value of region 0: no ranks hold each part .* \[0:8\] once"
        ):
            reduce(KEY, REPLICATED, "+", contributions)


def test_neighbours_of_one_history_are_one_piece() -> None:
    pieces = [Piece(interval(4, 8), 0b01), Piece(interval(0, 4), 0b01)]
    assert merged(pieces) == (Piece(LINE, 0b01),)


def test_neighbours_of_different_histories_stay_apart() -> None:
    pieces = [Piece(interval(0, 4), 0b01), Piece(interval(4, 8), 0b10)]
    assert merged(pieces) == tuple(pieces)


def test_a_copy_between_some_pairs_is_called_a_send() -> None:
    moves = (Move(0, 1, interval(0, 2)), Move(2, 3, interval(4, 6)))
    assert Copy(KEY, moves).kind == "send"
    assert Copy(KEY, moves).ranks == EVERYONE
