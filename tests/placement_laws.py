"""Placement, judged cell by cell: every rank's memory and reductions as plain dictionaries.

What a machine makes of the transfers is compared with what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce as fold
from itertools import product

from running import CounterExample
from strategies import Pick

from specinfer.runtime import placement
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.machine import Machine
from specinfer.runtime.machine.sim import SimulatedRanks
from specinfer.runtime.placement import (
    Contribution,
    Copy,
    FieldState,
    Fold,
    Piece,
    Reset,
    Transfer,
    Want,
    members,
)
from specinfer.runtime.region import Region

Cell = tuple[int, ...]
OPS: dict[str, tuple[Callable[[int, int], int], int]] = {
    "+": (lambda a, b: a + b, 0),
    "max": (max, -(2**63)),
    "min": (min, 2**63 - 1),
}


def check_placement(
    pick: Pick, machine: Machine | None = None, *, number: int = 0, max_steps: int = 8
) -> None:
    """Play reads, writes and reductions by ranks, and look at every cell after each.

    Args:
        pick: what they do.
        machine: carries it out; by default one of simulated ranks.
        number: of the region, new to the machine.
        max_steps: of the sequence.

    Raises:
        CounterExample: a rank that should hold a value does not; or data move in vain.
    """
    shape = ((4,), (3, 3))[pick(0, 1)]
    machine = machine or SimulatedRanks(pick(1, 4))
    world = _World(pick, Region(number, "r", shape, {"a": "int64"}), machine)
    for _ in range(pick(1, max_steps)):
        match pick(0, 4):
            case 0 | 1:
                world.read()
            case 2:
                world.write()
            case 3:
                world.reduce()
            case _:
                world.write_parts()
        world.check()
    world.read_everywhere()


class _World:
    def __init__(self, pick: Pick, region: Region, machine: Machine) -> None:
        self.pick = pick
        self.machine = machine
        machine.add_region(region)
        self.key = (region.id, "a")
        self.space = space = region.space
        self.num_ranks = num_ranks = machine.num_ranks
        self.everyone = (1 << num_ranks) - 1
        self.state: FieldState = (Piece(space, self.everyone),)
        self.values = 100
        self.true = {cell: n for n, cell in enumerate(_cells(space))}
        self.main = [dict(self.true) for _ in range(num_ranks)]
        self.partial = [dict.fromkeys(self.true, 77) for _ in range(num_ranks)]
        self.story: list[str] = [f"{num_ranks} ranks, {space}"]
        self.store()

    # What ranks do

    def read(self) -> None:
        wants = [Want(self.pick(0, self.num_ranks - 1), self.box()) for _ in range(self.pick(1, 4))]
        if self.pick(0, 3) == 3:  # a block for every rank, as reduce-scatter gives them
            wants = self.blocks()
        self.read_these(wants)

    def read_everywhere(self) -> None:
        self.read_these([Want(rank, self.space) for rank in range(self.num_ranks)])

    def read_these(self, wants: Sequence[Want]) -> None:
        self.story.append(f"read {wants}")
        held = all(self.holds(want) for want in wants)
        transfers, self.state = placement.read(self.key, self.state, wants)
        self.expect(not (held and transfers), f"{transfers} although all is there")
        self.carry_out(transfers)
        for want in wants:
            for cell in _cells(want.space):
                found = self.main[want.rank][cell]
                self.expect(
                    found == self.true[cell],
                    f"rank {want.rank} reads {found} at {cell}, expected {self.true[cell]}",
                )
        again, _ = placement.read(self.key, self.state, wants)
        self.expect(not again, f"a second read moves {again}")

    def holds(self, want: Want) -> bool:
        return all(
            piece.valid >> want.rank & 1 and not piece.groups
            for piece in self.state
            if piece.space.overlaps(want.space)
        )

    def write(self) -> None:
        ranks, space = self.pick(1, self.everyone), self.box()
        self.story.append(f"ranks {members(ranks)} write {space}")
        self.state = placement.write(self.state, ranks, space)
        for cell in _cells(space):
            self.true[cell] = value = self.value()
            for rank in members(ranks):
                self.main[rank][cell] = value

    def write_parts(self) -> None:
        grid = self.grid()
        contribution = Contribution(self.box(), self.groups(grid))
        self.story.append(f"parts of {contribution} are written")
        self.state = placement.write_parts(self.state, "+", contribution)
        for cell in _cells(contribution.space):
            self.true[cell] = value = self.value()
            for ranks in contribution.groups:
                for rank, part in zip(
                    members(ranks), self.split("+", value, ranks.bit_count()), strict=True
                ):
                    self.partial[rank][cell] = part

    def reduce(self) -> None:
        op = list(OPS)[self.pick(0, 2)]
        operator = OPS[op][0]
        grid = self.grid()
        contributions = [
            Contribution(self.box(), self.groups(grid)) for _ in range(self.pick(1, 3))
        ]
        self.story.append(f"{contributions} are reduced with {op}")
        transfers, self.state = placement.reduce(self.key, self.state, op, contributions)
        self.carry_out(transfers)
        for contribution in contributions:
            for cell in _cells(contribution.space):
                value = self.value()
                self.true[cell] = operator(self.true[cell], value)
                for ranks in contribution.groups:
                    parts = self.split(op, value, ranks.bit_count())
                    for rank, part in zip(members(ranks), parts, strict=True):
                        self.partial[rank][cell] = operator(self.partial[rank][cell], part)

    # What they choose

    def box(self) -> IndexSpace:
        if self.pick(0, 2) == 0:
            return self.space
        bounds = [
            sorted((self.pick(low, high), self.pick(low, high)))
            for low, high in zip(self.space.lo, self.space.hi, strict=True)
        ]
        return IndexSpace(tuple(low for low, _ in bounds), tuple(high for _, high in bounds))

    def blocks(self) -> list[Want]:
        cuts = sorted(self.pick(0, self.space.hi[0]) for _ in range(self.num_ranks))
        if self.pick(0, 1):
            cuts[-1] = self.space.hi[0]
        ends = zip([0, *cuts], cuts, strict=False)
        return [Want(rank, self.space.along(0, *end)) for rank, end in enumerate(ends)]

    def grid(self) -> list[list[int]]:
        """Ranks in rows: those of a row do different work, the rows all the same."""
        rows = [n for n in range(1, self.num_ranks + 1) if self.num_ranks % n == 0]
        count = rows[self.pick(0, len(rows) - 1)]
        ranks = list(range(self.num_ranks))
        if self.pick(0, 1):
            return [ranks[row::count] for row in range(count)]
        size = self.num_ranks // count
        return [ranks[row * size : (row + 1) * size] for row in range(count)]

    def groups(self, grid: list[list[int]]) -> tuple[int, ...]:
        """In each row the same places: who together has the whole of a contribution."""
        places = self.pick(1, (1 << len(grid[0])) - 1)
        return tuple(sum(1 << row[place] for place in members(places)) for row in grid)

    def value(self) -> int:
        self.values += 1
        return self.pick(-40, 40) * 1000 + self.values

    def split(self, op: str, value: int, count: int) -> list[int]:
        """Parts whose reduction is the value."""
        if op == "+":
            parts = [self.pick(-9, 9) for _ in range(count - 1)]
            return [*parts, value - sum(parts)]
        step = -1 if op == "max" else 1
        return [value + step * self.pick(0, 9) for _ in range(count - 1)] + [value]

    # What the transfers mean

    def store(self) -> None:
        """Give the machine's memory the values that ranks should have."""
        for rank in self.machine.ranks:
            instances = self.machine.instances(rank)
            for cell in self.true:
                instances.main(self.key)[cell] = self.main[rank][cell]
                instances.partial(self.key)[cell] = self.partial[rank][cell]

    def carry_out(self, transfers: Sequence[Transfer]) -> None:
        if transfers:
            self.store()
        for transfer in transfers:
            self.story.append(f"  {transfer}")
            operation = self.machine.transfer(transfer, as_messages=bool(self.pick(0, 1)))
            if operation is not None:
                operation.run()
            match transfer:
                case Copy():
                    self.copy(transfer)
                case Fold():
                    self.fold(transfer)
                case Reset(_, rank, space, op):
                    for cell in _cells(space):
                        self.partial[rank][cell] = OPS[op][1]

        for rank in self.machine.ranks if transfers else ():
            instances = self.machine.instances(rank)
            for cell in self.true:
                found = instances.main(self.key)[cell], instances.partial(self.key)[cell]
                meant = self.main[rank][cell], self.partial[rank][cell]
                self.expect(found == meant, f"rank {rank} has {found} at {cell}, not {meant}")

    def copy(self, copy: Copy) -> None:
        before = [dict(memory) for memory in self.main]  # messages are packed before any arrives
        for move in copy.moves:
            for cell in _cells(move.space):
                self.main[move.target][cell] = before[move.source][cell]
        blocks = copy.blocks()
        if blocks is not None:  # what a collective does must be the same
            meant = {
                (source, target, space)
                for source, space in blocks.items()
                for target in members(copy.ranks)
                if target != source
            }
            moves = {(move.source, move.target, move.space) for move in copy.moves}
            self.expect(meant == moves, f"{copy} is no collective of {blocks}")

    def fold(self, transfer: Fold) -> None:
        operator = OPS[transfer.op][0]
        for ranks, base in zip(transfer.groups, transfer.bases, strict=True):
            total = {
                cell: fold(operator, (self.partial[rank][cell] for rank in members(ranks)))
                for cell in _cells(transfer.space)
            }
            if base is not None:
                total = {cell: operator(at, self.main[base][cell]) for cell, at in total.items()}
            for rank, space in transfer.results():
                if ranks >> rank & 1:
                    self.main[rank].update((cell, total[cell]) for cell in _cells(space))

    # What must be so

    def check(self) -> None:
        covered = [cell for piece in self.state for cell in _cells(piece.space)]
        self.expect(sorted(covered) == sorted(self.true), f"pieces of {covered}")
        for piece in self.state:
            holders = members(piece.valid)
            for cell in _cells(piece.space):
                if not piece.groups:
                    for rank in holders:
                        self.expect(
                            self.main[rank][cell] == self.true[cell],
                            f"rank {rank} should hold {self.true[cell]} at {cell}",
                        )
                    continue
                assert piece.op is not None
                operator = OPS[piece.op][0]
                for ranks in piece.groups:
                    parts = [self.partial[rank][cell] for rank in members(ranks)]
                    for base in [[self.main[rank][cell]] for rank in holders] or [[]]:
                        self.expect(
                            fold(operator, parts + base) == self.true[cell],
                            f"ranks {members(ranks)} should have {self.true[cell]} at {cell}, "
                            f"have {parts} and {base}",
                        )

    def expect(self, is_so: bool, complaint: str) -> None:
        if not is_so:
            raise CounterExample("\n".join([complaint, *self.story]))


def _cells(space: IndexSpace) -> list[Cell]:
    return list(product(*map(range, space.lo, space.hi)))
