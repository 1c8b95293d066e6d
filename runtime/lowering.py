"""Lowering: what each rank does for a launch - transfers first, then its parts of the task.

Pure: from a binding, the mapper's answer and the state of the fields it uses to operations and the
state behind them. The same launch in the same state is lowered the same way, so the runtime looks
the answer up (:class:`specinfer.runtime.distributor.Distributor`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from specinfer.runtime.binding import Binding, Point, Units, narrowed
from specinfer.runtime.errors import ConfigError, MapperError
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.mapper import Divided, Everywhere, Mapper, On, written_whole
from specinfer.runtime.mesh import Mesh
from specinfer.runtime.placement import (
    Contribution,
    FieldState,
    Ranks,
    Transfer,
    Want,
    members,
    read,
    reduce,
    write,
    write_parts,
)
from specinfer.runtime.region import FieldKey
from specinfer.runtime.sharding import describe, share

SUM = "+"


@dataclass(frozen=True, slots=True)
class Part:
    """What some ranks do of a launch: the same work, each for itself.

    Attributes:
        point: of the launch.
        ranks: who does it.
        spaces: the points of each region argument.
        partial: the arguments that are written or reduced to in a rank's own part of a reduction.
    """

    point: Point
    ranks: Ranks
    spaces: Mapping[str, IndexSpace]
    partial: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Lowered:
    """A launch as the ranks carry it out.

    Attributes:
        transfers: in order, before any part runs.
        parts: in order of points.
        after: state of each of the binding's keys.
    """

    transfers: tuple[Transfer, ...]
    parts: tuple[Part, ...]
    after: tuple[FieldState, ...]


@dataclass(slots=True)
class _Effects:
    """What the parts of a launch do to one field."""

    wants: list[Want] = field(default_factory=list)
    writes: list[tuple[Ranks, IndexSpace]] = field(default_factory=list)
    sums: list[Contribution] = field(default_factory=list)
    reductions: dict[str, list[Contribution]] = field(default_factory=dict)


def lower(
    binding: Binding, mapper: Mapper, states: Sequence[FieldState], *, keeps: bool = False
) -> Lowered:
    """Place a launch, and work out what must move for it.

    Args:
        binding: the launch.
        mapper: says where.
        states: of its keys, in order.
        keeps: whether it might not run after all (a predicate): what it would discard is needed.

    Raises:
        MapperError: an answer that this launch cannot follow.
    """
    by_key = dict(zip(binding.keys, states, strict=True))
    groups: tuple[Ranks, ...] = ()
    if binding.is_index:
        parts = _sharded(binding, mapper)
    else:
        parts, groups = _placed(binding, mapper, by_key, keeps=keeps)
    parts = [_in_place(binding, part, by_key, len(parts)) for part in parts]
    effects = {key: _Effects() for key in binding.keys}
    for part in parts:
        _collect(binding, part, groups, effects, keeps=keeps)
    transfers: list[Transfer] = []
    after = []
    for key, state in by_key.items():
        effect = effects[key]
        moved, state = read(key, state, effect.wants)
        transfers += moved
        for op, contributions in effect.reductions.items():
            moved, state = reduce(key, state, op, contributions)
            transfers += moved
        for ranks, space in effect.writes:
            state = write(state, ranks, space)
        for contribution in effect.sums:
            state = write_parts(state, SUM, contribution)
        after.append(state)
    return Lowered(tuple(transfers), tuple(parts), tuple(after))


def _sharded(binding: Binding, mapper: Mapper) -> list[Part]:
    parts = []
    count = len(binding.points)
    for number, point in enumerate(binding.points):
        assert point.colour is not None
        rank = mapper.shard(binding, point.colour, number, count)
        if rank is None:
            _check_pure(binding)
            ranks = mapper.mesh.everyone
        else:
            ranks = _one(binding, rank, mapper.mesh)
        parts.append(Part(point, ranks, {n: p.space for n, p in point.parts.items()}))
    alone = [part.ranks.bit_count() == 1 for part in parts]
    if mapper.mesh.num_ranks > 1 and any(alone) and not all(alone):
        raise MapperError(f"{binding}: a mapper put some points on one rank and others on all")
    everyone = {1 << rank for rank in range(mapper.mesh.num_ranks)}
    if binding.task.is_collective and (
        len(parts) > len(everyone) or {part.ranks for part in parts} != everyone
    ):
        raise MapperError(
            f"{binding}: its points must run at the same time, expected one on each of the "
            f"{mapper.mesh.num_ranks} ranks, but there are {len(parts)} on ranks "
            f"{[rank for part in parts for rank in members(part.ranks)]}"
        )
    return parts


def _placed(
    binding: Binding, mapper: Mapper, states: Mapping[FieldKey, FieldState], *, keeps: bool
) -> tuple[list[Part], tuple[Ranks, ...]]:
    """The parts of a single launch, and the groups whose sums are whole if it is a sum."""
    (point,) = binding.points
    mesh = mapper.mesh
    if binding.task.is_collective and mesh.num_ranks > 1:
        raise MapperError(
            f"{binding}: a single launch of a collective task, expected an index launch with a "
            f"point for each of the {mesh.num_ranks} ranks"
        )
    shardings = {
        name: describe(states[part.keys[0]], part.space, mesh) for name, part in point.parts.items()
    }
    where = mapper.place(binding, shardings)
    spaces = {name: part.space for name, part in point.parts.items()}
    match where:
        case Everywhere():
            _check_pure(binding)
            return [Part(point, mesh.everyone, spaces)], ()
        case On(rank):
            return [Part(point, _one(binding, rank, mesh), spaces)], ()
        case Divided():
            parts, groups = _divided(binding, point, mesh, where)
            if groups and keeps:  # parts of a sum that might never be made
                return [Part(point, mesh.everyone, spaces)], ()
            return parts, groups
    raise MapperError(f"{binding}: a mapper answered {where!r}, expected a place")


def _divided(
    binding: Binding, point: Point, mesh: Mesh, where: Divided
) -> tuple[list[Part], tuple[Ranks, ...]]:
    _check_pure(binding)
    task = binding.task
    if task.returns:
        raise MapperError(
            f"{binding}: a mapper divided it, but its parts would each return a value, expected a "
            "task that returns None"
        )
    units: dict[str, tuple[Units, tuple[tuple[int, int], ...]]] = {}
    used: dict[str, str] = {}
    for mesh_axis, (axis, blocks) in where.axes.items():
        if axis in used:
            raise MapperError(
                f"{binding}: a mapper divided axis {axis} along both {used[axis]} and {mesh_axis}, "
                "expected one axis of the mesh for each axis of the task"
            )
        used[axis] = mesh_axis
        size, unit = _size(binding, mesh, mesh_axis), binding.units(axis)
        if whole := written_whole(task, axis):
            raise MapperError(
                f"{binding}: a mapper divided it along {axis}, but every part would write all of "
                f"{whole[0]}, expected an axis that each written argument has, or is a sum over"
            )
        blocks = share(unit.count, size) if blocks is None else blocks
        ends = [0, *(high for _, high in blocks)]
        if (
            len(blocks) != size
            or ends[-1] != unit.count
            or any(low != end or high < low for (low, high), end in zip(blocks, ends, strict=False))
        ):
            raise MapperError(
                f"{binding}: blocks {blocks} of axis {axis}, expected {size} that make up "
                f"{unit.count}"
            )
        units[mesh_axis] = unit, blocks
    by_spaces: dict[tuple[IndexSpace, ...], Ranks] = {}
    for rank in range(mesh.num_ranks):
        chosen = [(u, blocks[mesh.coordinate(rank, a)]) for a, (u, blocks) in units.items()]
        if any(low == high for _, (low, high) in chosen):
            continue  # nothing to do for this rank
        spaces = []
        for name, part in point.parts.items():
            space = part.space
            for unit, block in chosen:
                space = narrowed(space, unit, name, block)
            spaces.append(space)
        by_spaces[tuple(spaces)] = by_spaces.get(tuple(spaces), 0) | 1 << rank
    if not by_spaces:  # nothing to divide, but there may be zeros to write
        return [Part(point, mesh.everyone, {n: p.space for n, p in point.parts.items()})], ()
    summed = [a for a, (axis, _) in where.axes.items() if axis in task.division.sums]
    groups = mesh.groups(summed) if summed else ()
    written = frozenset(n for n, p in task.privileges.items() if not p.reads and p.op is None)
    if summed and any(p.reads and p.writes for p in task.privileges.values()):
        raise MapperError(f"{binding}: cannot sum over {summed}: it reads what it writes")
    return [
        Part(
            point,
            ranks,
            dict(zip(point.parts, spaces, strict=True)),
            written if summed else frozenset(),
        )
        for spaces, ranks in by_spaces.items()
    ], groups


def _in_place(
    binding: Binding, part: Part, states: Mapping[FieldKey, FieldState], num_parts: int
) -> Part:
    """Reduces apart, unless all who run this hold for themselves everything that it reduces to.

    All or nothing: two arguments may reduce to the same points.
    """
    reduced = [name for name, privilege in binding.task.privileges.items() if privilege.op]
    for name in reduced:
        space = part.spaces[name]
        pieces = [
            piece
            for key in part.point.parts[name].keys
            for piece in states[key]
            if piece.space.overlaps(space)
        ]
        held = all(not p.groups and p.valid & part.ranks == part.ranks for p in pieces)
        if num_parts > 1 or part.partial or not held:
            return Part(part.point, part.ranks, part.spaces, part.partial.union(reduced))
    return part


def _collect(
    binding: Binding,
    part: Part,
    groups: tuple[Ranks, ...],
    effects: Mapping[FieldKey, _Effects],
    *,
    keeps: bool,
) -> None:
    alone = tuple(1 << rank for rank in members(part.ranks))
    for name, privilege in binding.task.privileges.items():
        space = part.spaces[name]
        if space.is_empty:
            continue
        own = tuple(g & part.ranks for g in groups if g & part.ranks) if groups else alone
        for key in part.point.parts[name].keys:
            effect = effects[key]
            is_partial = name in part.partial
            if privilege.reads or (not is_partial and (privilege.op or keeps)):
                effect.wants += (Want(rank, space) for rank in members(part.ranks))
            if privilege.op and is_partial:
                effect.reductions.setdefault(privilege.op, []).append(Contribution(space, own))
            elif is_partial:
                _add_sum(effect.sums, Contribution(space, own))
            elif privilege.writes or privilege.op:
                effect.writes.append((part.ranks, space))


def _add_sum(sums: list[Contribution], new: Contribution) -> None:
    """Parts of one sum, by different ranks, are one contribution."""
    for i, known in enumerate(sums):
        if known.space == new.space:
            joined = tuple(a | b for a, b in zip(known.groups, new.groups, strict=True))
            sums[i] = Contribution(known.space, joined)
            return
    sums.append(new)


def _check_pure(binding: Binding) -> None:
    if not binding.task.is_pure:
        raise MapperError(
            f"{binding}: a mapper put it on several ranks, but the task is not declared pure"
        )


def _size(binding: Binding, mesh: Mesh, axis: str) -> int:
    try:
        return mesh.size(axis)
    except ConfigError as error:
        raise MapperError(f"{binding}: {error}") from None


def _one(binding: Binding, rank: object, mesh: Mesh) -> Ranks:
    if not isinstance(rank, int) or isinstance(rank, bool) or not 0 <= rank < mesh.num_ranks:
        raise MapperError(
            f"{binding}: a mapper put it on rank {rank!r}, expected 0 to {mesh.num_ranks - 1}"
        )
    return 1 << rank
