"""Data flow: every read must have seen the version that the program means.

First the launches are gone through in program order, each at once and on one memory: that gives the
version of every cell before and after each of them. Then what was done is gone through in the order
in which it was done, on the memory of every rank: versions move with copies and grow with
reductions. Wherever something is read, folded or copied, the one is compared with the other; what
is wrong is told once, and taken for right from then on.

A reduction must hold what every point contributed exactly once, also where several ranks did parts
of a point, or the same for themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from specinfer.runtime.validator.findings import Finding
from specinfer.runtime.validator.grid import Cells, Grid, Mask
from specinfer.runtime.validator.logs import (
    Access,
    Box,
    Event,
    Fold,
    Key,
    Log,
    Move,
    Op,
    Place,
    Point,
    Reset,
    Use,
    shown,
)
from specinfer.runtime.validator.merge import Step
from specinfer.runtime.validator.versions import GARBAGE, NOTHING, Versions

_Tasks = dict[tuple[int, Point], list[Op]]


def check_flow(logs: Sequence[Log], steps: Sequence[Step]) -> list[Finding]:
    """What was read, copied or folded, and was not what the program means."""
    return _Flow(logs).findings(steps)


class _Flow:
    def __init__(self, logs: Sequence[Log]) -> None:
        self.log = logs[0]
        self.events: list[Event] = max((log.events for log in logs), key=len)
        self.ranks = [rank for log in logs for rank in log.ranks]
        self.versions = Versions()
        self.found: list[Finding] = []
        self.regions = {id: r for log in logs for id, r in log.regions.items()}
        self.grids = self._grids(logs)
        self.tasks: _Tasks = defaultdict(list)
        self.done_for: dict[int, list[Op]] = defaultdict(list)
        for log in logs:
            for _, op in sorted(log.ops.items()):
                self.done_for[op.event].append(op)
                if op.work.kind == "task":
                    self.tasks[op.event, op.work.at].append(op)
        self.meant: dict[Key, Cells] = {}
        self.expected: dict[tuple[int, Box, Key], Cells] = {}
        self.memory: dict[Place, Cells] = {}

    def findings(self, steps: Sequence[Step]) -> list[Finding]:
        for number, event in enumerate([None, *self.events], start=-1):
            self._mean(number, event)
        for step in steps:
            if isinstance(step.what, Event):
                self._exchange(step.what, step.ranks)
            else:
                self._do(step.log, step.what)
        self._pending()
        return self.found

    # Cells

    def _grids(self, logs: Sequence[Log]) -> dict[int, Grid]:
        boxes: dict[int, set[Box]] = defaultdict(set)
        for log in logs:
            for binding in log.bindings.values():
                for _, uses in binding.points:
                    for use in uses:
                        boxes[use.key[0]].add(use.box)
            for work in {id(op.work): op.work for op in log.ops.values()}.values():
                for access in work.accesses(self.ranks):
                    boxes[access.place[0]].add(access.box)
        # A region that only a read names has no shape in the log: all that is read is enough.
        return {
            id: Grid(self.regions[id][1] if id in self.regions else _around(found), found)
            for id, found in boxes.items()
        }

    def _cells(self, key: Key, value: int) -> Cells:
        return np.full(self.grids[key[0]].shape, value, np.int64)

    def _initial(self, key: Key) -> int:
        return self.versions.written(("initial", key), "the data that it began with")

    def _meant(self, key: Key) -> Cells:
        if key not in self.meant:
            self.meant[key] = self._cells(key, self._initial(key))
        return self.meant[key]

    def _memory(self, place: Place) -> Cells:
        if place not in self.memory:
            initial = self._initial((place[0], place[1])) if place[3] == "main" else GARBAGE
            self.memory[place] = self._cells((place[0], place[1]), initial)
        return self.memory[place]

    def _inside(self, cells: Cells, key: Key, box: Box) -> Cells:
        return cells[self.grids[key[0]].slices(box)]

    # What the program means

    def _mean(self, number: int, event: Event | None) -> None:
        """Take down what operations for this event should find, and what it makes."""
        for op in self.done_for[number]:
            accesses = op.work.accesses(self.ranks)
            for access in accesses:
                at = (number, access.box, access.key)
                if at not in self.expected:
                    here = self._inside(self._meant(access.key), access.key, access.box)
                    self.expected[at] = here.copy()
        if event is None:
            return
        if event.key is not None and event.key[0] in self.grids:
            self.meant[event.key] = self._cells(event.key, self._exchanged(event))
        if event.binding is None:
            return
        for point, uses in event.binding.points:
            ops = self.tasks.get((number, point), [])
            has_failed = any(op.has_failed for op in self.done_for[number])
            if not ops and not has_failed:
                self._tell("work", f"no rank did {_at(event, point)}")
            if not event.binding.is_pure:
                self._once(event, point, ops)
            for use in uses:
                self._effect(number, event, point, use, ops, has_failed=has_failed)

    def _exchanged(self, event: Event) -> int:
        return self.versions.written(("exchanged", event.index, event.key), str(event))

    def _effect(
        self,
        number: int,
        event: Event,
        point: Point,
        use: Use,
        ops: Sequence[Op],
        *,
        has_failed: bool,
    ) -> None:
        if any(low == high for low, high in zip(*use.box, strict=True)):
            return
        parts: dict[int, Access] = {}
        for op in ops:
            for access in _of(op, use):
                parts[self._contribution(number, op, access)] = access
        if ops and not has_failed:
            self._covered(event, point, use, [access.box for access in parts.values()])
        if use.may == "R":
            return
        meant = self._inside(self._meant(use.key), use.key, use.box)
        op_name = use.op
        if op_name is None:
            is_sum = any(access.place[3] == "partial" for access in parts.values())
            meant[...] = (
                self.versions.folded(NOTHING, "+", ())
                if is_sum
                else self._written(number, point, use.argument)
            )
            op_name = "+" if is_sum else None
        if has_failed or not ops:
            failed = self.versions.written(("failed", number, point, use.argument), str(event))
            self.versions.failed.add(failed)
            meant[...] = failed
        elif op_name is not None:
            for part, access in parts.items():
                self._fold_in(self._meant(use.key), use.key, access.box, op_name, [part])

    def _once(self, event: Event, point: Point, ops: Sequence[Op]) -> None:
        if len(ops) > 1:
            self._tell(
                "work",
                f"{_at(event, point)} ran on ranks {[op.work.rank for op in ops]}, "
                "but its task is not pure",
            )

    def _covered(self, event: Event, point: Point, use: Use, boxes: Sequence[Box]) -> None:
        """All points of an argument must be seen by some operation."""
        covered = self._cells(use.key, 0)
        for box in boxes:
            self._inside(covered, use.key, box)[...] = 1
        inside = self._inside(covered, use.key, use.box)
        if not inside.all():
            box = self._first(inside == 0, use.key, use.box)
            self._tell(
                "work",
                f"no rank did {_at(event, point)} for {self.log.field(use.key)}{shown(box)} "
                f"of {use.argument}",
            )

    def _written(self, number: int, point: Point, argument: str) -> int:
        text = f"{argument} of {_at(self.events[number], point)}"
        return self.versions.written((number, point, argument), text)

    def _contribution(self, number: int, op: Op, access: Access) -> int:
        """One point's contribution, or that of a part of it, whichever rank makes it."""
        boxes = tuple((a.argument, a.box) for a in op.work.uses)
        key = ("part", number, op.work.at, access.argument, boxes)
        whole = {use.box for _, use in self._uses(number, op.work.at, access)}
        where = "" if access.box in whole else f", part {shown(access.box)}"
        return self.versions.written(key, _at(self.events[number], op.work.at) + where)

    def _uses(self, number: int, point: Point, access: Access) -> Iterator[tuple[Point, Use]]:
        binding = self.events[number].binding
        for at, uses in binding.points if binding else ():
            if at == point:
                yield from ((at, use) for use in uses if use.argument == access.argument)

    def _fold_in(self, cells: Cells, key: Key, box: Box, op: str, parts: Sequence[int]) -> None:
        _change(self._inside(cells, key, box), lambda v: self.versions.folded(v, op, parts))

    # What was done

    def _do(self, log: Log, op: Op) -> None:
        if op.refused:
            return
        match op.work.what:
            case None:
                self._run(log, op)
            case Fold() as fold:
                self._fold(log, op, fold)
            case Reset(rank, box, name):
                key = _key(op)
                cells = self._memory((*key, rank, "partial"))
                self._inside(cells, key, box)[...] = self.versions.folded(NOTHING, name, ())
            case moves:
                self._copy(log, op, moves)

    def _run(self, log: Log, op: Op) -> None:
        event = self.events[op.event] if op.event >= 0 else None
        may_not_run = event is not None and event.is_predicated
        for access in op.work.uses:
            # Reductions may see each other half done, in any order.
            if access.may in ("R", "RW") or (may_not_run and access.may == "WD"):
                cells = self._inside(self._memory(access.place), access.key, access.box)
                self._compare(log, op, access, cells)
        for access in op.work.uses:
            cells = self._memory(access.place)
            inside = self._inside(cells, access.key, access.box)
            if access.may == "R":
                continue
            part = self._contribution(op.event, op, access)
            if access.op is not None:
                self._fold_in(cells, access.key, access.box, access.op, [part])
            elif access.place[3] == "partial":
                inside[...] = self.versions.folded(NOTHING, "+", [part])
            else:
                inside[...] = self._written(op.event, op.work.at, access.argument)

    def _compare(self, log: Log, op: Op, access: Access, cells: Cells) -> None:
        """What an operation reads with what it should; heals it."""
        expected = self._expected(op, access.key, access.box)
        wrong = (cells != expected) & ~self._has_failed(expected)
        if wrong.any():
            box = self._first(wrong, access.key, access.box)
            argument = f" as {access.argument}" if access.argument else ""
            difference = self.versions.difference(int(cells[wrong][0]), int(expected[wrong][0]))
            self._tell(
                "data",
                f"{log.describe(op)} reads {log.field(access.key)}{shown(box)} of rank "
                f"{access.place[2]}{argument}: {difference}",
            )
            cells[wrong] = expected[wrong]

    def _copy(self, log: Log, op: Op, moves: Sequence[Move]) -> None:
        key = _key(op)
        sent = [
            self._inside(self._memory((*key, move.source, "main")), key, move.box).copy()
            for move in moves
        ]
        for move, data in zip(moves, sent, strict=True):
            expected = self._expected(op, key, move.box)
            stale = self._stale(data, expected) & ~self._has_failed(expected)
            where = f"to rank {move.target}"
            if stale.any():
                box = self._first(stale, key, move.box)
                difference = self.versions.difference(int(data[stale][0]), int(expected[stale][0]))
                self._tell(
                    "data",
                    f"{log.describe(op)} sends stale {log.field(key)}{shown(box)} from rank "
                    f"{move.source} {where}: {difference}",
                )
                data[stale] = expected[stale]
            target = self._inside(self._memory((*key, move.target, "main")), key, move.box)
            if target.size and (target == data).all():
                text = f"{log.describe(op)} sends {log.field(key)}{shown(move.box)} {where}"
                self._tell("redundant", f"{text}, which has it", "warning")
            target[...] = data

    def _fold(self, log: Log, op: Op, fold: Fold) -> None:
        key = _key(op)
        expected = self._expected(op, key, fold.box)
        for group, base in zip(fold.groups, fold.bases, strict=True):
            if base is None:
                total = np.full_like(expected, self.versions.folded(NOTHING, fold.op, ()))
            else:
                total = self._inside(self._memory((*key, base, "main")), key, fold.box).copy()
            for rank in group:
                part = self._inside(self._memory((*key, rank, "partial")), key, fold.box)
                self._join(total, part, fold.op)
            wrong = (total != expected) & ~self._has_failed(expected)
            if wrong.any():
                box = self._first(wrong, key, fold.box)
                difference = self.versions.difference(int(total[wrong][0]), int(expected[wrong][0]))
                self._tell(
                    "data",
                    f"{log.describe(op)} on ranks {list(group)}: {log.field(key)}{shown(box)} "
                    f"{difference}",
                )
                total[wrong] = expected[wrong]
            whole = self._cells(key, GARBAGE)
            self._inside(whole, key, fold.box)[...] = total
            for rank, box in fold.results(group):
                target = self._memory((*key, rank, "main"))
                self._inside(target, key, box)[...] = self._inside(whole, key, box)

    def _join(self, total: Cells, part: Cells, op: str) -> None:
        pairs = {(int(a), int(b)) for a, b in zip(total.flat, part.flat, strict=True)}
        before = total.copy()
        for a, b in pairs:
            made = self.versions.folded(a, op, self.versions.parts(b, op))
            total[(before == a) & (part == b)] = made

    def _exchange(self, event: Event, ranks: Sequence[int]) -> None:
        key = event.key
        if key is None or key[0] not in self.grids:
            return
        for rank in ranks:
            self._memory((*key, rank, "main"))[...] = self._exchanged(event)
            self._memory((*key, rank, "partial"))[...] = GARBAGE

    def _pending(self) -> None:
        """Reductions that nobody asked for."""
        for key, meant in sorted(self.meant.items()):
            held = np.zeros(meant.shape, bool)
            for rank in self.ranks:
                held |= self._memory((*key, rank, "main")) == meant
            pending = ~held & ~self._has_failed(meant)
            if pending.any():
                box = self._first(pending, key, ((0,) * meant.ndim, ()))
                version = self.versions.text(int(meant[pending][0]))
                text = (
                    f"{self.log.field(key)}{shown(box)} ends as parts on several ranks: {version}"
                )
                self._tell("pending", text, "note")

    # Help

    def _expected(self, op: Op, key: Key, box: Box) -> Cells:
        return self.expected[op.event, box, key]

    def _stale(self, data: Cells, expected: Cells) -> Mask:
        """Cells that hold no earlier state of the reduction that is expected."""
        pairs = zip(data.flat, expected.flat, strict=True)
        stale = [not self.versions.precedes(int(one), int(other)) for one, other in pairs]
        return np.reshape(np.array(stale, bool), data.shape)

    def _has_failed(self, cells: Cells) -> Mask:
        return np.isin(cells, sorted(self.versions.failed))

    def _first(self, mask: Mask, key: Key, box: Box) -> Box:
        """The first of these cells."""
        return self.grids[key[0]].box(np.argwhere(mask)[0].tolist(), box)

    def _tell(self, kind: str, text: str, severity: str = "error") -> None:
        self.found.append(Finding(kind, text, severity))  # type: ignore[arg-type]


def _of(op: Op, use: Use) -> list[Access]:
    return [a for a in op.work.uses if (a.argument, a.key) == (use.argument, use.key)]


def _key(op: Op) -> Key:
    assert op.work.key is not None
    return op.work.key


def _at(event: Event, point: Point) -> str:
    return str(event) if point is None else f"{event} at point {point}"


def _change(cells: Cells, change: Callable[[int], int]) -> None:
    before = cells.copy()
    for version in np.unique(before):
        cells[before == version] = change(int(version))


def _around(boxes: set[Box]) -> tuple[int, ...]:
    return tuple(map(max, zip(*(hi for _, hi in boxes), strict=True)))
