"""Placement: which ranks hold the valid data of a field, and what moves when a launch wants it.

The points of a field are cut into *pieces*, rectangles whose data have the same history. Of each
piece we know the ranks that hold it, and the sums still to be made: a reduction leaves every rank
with a part of the result, and nothing moves until somebody reads it. Replicated, Sharded(dim) and
Partial(op) over the axes of a mesh are all such pieces (see :mod:`specinfer.runtime.sharding`).

Every rank works out the same transfers from the same launches; that is why none has to be asked.

Plain values in and out. A set of ranks is an integer, bit r for rank r.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from specinfer.runtime.errors import MapperError
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.region import FieldKey

Ranks = int


@dataclass(frozen=True, slots=True)
class Piece:
    """Points whose data have the same history.

    Attributes:
        space: the points.
        valid: ranks that hold what was there before the pending reduction; none: no value.
        op: operator of a pending reduction.
        groups: sets of ranks; the parts that one group holds make up the whole reduction, and each
            group could be asked.
    """

    space: IndexSpace
    valid: Ranks
    op: str | None = None
    groups: tuple[Ranks, ...] = ()

    def over(self, space: IndexSpace) -> Piece:
        """The same history for other points."""
        return Piece(space, self.valid, self.op, self.groups)


FieldState = tuple[Piece, ...]
"""Disjoint pieces that together are all points of a field."""


@dataclass(frozen=True, slots=True)
class Move:
    """Points that one rank sends another."""

    source: int
    target: int
    space: IndexSpace


@dataclass(frozen=True, slots=True)
class Copy:
    """Data of one field that moves between ranks.

    Attributes:
        key: the field.
        moves: who sends what to whom.
    """

    key: FieldKey
    moves: tuple[Move, ...]

    @property
    def kind(self) -> str:
        """The name of this pattern: send, broadcast, all-gather or all-to-all."""
        if len(self.moves) == 1:
            return "send"
        if blocks := self.blocks():
            return "broadcast" if len(blocks) == 1 else "all-gather"
        ranks = members(self.ranks)
        pairs = {(move.source, move.target) for move in self.moves}
        return "all-to-all" if len(pairs) == len(ranks) * (len(ranks) - 1) else "send"

    def blocks(self) -> dict[int, IndexSpace] | None:
        """The block of each source, if every other rank that takes part gets it; else None."""
        blocks: dict[int, IndexSpace] = {}
        targets: dict[int, set[int]] = {}
        for move in self.moves:
            if blocks.setdefault(move.source, move.space) != move.space:
                return None
            targets.setdefault(move.source, set()).add(move.target)
        ranks = set(members(self.ranks))
        if any(reached != ranks - {source} for source, reached in targets.items()):
            return None
        return blocks

    @property
    def ranks(self) -> Ranks:
        """Who takes part."""
        ranks = 0
        for move in self.moves:
            ranks |= 1 << move.source | 1 << move.target
        return ranks


@dataclass(frozen=True, slots=True)
class Fold:
    """A pending reduction that is carried out.

    Attributes:
        key: the field.
        space: the points.
        op: the operator.
        groups: the groups that do it, each for itself.
        bases: for each group, the rank that adds what was there before; None if nothing was.
        blocks: what each rank gets, if not everything: disjoint within a group.
    """

    key: FieldKey
    space: IndexSpace
    op: str
    groups: tuple[Ranks, ...]
    bases: tuple[int | None, ...]
    blocks: tuple[tuple[int, IndexSpace], ...] | None = None

    @property
    def kind(self) -> str:
        """The name of this pattern: all-reduce, reduce-scatter, or fold where nothing moves."""
        if all(group.bit_count() == 1 for group in self.groups):
            return "fold"
        return "all-reduce" if self.blocks is None else "reduce-scatter"

    @property
    def ranks(self) -> Ranks:
        """Who takes part."""
        ranks = 0
        for group in self.groups:
            ranks |= group
        return ranks

    def results(self) -> list[tuple[int, IndexSpace]]:
        """Each rank that gets something, and what."""
        if self.blocks is not None:
            return [(rank, space) for rank, space in self.blocks if not space.is_empty]
        return [(rank, self.space) for rank in members(self.ranks)]


@dataclass(frozen=True, slots=True)
class Reset:
    """Points of a rank's part of a reduction that start from the operator's neutral element."""

    key: FieldKey
    rank: int
    space: IndexSpace
    op: str

    kind = "reset"

    @property
    def ranks(self) -> Ranks:
        """Who takes part."""
        return 1 << self.rank


Transfer = Copy | Fold | Reset


@dataclass(frozen=True, slots=True)
class Want:
    """Points that a rank has to hold before a launch runs."""

    rank: int
    space: IndexSpace


@dataclass(frozen=True, slots=True)
class Contribution:
    """Points that a launch reduces to, and the groups of ranks whose parts make up the whole."""

    space: IndexSpace
    groups: tuple[Ranks, ...]


def is_local(transfer: Transfer) -> bool:
    """Whether every rank does it for itself: nothing moves between ranks."""
    return transfer.kind in ("fold", "reset")


def members(ranks: Ranks) -> list[int]:
    """The ranks of a set, in order.

    >>> members(0b1010)
    [1, 3]
    """
    return [rank for rank in range(ranks.bit_length()) if ranks >> rank & 1]


def read(
    key: FieldKey, state: FieldState, wants: Sequence[Want]
) -> tuple[list[Transfer], FieldState]:
    """What must move so that every rank holds what it wants."""
    wants = [want for want in wants if not want.space.is_empty]
    transfers: list[Transfer] = []
    folded: list[Piece] = []
    for piece in state:
        here = [want for want in wants if piece.groups and want.space.overlaps(piece.space)]
        if here:
            new, piece_transfers = _fold(key, piece, here)
            transfers += piece_transfers
            folded += new
        else:
            folded.append(piece)
    moves = []
    # All moves of a copy happen at once: they come from who held the data before it.
    pieces = [(piece, piece.valid) for piece in folded]
    for want in wants:
        bit = 1 << want.rank
        kept: list[tuple[Piece, Ranks]] = []
        for piece, holders in pieces:
            if piece.valid & bit or not piece.space.overlaps(want.space):
                kept.append((piece, holders))
                continue
            part = piece.space.intersection(want.space)
            if holders:  # else nobody ever wrote it: whatever is there will do
                moves.append(Move(_first(holders), want.rank, part))
            kept.append((Piece(part, piece.valid | bit), holders))
            kept += ((piece.over(rest), holders) for rest in piece.space.minus(part))
        pieces = kept
    if moves:
        transfers.append(Copy(key, tuple(_joined(moves))))
    return transfers, merged([piece for piece, _ in pieces])


def write(state: FieldState, ranks: Ranks, space: IndexSpace) -> FieldState:
    """Some ranks have written these points: all other data of them are stale."""
    if space.is_empty:
        return state
    return merged([*_without(state, space), Piece(space, ranks)])


def write_parts(state: FieldState, op: str, contribution: Contribution) -> FieldState:
    """Groups of ranks have each written parts, whose reduction is the new value."""
    if contribution.space.is_empty:
        return state
    new = Piece(contribution.space, 0, op, contribution.groups)
    return merged([*_without(state, contribution.space), new])


def reduce(
    key: FieldKey, state: FieldState, op: str, contributions: Sequence[Contribution]
) -> tuple[list[Transfer], FieldState]:
    """What must happen before ranks may reduce to their own parts, and the state after it.

    A part that a rank does not have yet starts from the neutral element; a pending reduction with
    another operator, or of groups that cannot be joined with these, is carried out first.
    """
    shared = [(piece, tuple[tuple[Ranks, ...], ...]()) for piece in state]
    for contribution in contributions:
        shared = [
            split for piece, groups in shared for split in _shared(piece, groups, contribution)
        ]
    transfers: list[Transfer] = []
    pieces = []
    for piece, contributed in shared:
        part = piece
        if not contributed:
            pieces.append(part)
            continue
        groups = _join([part.groups, *contributed]) if part.op == op and part.groups else ()
        if part.groups and not groups:
            (part,), needed = _fold(key, part, ())
            transfers += needed
        groups = groups or _join(contributed)
        if not groups:
            raise MapperError(
                f"field {key[1]} of region {key[0]}: no ranks hold each part of a reduction to "
                f"{part.space} once, among {contributed}"
            )
        reducing = _all([_all(own) for own in contributed])
        for rank in members(reducing & ~_all(part.groups)):
            transfers.append(Reset(key, rank, part.space, op))
        pieces.append(Piece(part.space, part.valid, op, groups))
    return transfers, merged(pieces)


def merged(pieces: Sequence[Piece]) -> FieldState:
    """Fewer pieces for the same state: neighbours of one history become one, in a fixed order."""
    rest = sorted(pieces, key=lambda piece: (piece.space.lo, piece.space.hi))
    again = len(rest) > 1
    while again:
        again = False
        for i, piece in enumerate(rest):
            for j in range(i + 1, len(rest)):
                union = _union(piece, rest[j])
                if union is not None:
                    rest[i] = union
                    del rest[j]
                    again = True
                    break
            if again:
                break
    return tuple(rest)


def _fold(key: FieldKey, piece: Piece, wants: Sequence[Want]) -> tuple[list[Piece], list[Transfer]]:
    """Carry out a pending reduction, where possible with the result where it is wanted."""
    assert piece.op is not None
    transfers: list[Transfer] = []
    groups, bases = piece.groups, tuple[int | None, ...](None for _ in piece.groups)
    if piece.valid:
        having = tuple(group for group in groups if group & piece.valid)
        if not having:
            having = groups[:1]
            target = _first(having[0])
            transfers.append(Copy(key, (Move(_first(piece.valid), target, piece.space),)))
            bases = (target,)
        else:
            bases = tuple(_first(group & piece.valid) for group in having)
        groups = having
    blocks = _blocks(piece.space, groups, wants)
    fold = Fold(key, piece.space, piece.op, groups, bases, blocks)
    transfers.append(fold)
    if blocks is None:
        return [Piece(piece.space, _all(groups))], transfers
    holders: dict[IndexSpace, Ranks] = {}
    for rank, space in fold.results():
        holders[space] = holders.get(space, 0) | 1 << rank
    return [Piece(space, ranks) for space, ranks in holders.items()], transfers


def _blocks(
    space: IndexSpace, groups: Sequence[Ranks], wants: Sequence[Want]
) -> tuple[tuple[int, IndexSpace], ...] | None:
    """What each rank gets, if every group wants each point exactly once; else None."""
    wanted = [(want.rank, want.space.intersection(space)) for want in wants]
    ranks = [rank for rank, _ in wanted]
    if len(set(ranks)) < len(ranks) or not set(ranks) <= set(members(_all(groups))):
        return None
    for group in groups:
        inside = [part for rank, part in wanted if group >> rank & 1]
        if group.bit_count() < 2 or len(inside) < 2:
            return None
        if sum(part.volume for part in inside) != space.volume:
            return None
        if any(one.overlaps(other) for i, one in enumerate(inside) for other in inside[i + 1 :]):
            return None
    return tuple(sorted(wanted, key=lambda item: item[0]))


def _shared(
    piece: Piece, groups: tuple[tuple[Ranks, ...], ...], contribution: Contribution
) -> Iterator[tuple[Piece, tuple[tuple[Ranks, ...], ...]]]:
    """A piece, cut where a contribution ends."""
    if not piece.space.overlaps(contribution.space):
        yield piece, groups
        return
    inside = piece.space.intersection(contribution.space)
    yield piece.over(inside), (*groups, contribution.groups)
    for rest in piece.space.minus(inside):
        yield piece.over(rest), groups


def _join(contributed: Sequence[tuple[Ranks, ...]]) -> tuple[Ranks, ...]:
    """Disjoint sets of ranks with one group of each contribution, and nothing of its others.

    >>> _join([(0b0001, 0b0010), (0b0100, 0b1000)]), _join([(0b01, 0b10), (0b11,)])
    ((5, 10), ())
    """
    found: list[Ranks] = []
    for start in contributed[0]:
        ranks = start
        for n, groups in enumerate(contributed[1:], start=2):
            for group in groups:
                more = ranks | group
                if _holds_once(more, contributed[:n]) and not more & _all(found):
                    ranks = more
                    break
        if _holds_once(ranks, contributed) and not ranks & _all(found):
            found.append(ranks)
    return tuple(found)


def _holds_once(ranks: Ranks, contributed: Sequence[tuple[Ranks, ...]]) -> bool:
    return all(ranks & _all(groups) in groups for groups in contributed)


def _without(state: FieldState, space: IndexSpace) -> Iterator[Piece]:
    for piece in state:
        if piece.space.overlaps(space):
            yield from (piece.over(rest) for rest in piece.space.minus(space))
        else:
            yield piece


def _joined(moves: Sequence[Move]) -> list[Move]:
    """Fewer moves of the same points."""
    rest = list(moves)
    i = 0
    while i < len(rest):
        j = i + 1
        while j < len(rest):
            one, other = rest[i], rest[j]
            space = None
            if (one.source, one.target) == (other.source, other.target):
                space = _union_space(one.space, other.space)
            if space is None:
                j += 1
            else:
                rest[i] = Move(one.source, one.target, space)
                del rest[j]
                j = i + 1
        i += 1
    return rest


def _union(one: Piece, other: Piece) -> Piece | None:
    if (one.valid, one.op, one.groups) != (other.valid, other.op, other.groups):
        return None
    space = _union_space(one.space, other.space)
    return None if space is None else one.over(space)


def _union_space(one: IndexSpace, other: IndexSpace) -> IndexSpace | None:
    """Two neighbours as one rectangle, if they are one."""
    differing = [
        d for d in range(len(one.lo)) if (one.lo[d], one.hi[d]) != (other.lo[d], other.hi[d])
    ]
    if len(differing) != 1:
        return None
    (d,) = differing
    if one.hi[d] == other.lo[d]:
        return one.along(d, one.lo[d], other.hi[d])
    if other.hi[d] == one.lo[d]:
        return one.along(d, other.lo[d], one.hi[d])
    return None


def _all(groups: Sequence[Ranks]) -> Ranks:
    ranks = 0
    for group in groups:
        ranks |= group
    return ranks


def _first(ranks: Ranks) -> int:
    return (ranks & -ranks).bit_length() - 1
