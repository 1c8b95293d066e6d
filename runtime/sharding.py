"""Sharding: Replicated, Sharded(dim) and Partial(op) over the axes of a mesh, as words for pieces.

:func:`describe` reads them from a field's pieces, for mappers, people and tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.mesh import Mesh
from specinfer.runtime.placement import FieldState

Block = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Replicated:
    """Every rank along the axis holds all points."""

    def __str__(self) -> str:
        return "R"


@dataclass(frozen=True, slots=True)
class Sharded:
    """The ranks along the axis hold blocks of one dimension, in order.

    Attributes:
        dim: the dimension.
        blocks: first point, and the one behind the last, for each rank along the axis; they may be
            uneven or empty.
    """

    dim: int
    blocks: tuple[Block, ...]

    def __str__(self) -> str:
        return f"S({self.dim})"


@dataclass(frozen=True, slots=True)
class Partial:
    """The ranks along the axis hold parts whose reduction is the value."""

    op: str

    def __str__(self) -> str:
        return f"P({self.op})"


Sharding = Replicated | Sharded | Partial


def share(count: int, ranks: int) -> tuple[Block, ...]:
    """Blocks as equal as can be, the larger ones first.

    >>> share(3, 2), share(1, 3)
    (((0, 2), (2, 3)), ((0, 1), (1, 1), (1, 1)))
    """
    ends = [0]
    for rank in range(ranks):
        ends.append(ends[-1] + count // ranks + (rank < count % ranks))
    return tuple(pairwise(ends))


def describe(state: FieldState, space: IndexSpace, mesh: Mesh) -> dict[str, Sharding] | None:
    """How these points lie on the mesh, by axis; None if it is nothing so regular.

    >>> from specinfer.runtime.placement import Piece
    >>> pair = Mesh.of({"tensor": 2})
    >>> halves = Piece(IndexSpace((0,), (2,)), 0b01), Piece(IndexSpace((2,), (5,)), 0b10)
    >>> describe(halves, IndexSpace((0,), (5,)), pair)
    {'tensor': Sharded(dim=0, blocks=((0, 2), (2, 5)))}
    """
    pieces = [
        piece.over(piece.space.intersection(space))
        for piece in state
        if piece.space.overlaps(space)
    ]
    if any(piece.groups for piece in pieces):
        return _describe_partial(state, space, mesh)
    held: list[IndexSpace] = []
    for rank in range(mesh.num_ranks):
        own = [piece.space for piece in pieces if piece.valid >> rank & 1]
        lo = (
            tuple(min(part.lo[d] for part in own) for d in range(len(space.lo)))
            if own
            else space.lo
        )
        hi = (
            tuple(max(part.hi[d] for part in own) for d in range(len(space.lo)))
            if own
            else space.lo
        )
        box = IndexSpace(lo, hi)
        if sum(part.volume for part in own) != box.volume:
            return None
        held.append(box)
    found: dict[str, Sharding] = {}
    remaining = space
    for axis, size in mesh.axes:
        along = _along(held, space, mesh, axis, size)
        if along is None:
            return None
        found[axis] = along
    # Together they must explain what every rank holds.
    for rank, box in enumerate(held):
        expected = remaining
        for axis, sharding in found.items():
            if isinstance(sharding, Sharded):
                block = sharding.blocks[mesh.coordinate(rank, axis)]
                expected = expected.along(sharding.dim, *block)
        if expected != box and not (expected.is_empty and box.is_empty):
            return None
    return found


def _along(
    held: list[IndexSpace], space: IndexSpace, mesh: Mesh, axis: str, size: int
) -> Sharding | None:
    """What the ranks along one axis have of the dimension in which they differ, if it is one."""
    first = {mesh.coordinate(rank, axis): held[rank] for rank in reversed(range(mesh.num_ranks))}
    boxes = [first[at] for at in range(size)]
    filled = [box for box in boxes if not box.is_empty]
    if len(filled) == len(boxes) and all(box == boxes[0] for box in boxes):
        return Replicated()
    for d in range(len(space.lo)):
        blocks, end = [], space.lo[d]
        for box in boxes:
            block = (end, end) if box.is_empty else (box.lo[d], box.hi[d])
            if block[0] != end:
                break
            blocks.append(block)
            end = block[1]
        if len(blocks) == size and end == space.hi[d]:
            return Sharded(d, tuple(blocks))
    return None


def _describe_partial(
    state: FieldState, space: IndexSpace, mesh: Mesh
) -> dict[str, Sharding] | None:
    inside = [piece for piece in state if piece.space.overlaps(space)]
    if len(inside) > 1 or inside[0].valid:
        return None
    (piece,) = inside
    for axis, _ in mesh.axes:
        if set(piece.groups) == set(mesh.groups({axis})):
            op = piece.op or ""
            return {name: Partial(op) if name == axis else Replicated() for name, _ in mesh.axes}
    return None
