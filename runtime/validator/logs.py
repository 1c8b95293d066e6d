"""Logs as plain values, checked for what would make no sense of them."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from specinfer.runtime.errors import ConfigError

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""The points ``lo <= p < hi``."""
Key = tuple[int, str]
"""A field: number of its region, and its name."""
Place = tuple[Any, ...]
"""Memory: (region, field, rank, ``main`` or ``partial``), or (``future``, launch, point)."""
Point = int | tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Use:
    """What a point of a launch may do to a field of one argument, wherever that is done."""

    argument: str
    key: Key
    box: Box
    may: str

    @property
    def op(self) -> str | None:
        """Of a reduction."""
        return self.may[7:-1] if self.may.startswith("Reduce(") else None


@dataclass(frozen=True, slots=True)
class Access:
    """What an operation does to memory."""

    place: Place
    box: Box
    may: str
    argument: str = ""

    @property
    def op(self) -> str | None:
        """Of a reduction."""
        return self.may[7:-1] if self.may.startswith("Reduce(") else None

    @property
    def key(self) -> Key:
        """The field."""
        return self.place[0], self.place[1]


@dataclass(frozen=True, slots=True)
class Move:
    """Points that one rank sends another."""

    source: int
    target: int
    box: Box


@dataclass(frozen=True, slots=True)
class Fold:
    """A reduction that is carried out; each group of ranks for itself."""

    box: Box
    op: str
    groups: tuple[tuple[int, ...], ...]
    bases: tuple[int | None, ...]
    blocks: tuple[tuple[int, Box], ...] | None

    def results(self, group: tuple[int, ...]) -> list[tuple[int, Box]]:
        """What each rank of a group gets."""
        if self.blocks is None:
            return [(rank, self.box) for rank in group]
        return [(rank, box) for rank, box in self.blocks if rank in group]


@dataclass(frozen=True, slots=True)
class Reset:
    """A part of a reduction that starts anew."""

    rank: int
    box: Box
    op: str


@dataclass(frozen=True, slots=True)
class Work:
    """What operations do that are alike.

    Attributes:
        kind: ``task``, ``read``, ``value``, or that of a transfer.
        text: it, for people.
        binding: of a task.
        at: the point of the launch, of a task.
        rank: whose memory, of a task.
        uses: of memory, as the runtime told its executor; of a task or a read.
        key: of a transfer, the field.
        what: of a transfer, who sends what.
    """

    kind: str
    text: str
    binding: int | None = None
    at: Point = None
    rank: int | None = None
    uses: tuple[Access, ...] = ()
    key: Key | None = None
    what: tuple[Move, ...] | Fold | Reset | None = None

    @property
    def ranks(self) -> frozenset[int]:
        """Who takes part in a transfer."""
        match self.what:
            case Fold(groups=groups):
                return frozenset(rank for group in groups for rank in group)
            case Reset(rank=rank):
                return frozenset((rank,))
            case None:
                return frozenset()
            case moves:
                return frozenset(rank for move in moves for rank in (move.source, move.target))

    def accesses(self, ranks: Sequence[int]) -> tuple[Access, ...]:
        """What it does to the memory of these ranks; of a transfer worked out from what moves."""
        if self.key is None:
            return self.uses
        found: list[Access] = []
        key = self.key
        match self.what:
            case Fold(box, _, groups, bases) as fold:
                for group, base in zip(groups, bases, strict=True):
                    found += (Access((*key, rank, "partial"), box, "R") for rank in group)
                    if base is not None:
                        found.append(Access((*key, base, "main"), box, "R"))
                    results = fold.results(group)
                    found += (Access((*key, rank, "main"), part, "WD") for rank, part in results)
            case Reset(rank, box):
                found.append(Access((*key, rank, "partial"), box, "WD"))
            case tuple() as moves:
                for move in moves:
                    found.append(Access((*key, move.source, "main"), move.box, "R"))
                    found.append(Access((*key, move.target, "main"), move.box, "WD"))
        return tuple(a for a in found if a.place[2] in ranks)


