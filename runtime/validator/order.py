"""Happens-before: two operations that conflict on a memory must not be free to swap.

What orders two operations of a process is that one waits for the other; that the host knew that one
had ended when it issued the other; and the program's order, if the executor keeps it. That two ran
on one thread orders nothing: another time they may not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import ge

from specinfer.runtime.validator.findings import Finding
from specinfer.runtime.validator.logs import Access, Log, Op, Place, bits, overlap, shown


def check_order(log: Log) -> list[Finding]:
    """Conflicts without an order, and operations that did not keep theirs."""
    if log.is_in_order:
        return _out_of_order(log)
    return [*_too_early(log), *_races(log)]


def _out_of_order(log: Log) -> list[Finding]:
    found = []
    last: Op | None = None
    for _, op in sorted(log.ops.items()):
        if op.start is None:
            continue
        if last is not None and (last.stop is None or op.start < last.stop):
            found.append(
                Finding("order", f"{log.describe(op)} began before {log.describe(last)} had ended")
            )
        last = op
    return found


def _too_early(log: Log) -> list[Finding]:
    found = []
    for op in log.ops.values():
        for id in op.waits_for:
            earlier = log.ops[id]
            if op.start is None or (earlier.done and earlier.start is None):
                continue
            if earlier.stop is None or earlier.stop > op.start:
                found.append(
                    Finding(
                        "order",
                        f"{log.describe(op)} began before {log.describe(earlier)} had ended, "
                        "for which it waits",
                    )
                )
    return found


def _races(log: Log) -> list[Finding]:
    found = []
    before: dict[int, int] = {}  # for each operation, the bits of those that come before it
    host = seen = 0  # what the host knew to have ended, with all that came before that
    users: dict[Place, int] = {}
    uses: dict[tuple[Place, int], list[Access]] = {}
    for id, op in sorted(log.ops.items()):
        for known in bits(op.known & ~seen):
            host |= before.get(known, 0) | 1 << known
        seen = op.known
        ordered = host
        for earlier in op.waits_for:
            ordered |= before.get(earlier, 0) | 1 << earlier
        before[id] = ordered
        memory = op.work.accesses(log.ranks)
        accesses = (*memory, *op.futures, *_shared(log, memory))
        for access in accesses:
            for other in bits(users.get(access.place, 0) & ~ordered & ~(1 << id)):
                for known_access in uses[access.place, other]:
                    if text := _conflict(log, known_access, access):
                        found.append(
                            Finding(
                                "race",
                                f"{log.describe(op)} does not wait for "
                                f"{log.describe(log.ops[other])}: {text}",
                            )
                        )
                        break
        for access in accesses:
            users[access.place] = users.get(access.place, 0) | 1 << id
            uses.setdefault((access.place, id), []).append(access)
    return found


def _shared(log: Log, accesses: Sequence[Access]) -> Iterator[Access]:
    """What accesses do to bytes that their regions share with others."""
    for access in accesses:
        region, _, rank, memory = access.place
        lo, hi = access.box
        if region not in log.storage or memory != "main" or any(map(ge, lo, hi)):
            continue
        arena, offset, itemsize = log.storage[region]
        first = last = 0  # elements of the region, row by row
        for extent, low, high in zip(log.regions[region][1], lo, hi, strict=True):
            first, last = first * extent + low, last * extent + high - 1
        box = (offset + first * itemsize,), (offset + (last + 1) * itemsize,)
        # The region takes the place of an argument: its own points are looked at apart.
        yield Access(("arena", arena, rank), box, access.may, str(region))


def _conflict(log: Log, one: Access, other: Access) -> str | None:
    """What two accesses of one memory would do to each other."""
    if one.may == other.may and (one.may == "R" or one.op is not None):
        return None
    common = overlap(one.box, other.box)
    if common is None:
        return None
    if one.place[0] == "future":
        return f"they use the future of launch {one.place[1]} ({one.may}, then {other.may})"
    if one.place[0] == "arena":
        if one.argument == other.argument:
            return None
        names = [log.regions[int(use.argument)][0] for use in (one, other)]
        return (
            f"{' and '.join(names)} share bytes {shown(common)} of arena "
            f"{one.place[1]} on rank {one.place[2]}, {one.may}, then {other.may}"
        )
    _, _, rank, memory = one.place
    part = " (its part of a reduction)" if memory == "partial" else ""
    return (
        f"both use {log.field(one.key)}{shown(common)} on rank {rank}{part}, "
        f"{one.may}, then {other.may}"
    )
