"""Distribution: from launches to the operations of this process, remembered.

On one rank a launch is a call for each of its points. On several, the state of the fields it uses
decides what moves and who does what (:mod:`specinfer.runtime.lowering`); the answer for the same
launch in the same state is looked up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from specinfer.runtime.agreement import Agreement
from specinfer.runtime.answer import Answer, Delivery
from specinfer.runtime.arrays import bits
from specinfer.runtime.binding import Binding, storage_requirements
from specinfer.runtime.call import Executable, make_executable
from specinfer.runtime.dependence import Requirement
from specinfer.runtime.errors import MapperError
from specinfer.runtime.executor import Operation
from specinfer.runtime.lowering import Lowered, Part, lower
from specinfer.runtime.machine import Machine, physical_key
from specinfer.runtime.mapper import Mapper
from specinfer.runtime.partition import Colour
from specinfer.runtime.placement import (
    Copy,
    FieldState,
    Fold,
    Piece,
    Ranks,
    Reset,
    Transfer,
    Want,
    members,
    read,
)
from specinfer.runtime.region import FieldKey, Region, Subregion

REMEMBERED = 32768
"""Lowered launches that are kept, and states of fields: those used last."""


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """What this process does of a launch.

    Attributes:
        transfers: operations, in order, before any executable.
        executables: for each point and rank of this process.
        after: state of each of the binding's keys; nothing on one rank.
        lowered: what all ranks do; None on one rank.
        before: the states that this is for: kept, so that they are not mistaken for others.
        answer: the mapper's; None on one rank.
        fingerprint: of the answer, to compare it with other ranks'.
    """

    transfers: tuple[Operation, ...]
    executables: tuple[Executable, ...]
    after: tuple[FieldState, ...] = ()
    lowered: Lowered | None = None
    before: tuple[FieldState, ...] = ()
    answer: Answer | None = None
    fingerprint: bytes = b""

    def ranks_of(self, colour: Colour | None) -> Ranks:
        """Who runs a point."""
        if self.lowered is None:
            return 1
        ranks = 0
        for part in self.lowered.parts:
            if part.point.colour == colour:
                ranks |= part.ranks
        return ranks


@dataclass(frozen=True, slots=True)
class Replication:
    """What makes every rank hold some points.

    Attributes:
        answer: what moves, and how.
        after: states of their fields.
    """

    answer: Answer
    after: Mapping[FieldKey, FieldState]


class Distributor:
    """Turns launches into operations, and keeps where data are.

    Args:
        machine: ranks and memories.
        mapper: says where launches run.
        agreement: with other processes, which must hear the same answers; None if there are none.
    """

    def __init__(
        self, machine: Machine, mapper: Mapper, agreement: Agreement | None = None
    ) -> None:
        self._machine = machine
        self._mapper = mapper
        self._agreement = agreement
        self._everyone = (1 << machine.num_ranks) - 1
        self._states: dict[FieldKey, FieldState] = {}
        self._known: OrderedDict[tuple[object, ...], Share] = OrderedDict()
        self._known_states: OrderedDict[FieldState, FieldState] = OrderedDict()

    @property
    def states(self) -> Mapping[FieldKey, FieldState]:
        """Where the data of every field are; empty on one rank."""
        return self._states

    def add(self, region: Region) -> None:
        """Take in a region: zeros on every rank."""
        self._machine.add_region(region)
        for field in region.fields:
            self._start((region.id, field), region)

    def forget(self, key: FieldKey, region: Region) -> None:
        """The memory of a field was exchanged: every rank has the same new values."""
        self._start(key, region)
        self._known.clear()  # their views are stale

    def _start(self, key: FieldKey, region: Region) -> None:
        if self._machine.num_ranks > 1:
            self._states[key] = self._same((Piece(region.space, self._everyone),))

    def share(self, binding: Binding, *, keeps: bool = False) -> Share:
        """What this process does of a launch now; moves the states on.

        Raises:
            MapperError: an answer that the launch cannot follow.
            DivergenceError: mappers of other processes answered something else.
        """
        states = self._states
        before = tuple(states[key] for key in binding.keys) if states else ()
        known = (binding, keeps, self._mapper.epoch, *map(id, before))
        share = self._known.get(known)
        if share is not None:
            self._known.move_to_end(known)
            if self._agreement is not None:
                self._agreement.history.placed(share.answer, share.fingerprint)
        else:
            share = self._known[known] = self._make(binding, before, keeps=keeps)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        if states:
            for key, state in zip(binding.keys, share.after, strict=True):
                states[key] = state
        return share

    def replication(self, part: Subregion) -> Replication:
        """What would make every rank hold these points; nothing is done yet."""
        found: list[Transfer] = []
        after = {}
        for key in part.keys if self._states else ():
            wants = [Want(rank, part.space) for rank in members(self._everyone)]
            transfers, state = read(key, self._states[key], wants)
            after[key] = self._same(state)
            found += transfers
        return Replication(Answer((), self._deliveries(found)), after)

    def replicate(self, replication: Replication) -> list[Operation]:
        """The operations that do it; moves the states on."""
        self._states.update(replication.after)
        return self._operations(replication.answer)

    def requirements_here(self, requirements: Sequence[Requirement]) -> list[Requirement]:
        """What uses of a region's points mean for the memories of this process."""
        if not self._states:
            return list(requirements)
        return [
            Requirement(physical_key(r.key, rank), r.space, r.privilege)  # type: ignore[arg-type]
            for r in requirements
            for rank in self._machine.ranks
        ]

    def install(self, states: Mapping[FieldKey, FieldState]) -> None:
        """Take over the states behind a trace."""
        self._states.update(states)

    def _same(self, state: FieldState) -> FieldState:
        """One object for equal states, so that they are compared by identity.

        A state that was forgotten while it is still used is only taken for another one: what is
        remembered for it is found out anew.
        """
        known = self._known_states.setdefault(state, state)
        self._known_states.move_to_end(known)
        if len(self._known_states) > REMEMBERED:
            self._known_states.popitem(last=False)
        return known

    def _make(self, binding: Binding, before: tuple[FieldState, ...], *, keeps: bool) -> Share:
        processors = self._mapper.processors(binding)
        if not before:
            instances = self._machine.instances(0)
            executables = tuple(
                make_executable(
                    binding,
                    point.colour,
                    {name: part.space for name, part in point.parts.items()},
                    frozenset(),
                    instances,
                    processors,
                    point.requirements,
                )
                for point in binding.points
            )
            return Share((), executables)
        lowered = lower(binding, self._mapper, before, keeps=keeps)
        again = lower(binding, self._mapper, before, keeps=keeps)
        if again != lowered:
            raise MapperError(f"{binding}: the mapper gave two answers to the same question")
        answer = Answer(lowered.parts, self._deliveries(lowered.transfers))
        fingerprint = b""
        if self._agreement is not None:
            fingerprint = answer.fingerprint()
            self._agreement.history.placed(answer, fingerprint)
            self._agreement.compare()
        executables = tuple(
            make_executable(
                binding,
                part.point.colour,
                part.spaces,
                part.partial,
                self._machine.instances(rank),
                processors,
                _physical(binding, part, rank),
            )
            for part in lowered.parts
            for rank in members(part.ranks)
            if rank in self._machine.ranks
        )
        after = tuple(map(self._same, lowered.after))
        return Share(
            tuple(self._operations(answer)),
            executables,
            after,
            lowered,
            before,
            answer,
            fingerprint,
        )

    def _deliveries(self, transfers: Sequence[Transfer]) -> tuple[Delivery, ...]:
        found = []
        for transfer in transfers:
            num_bytes = self._num_bytes(transfer)
            as_messages = bool(self._mapper.as_messages(transfer.kind, num_bytes))
            found.append(Delivery(transfer, num_bytes, as_messages))
        return tuple(found)

    def _operations(self, answer: Answer) -> list[Operation]:
        operations = (
            self._machine.transfer(delivery.transfer, as_messages=delivery.as_messages)
            for delivery in answer.deliveries
        )
        return [operation for operation in operations if operation is not None]

    def _num_bytes(self, transfer: Transfer) -> int:
        """Bytes that move, to all ranks together; as in this process' memory."""
        match transfer:
            case Reset():
                return 0
            case Fold():
                volume = sum(space.volume for _, space in transfer.results())
            case Copy():
                volume = sum(move.space.volume for move in transfer.moves)
        array = bits(self._machine.instances(self._machine.ranks[0]).main(transfer.key))
        return volume * int(array.itemsize)


def _physical(binding: Binding, part: Part, rank: int) -> tuple[Requirement, ...]:
    """What a part does to the memory of a rank."""
    found = []
    for name, privilege in binding.task.privileges.items():
        is_partial = name in part.partial
        found += [
            Requirement(
                physical_key(key, rank, is_partial=is_partial),
                part.spaces[name],
                privilege,
            )
            for key in part.point.parts[name].keys
        ]
    found += (
        replace(r, key=physical_key(r.key, rank))  # type: ignore[arg-type]
        for name, r in storage_requirements(binding.task, part.point.parts, part.spaces)
        if name not in part.partial
    )
    return tuple(found)