@dataclass(slots=True)
class Op:
    """An operation of one process.

    Attributes:
        id: its number, in program order.
        work: what it does.
        waits_for: numbers of those that must have ended before.
        futures: the values that it reads or makes.
        known: bit i: the host knew, when it was submitted, that operation i had ended.
        event: position in program order of what it is done for.
        start: its place in the log when it began; None: it never did.
        stop: when it ended.
        raised: what it raised.
        done: somebody was told that it had ended, or was skipped.
        refused: the executor did not take it.
    """

    id: int
    work: Work
    waits_for: tuple[int, ...]
    futures: tuple[Access, ...]
    known: int
    event: int = -1
    start: int | None = None
    stop: int | None = None
    raised: str | None = None
    done: bool = False
    refused: bool = False

    @property
    def has_failed(self) -> bool:
        """Whether it raised, or never ran because of others that did."""
        return self.raised is not None or self.refused or (self.done and self.start is None)


@dataclass(frozen=True, slots=True)
class Binding:
    """A task with its regions, as launches of it have in common."""

    text: str
    is_pure: bool
    points: tuple[tuple[Point, tuple[Use, ...]], ...]


@dataclass(frozen=True, slots=True)
class Event:
    """A launch, or something else that the program said.

    Attributes:
        kind: ``launch``, ``said`` or ``exchanged``.
        text: it, for people.
        line: its place in the log.
        index: its place among the events, in every log alike.
        number: of a launch.
        binding: of a launch.
        is_predicated: a launch that might not run.
        key: the field that was exchanged.
    """

    kind: Literal["launch", "said", "exchanged"]
    text: str
    line: int
    index: int
    number: int | None = None
    binding: Binding | None = None
    is_predicated: bool = False
    key: Key | None = None

    def __str__(self) -> str:
        return f"launch {self.number} {self.text}" if self.number is not None else self.text


@dataclass(slots=True)
class Log:
    """What one process wrote down.

    Attributes:
        name: of its file.
        ranks: whose memory is in the process.
        is_in_order: its executor runs operations as they are issued.
        is_closed: its runtime was closed, which drops what has not begun.
        regions: names and shapes, by number.
        storage: arena, offset and size of an element in bytes, of regions that share memory.
        bindings: by number.
        events: what the program said, in order.
        ops: by number.
    """

    name: str
    ranks: tuple[int, ...] = ()
    is_in_order: bool = False
    is_closed: bool = False
    regions: dict[int, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    storage: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    bindings: dict[int, Binding] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    ops: dict[int, Op] = field(default_factory=dict)

    def describe(self, op: Op) -> str:
        """An operation, with what it is done for."""
        event = str(self.events[op.event]) if 0 <= op.event < len(self.events) else "the start"
        if op.work.kind == "task":
            at = "" if op.work.at is None else f" at point {op.work.at}"
            where = f" on rank {op.work.rank}" if self.ranks != (op.work.rank,) else ""
            return f"{event}{at}{where}"
        if op.work.kind == "read":
            return event
        return f"{op.work.text} for {event}"

    def field(self, key: Key) -> str:
        """A field's name."""
        return f"{self.regions[key[0]][0]}.{key[1]}" if key[0] in self.regions else str(key)


def read(path: Path) -> Log:
    """A log from its file.

    Raises:
        ConfigError: it cannot be read, or is no log.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines if line]
    except OSError as error:
        raise ConfigError(f"log {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"log {path}: expected a record of JSON in each line: {error}") from None
    return parse(records, str(path))


def parse(records: Sequence[dict[str, Any]], name: str) -> Log:
    """A log from its records.

    Raises:
        ConfigError: they are none of a log.
    """
    if not records or not isinstance(records[0], dict) or records[0].get("log") != 1:
        raise ConfigError(f"{name}: expected a log of operations, version 1")
    try:
        return _Parser(name, records).log
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {type(error).__name__} {error} in a record") from error


class _Parser:
    def __init__(self, name: str, records: Sequence[dict[str, Any]]) -> None:
        self.log = Log(name)
        self.works: dict[int, Work] = {}
        self.before: dict[int, int] = {}  # for each operation, what ended before it
        self.known = 0
        self.firsts: list[int] = []
        for line, record in enumerate(records):
            self.take(line, record)
        for op in self.log.ops.values():
            op.event = bisect_right(self.firsts, op.id) - 1

    def take(self, line: int, record: dict[str, Any]) -> None:
        log = self.log
        match record:
            case {"log": _, "ranks": ranks}:
                log.ranks = tuple(ranks)
            case {"executor": _, "in_order": in_order}:
                log.is_in_order = in_order
            case {"region": _, "id": id, "name": name, "shape": shape}:
                log.regions[id] = (name, tuple(shape))
                if storage := record.get("storage"):
                    arena, offset, itemsize = storage
                    log.storage[id] = (arena, offset, itemsize)
            case {"launch": number, "binding": at, "first": first, "predicated": predicated}:
                binding = log.bindings[at]
                event = Event("launch", binding.text, line, self.index, number, binding, predicated)
                self.event(first, event)
            case {"binding": number, "text": text, "pure": pure, "points": points}:
                log.bindings[number] = Binding(
                    text,
                    pure,
                    tuple((_point(p["at"]), tuple(map(_use, p["uses"]))) for p in points),
                )
            case {"said": what, "first": first}:
                self.event(first, Event("said", what, line, self.index))
            case {"exchanged": [region, name], "first": first}:
                key = (region, name)
                text = f"exchange of {log.field(key)}"
                event = Event("exchanged", text, line, self.index, key=key)
                self.event(first, event)
            case {"op": id, "work": work, "waits_for": waits_for, "futures": futures}:
                waits_for = tuple(waits_for)
                log.ops[id] = Op(
                    id, self.works[work], waits_for, tuple(map(_future, futures)), self.known
                )
            case {"work": number}:
                self.works[number] = _work(record)
            case {"start": id}:
                log.ops[id].start = line
            case {"stop": id}:
                log.ops[id].stop = line
                log.ops[id].raised = record.get("raised")
            case {"finished": ids} | {"waited": list(ids)}:
                self.done(ids)
            case {"waited": None}:
                self.done(list(log.ops))
            case {"closed": _}:
                log.is_closed = True
            case {"refused": ids}:
                for id in ids:
                    log.ops[id].refused = True
            case _:
                raise ValueError(f"{record} of no kind known")

    @property
    def index(self) -> int:
        return len(self.log.events)

    def event(self, first: int, event: Event) -> None:
        self.firsts.append(first)
        self.log.events.append(event)

    def done(self, ids: Sequence[int]) -> None:
        for id in ids:
            self.log.ops[id].done = True
            self.known |= 1 << id


def _work(record: dict[str, Any]) -> Work:
    kind, text = record["kind"], record["text"]
    if "uses" in record:
        uses = tuple(map(_access, record["uses"]))
        at = _point(record.get("at"))
        return Work(kind, text, record.get("binding"), at, record.get("rank"), uses)
    region, name = record["key"]
    what: tuple[Move, ...] | Fold | Reset
    if "moves" in record:
        what = tuple(Move(s, t, _box((lo, hi))) for s, t, lo, hi in record["moves"])
    elif "fold" in record:
        fold = record["fold"]
        blocks = fold["blocks"]
        what = Fold(
            _box(fold["box"]),
            fold["op"],
            tuple(map(tuple, fold["groups"])),
            tuple(fold["bases"]),
            None if blocks is None else tuple((r, _box((lo, hi))) for r, lo, hi in blocks),
        )
    else:
        reset = record["reset"]
        what = Reset(reset["rank"], _box(reset["box"]), reset["op"])
    return Work(kind, text, key=(region, name), what=what)


def _use(record: dict[str, Any]) -> Use:
    region, name = record["key"]
    return Use(record["argument"], (region, name), _box(record["box"]), record["may"])


def _access(record: dict[str, Any]) -> Access:
    key = record["key"]
    place = tuple(key) if len(key) == 4 else (*key, 0, "main")  # without ranks there is but one
    return Access(place, _box(record["box"]), record["may"], record["argument"])


def _future(record: Sequence[Any]) -> Access:
    (launch, point), may = record
    return Access(("future", launch, _point(point)), ((0,), (1,)), may)


def _box(bounds: Sequence[Sequence[int]]) -> Box:
    lo, hi = bounds
    return tuple(lo), tuple(hi)


def _point(value: Any) -> Point:
    return tuple(value) if isinstance(value, list) else value


def overlap(one: Box, other: Box) -> Box | None:
    """The points in both; None if there are none."""
    lo = tuple(map(max, one[0], other[0]))
    hi = tuple(map(min, one[1], other[1]))
    return (lo, hi) if all(a < b for a, b in zip(lo, hi, strict=True)) else None


def shown(box: Box) -> str:
    """A box for people.

    >>> shown(((0, 2), (4, 8)))
    '[0:4,2:8]'
    """
    return "[" + ",".join(f"{low}:{high}" for low, high in zip(*box, strict=True)) + "]"


def bits(mask: int) -> Iterator[int]:
    """The numbers whose bits are set."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
