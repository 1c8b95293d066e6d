"""Control replication: every rank runs the same program, and here is how that is checked.

Each rank keeps a *history* of what it issued - launches, reads, fences, runs of traces - and a
running digest of it. Ranks with the same digest issued the same; where digests differ, the
histories tell what differs first. Everything is put down as text made from values, so that it is
the same in every process (``hash`` is not) and can be shown to people as it is.

Plain values in and out; the exchange itself is :mod:`specinfer.runtime.agreement`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from hashlib import blake2b
from typing import Any

from specinfer.runtime.arrays import bits
from specinfer.runtime.binding import Binding, Point
from specinfer.runtime.dependence import Requirement
from specinfer.runtime.future import Future, FutureMap, Parameter
from specinfer.runtime.index_space import ONE
from specinfer.runtime.lowering import Lowered, Part
from specinfer.runtime.partition import Colour, Partition, Projected, Projection
from specinfer.runtime.placement import members
from specinfer.runtime.poison import PoisonedData
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.region import Region, Subregion

RECENT = 256
"""Entries that are kept although all ranks agree on them: to tell where a rank is."""

_PLAIN = frozenset({int, float, bool, str, bytes, complex, type(None)})
MARK = "\t"
"""Between the name of a region argument and what it is exactly; text of values has none."""
_LONG = 200
_SMALL = 8

Told = tuple[int, str, tuple[tuple[str, str], ...]]
"""An entry as it is sent to others: its number, what it is, and each argument by name."""


# Text that is the same in every process


def digest_of(text: str) -> str:
    """A short digest of a text."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def text_of(value: Any) -> str:
    """A value as text: equal on two ranks where the values are.

    Long texts and arrays are cut and told apart by their digests. What has no value that could be
    compared gives the name of its type.

    >>> text_of((1, "a")), text_of({"k": 2.0}), text_of(object())
    ("(1, 'a')", "{'k': 2.0}", '<object>')
    """
    kind = type(value)
    if kind in _PLAIN:
        return _cut(repr(value))
    if kind is tuple or kind is list:
        if _PLAIN.issuperset(map(type, value)):
            return _cut(repr(value))
        return _cut(f"({', '.join(map(text_of, value))})")
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _cut(_array_text(value))
    return _cut(_other_text(value))


def _other_text(value: Any) -> str:
    match value:
        case Parameter():
            return repr(value)
        case Future():
            at = "" if value.colour is None else f" at point {value.colour}"
            return f"future of launch {value.launch}{at}"
        case FutureMap():
            first = next(iter(value), None)
            return f"{len(value)} futures of launch {None if first is None else first.launch}"
        case Region() | Subregion() | Partition() | Projected() | Projection():
            return str(value)
        case Mapping():
            return "{" + ", ".join(f"{text_of(k)}: {text_of(v)}" for k, v in value.items()) + "}"
        case set() | frozenset():  # in the order of their text: their own differs between processes
            return "{" + ", ".join(sorted(map(text_of, value))) + "}"
        case int() | float() | str() | bytes():  # an enumeration, or another kind of number
            return f"{type(value).__name__}({value!s})"
    if is_dataclass(value) and not isinstance(value, type):
        inside = (f"{f.name}={text_of(getattr(value, f.name))}" for f in fields(value) if f.compare)
        return f"{type(value).__name__}({', '.join(inside)})"
    name = getattr(value, "__qualname__", None)
    return str(name) if name else f"<{type(value).__name__}>"


def _array_text(array: Any) -> str:
    kind, shape = _name_of(array.dtype), tuple(array.shape)
    if hasattr(array, "detach"):  # torch: NumPy looks only at what needs no gradient and is near
        array = array.detach()
        if array.device.type != "cpu":
            return f"{kind} array {shape} on {array.device.type}"
    memory = bits(array if shape else array.reshape(1))
    if memory.size <= _SMALL:
        return f"{kind} array {memory.reshape(shape).tolist()}"
    return f"{kind} array {shape} digest {blake2b(memory.tobytes(), digest_size=8).hexdigest()}"


@cache
def _name_of(dtype: Any) -> str:
    return str(dtype)


def _cut(text: str) -> str:
    if len(text) <= _LONG:
        return text
    return f"{text[: _LONG // 2]}... ({len(text)} characters, digest {digest_of(text)})"


def fingerprint_of(parts: Sequence[Part]) -> bytes:
    """What stands for the mapper's answer in digests."""
    return blake2b(placement_text(parts).encode(), digest_size=8).digest()


def placement_text(parts: Sequence[Part]) -> str:
    """Where the parts of a launch run: the mapper's answer."""
    described = []
    for part in parts:
        at = "it " if part.point.colour is None else f"point {part.point.colour} "
        spaces = " ".join(f"{name}{space}" for name, space in part.spaces.items())
        partial = f" parts of {','.join(sorted(part.partial))}" if part.partial else ""
        described.append(f"{at}on ranks {members(part.ranks)} with {spaces}{partial}")
    return "; ".join(described)


# Entries


class Said:
    """Something else than a launch: a read, a fence, a run of a trace.

    Attributes:
        first: number of this rank's next operation when it began.
        what: it is.
        arguments: as text, by name.
    """

    __slots__ = ("arguments", "first", "what")

    def __init__(self, first: int, what: str, arguments: tuple[tuple[str, str], ...] = ()) -> None:
        self.first = first
        self.what = what
        self.arguments = arguments

    def told(self, number: int) -> Told:
        """It as sent to others."""
        return number, self.what, self.arguments


class Launched:
    """A launch.

    Attributes:
        first: number of this rank's next operation when it began.
        launch: its number.
        binding: the task with its regions.
        names: of its values.
        texts: of its values.
        given: futures among them, and its predicate; maps of futures too.
        is_predicated: it might not run.
        lowered: what the mapper's answer led to; None until it is known.
    """

    __slots__ = (
        "binding",
        "first",
        "given",
        "is_predicated",
        "launch",
        "lowered",
        "names",
        "texts",
    )

    def __init__(
        self,
        first: int,
        launch: int,
        binding: Binding,
        names: tuple[str, ...],
        texts: tuple[str, ...],
        given: tuple[Future | FutureMap, ...],
        *,
        is_predicated: bool,
    ) -> None:
        self.first = first
        self.launch = launch
        self.binding = binding
        self.names = names
        self.texts = texts
        self.given = given
        self.is_predicated = is_predicated
        self.lowered: Lowered | None = None

    def told(self, number: int) -> Told:
        """It as sent to others."""
        binding = self.binding
        arguments = [(name, region_text(binding, name)) for name in binding.regions]
        arguments += zip(self.names, self.texts, strict=True)
        if self.lowered is not None:
            arguments.append((PLACE, placement_text(self.lowered.parts)))
        return number, self.what, tuple(arguments)

    @property
    def what(self) -> str:
        """Its number and task."""
        return f"launch {self.launch}, {self.binding.task.name}"

    def requirements(self, point: Point) -> tuple[Requirement, ...]:
        """What a point does to fields and futures, wherever it runs."""
        given = tuple(Requirement(f.at(point.colour).key, ONE, R) for f in self.given)
        result = Requirement(("future", self.launch, point.colour), ONE, WD)
        return (*point.requirements, *given, result)


class Replayed:
    """A replay of a trace.

    Attributes:
        first: number of this rank's first operation in it.
        launches: what was recorded, in order.
    """

    __slots__ = ("first", "launches")

    def __init__(self, first: int, launches: tuple[Launched, ...]) -> None:
        self.first = first
        self.launches = launches

    def told(self, number: int) -> Told:
        """It as sent to others."""
        return number, self.what, ()

    @property
    def what(self) -> str:
        """How much it is."""
        return f"replay of {len(self.launches)} launches"


Entry = Said | Launched | Replayed

PLACE = "where it runs"
"""The name under which the mapper's answer is compared with the arguments."""


def region_text(binding: Binding, name: str) -> str:
    """A region argument as text.

    Its name comes first; behind a mark, what tells apart those of the same name: the number, shape
    and fields of the region, and the points that each point of the launch uses.
    """
    parts = {point.colour: point.parts[name] for point in binding.points}
    regions = binding.regions[name]
    whole = regions.partition.whole if isinstance(regions, Projected) else regions
    region = whole.region
    kinds = ", ".join(f"{field}: {kind}" for field, kind in region.fields.items())
    exact = f"region {region.id} of shape {region.shape} with {kinds}"
    spaces = "; ".join(f"{colour}: {part.space} {part.fields}" for colour, part in parts.items())
    privilege = binding.task.privileges[name]
    return f"{privilege} {regions}{MARK}{_cut(exact)}, parts {digest_of(spaces)}"


class History:
    """What this rank issued, and the digest of all of it.

    Attributes:
        number: entries so far.
        settled: of these, how many all ranks agree on.
    """

    def __init__(self) -> None:
        self.number = 0
        self.settled = 0
        self._entries: list[Entry] = []  # the last ones
        self._launch: int | None = None  # the last one
        self._running = blake2b(digest_size=8)
        self._bindings: dict[Binding, tuple[bytes, tuple[str, ...]]] = {}

    @property
    def digest(self) -> int:
        """Of everything so far: 64 bits, signed."""
        return int.from_bytes(self._running.digest(), "little", signed=True)

    @property
    def unsettled(self) -> Sequence[Entry]:
        """Entries that the ranks have not compared yet."""
        count = self.number - self.settled
        return self._entries[-count:] if count else []

    def launch(
        self,
        first: int,
        launch: int,
        binding: Binding,
        arguments: Mapping[str, Any],
        predicate: Future | None = None,
        otherwise: Any = None,
    ) -> Launched:
        """Take in a launch, before anything of it runs."""
        known = self._bindings.get(binding)
        if known is None:
            known = self._bindings[binding] = _binding_key(binding)
        key, names = known
        given: tuple[Future | FutureMap, ...] = ()
        texts: tuple[str, ...] = ()
        if names:
            values = [arguments[name] for name in names]
            texts = tuple(
                [repr(v) if type(v) in (int, float, bool) else text_of(v) for v in values]
            )
            given = tuple([v for v in values if isinstance(v, (Future, FutureMap))])
            key += "\0".join(texts).encode("utf-8", "surrogatepass")
        if predicate is not None:
            names = (*names, "predicate", "otherwise")
            texts = (*texts, text_of(predicate), text_of(otherwise))
            given = (*given, predicate)
            key += f"\0{texts[-2]}\0{texts[-1]}".encode("utf-8", "surrogatepass")
        entry = Launched(
            first, launch, binding, names, texts, given, is_predicated=predicate is not None
        )
        self._launch = launch
        self._add(entry, key)
        return entry

    def placed(self, lowered: Lowered | None, fingerprint: bytes) -> None:
        """Take in where the last launch runs; the fingerprint is that of the text of its parts."""
        entry = self._entries[-1]
        assert isinstance(entry, Launched)
        entry.lowered = lowered
        self._running.update(fingerprint)

    def replay(self, first: int, launches: tuple[Launched, ...]) -> None:
        """Take in a replay; the run of its trace was told before."""
        self._add(Replayed(first, launches), b"replay")

    def say(self, first: int, what: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Take in something else."""
        texts = tuple((name, text_of(value)) for name, value in (arguments or {}).items())
        told = "\0".join((what, *(f"{name}={text}" for name, text in texts)))
        self._add(Said(first, what, texts), told.encode("utf-8", "surrogatepass"))

    def settle(self) -> None:
        """All ranks agree so far."""
        self.settled = self.number
        del self._entries[:-RECENT]

    def told(self, *, since: int = 0) -> list[Told]:
        """Entries as they are sent to others: those that are kept, from a number on."""
        entries = list(self._entries)  # a copy: another thread may ask
        start = self.number - len(entries)
        return [
            entry.told(number)
            for number, entry in enumerate(entries, start=start)
            if number >= since
        ]

    def _add(self, entry: Entry, packed: bytes) -> None:
        self._entries.append(entry)
        self.number += 1
        self._running.update(packed)

    @property
    def last(self) -> str:
        """Where this rank is, for people."""
        entries = self._entries[-1:]
        if not entries:
            return "before its first launch"
        what, launch = entries[0].what, self._launch
        if isinstance(entries[0], Launched) or launch is None:
            return f"at {what}"
        return f"at {what}, behind launch {launch}"


def _binding_key(binding: Binding) -> tuple[bytes, tuple[str, ...]]:
    """What stands for a binding in digests, and the names of its values."""
    task = binding.task
    text = "\0".join((task.name, *(region_text(binding, name) for name in binding.regions)))
    names = tuple(name for name in task.parameters if name not in binding.regions)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), names


# Comparison


def first_difference(told: Mapping[int, Sequence[Told]]) -> str | None:
    """What ranks issued first that is not the same; None if they issued the same.

    Args:
        told: what each rank tells, by rank.

    >>> same = (11, "fence", ())
    >>> def scale(factor):
    ...     return (12, "launch 9, scale", (("x", "RW x"), ("factor", factor)))
    >>> first_difference({0: [same, scale("2")], 1: [same, scale("3")]})
    'launch 9, scale(x=RW x, factor=...): factor is 2 on rank 0 and 3 on rank 1'
    >>> first_difference({0: [same], 1: [same, scale("3")]})
    'rank 0 issued nothing more, rank 1 went on with launch 9, scale(x=RW x, factor=3)'
    """
    start = max((entries[0][0] for entries in told.values() if entries), default=0)
    aligned = {
        rank: {entry[0]: entry[1:] for entry in entries if entry[0] >= start}
        for rank, entries in told.items()
    }
    end = max((max(entries, default=-1) for entries in aligned.values()), default=-1)
    for number in range(start, end + 1):
        at = {rank: entries.get(number) for rank, entries in aligned.items()}
        if len(set(at.values())) > 1:
            return _difference(at)
    return None


_Issued = tuple[str, tuple[tuple[str, str], ...]]


def _difference(at: Mapping[int, _Issued | None]) -> str:
    there = {rank: issued for rank, issued in at.items() if issued is not None}
    if len(there) < len(at):
        missing = [rank for rank in at if rank not in there]
        went_on = _by_text({rank: what + _listed(args, ()) for rank, (what, args) in there.items()})
        return f"{ranks_text(missing)} issued nothing more, " + " and ".join(
            f"{ranks_text(ranks)} went on with {text}" for text, ranks in went_on
        )
    names = {(what, tuple(name for name, _ in args)) for what, args in there.values()}
    if len(names) == 1:
        arguments = {rank: dict(args) for rank, (_, args) in there.items()}
        what, listed = next(iter(there.values()))
        for name, _ in listed:
            texts = {rank: given[name] for rank, given in arguments.items()}
            if len(set(texts.values())) > 1:
                if name == PLACE:
                    return f"{what}{_listed(listed, ())}: {_answers(texts)}"
                shown = {rank: _shown(text) for rank, text in texts.items()}
                if len(set(shown.values())) == 1:  # the names are the same, what they mean is not
                    shown = {rank: text.replace(MARK, ": ") for rank, text in texts.items()}
                values = " and ".join(f"{text} on {ranks_text(r)}" for text, r in _by_text(shown))
                return f"{what}{_listed(listed, (name,))}: {name} is {values}"
    whole = {rank: what + _listed(args, ()) for rank, (what, args) in there.items()}
    return " and ".join(f"{text} on {ranks_text(ranks)}" for text, ranks in _by_text(whole))


def _answers(texts: Mapping[int, str]) -> str:
    """Where the mappers of ranks put the first part that they do not agree on."""
    answers = {rank: text.split("; ") for rank, text in texts.items()}
    fewest = min(map(len, answers.values()))
    differing = (n for n in range(fewest) if len({parts[n] for parts in answers.values()}) > 1)
    at = next(differing, None)
    first = {
        rank: parts[at] if at is not None else "; ".join(parts) for rank, parts in answers.items()
    }
    return ", ".join(
        f"the mapper of {ranks_text(ranks)} puts {text}" for text, ranks in _by_text(first)
    )


def _listed(arguments: Sequence[tuple[str, str]], hidden: Sequence[str]) -> str:
    shown = [
        f"{name}={'...' if name in hidden else _shown(text)}"
        for name, text in arguments
        if name != PLACE
    ]
    return f"({', '.join(shown)})" if shown else ""


def ranks_text(ranks: Sequence[int]) -> str:
    """Some ranks, for people."""
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


def _shown(text: str) -> str:
    """Without what tells regions of the same name apart."""
    return text.partition(MARK)[0]


def _by_text(texts: Mapping[int, str]) -> list[tuple[str, list[int]]]:
    grouped: dict[str, list[int]] = {}
    for rank, text in texts.items():
        grouped.setdefault(text, []).append(rank)
    return list(grouped.items())


# Failures

Spot = tuple[int, int, Colour | None]
"""Where a task raised: number of the entry, of the launch within a replay, and the point."""


def launches_of(entries: Sequence[Entry], start: int) -> Iterator[tuple[int, int, Launched]]:
    """The launches among entries, also those of replays, with their places.

    Args:
        entries: in program order.
        start: number of the first one.
    """
    for number, entry in enumerate(entries, start=start):
        if isinstance(entry, Launched):
            yield number, 0, entry
        elif isinstance(entry, Replayed):
            for within, launched in enumerate(entry.launches):
                yield number, within, launched


def spread(
    poisoned: PoisonedData,
    entries: Sequence[Entry],
    start: int,
    causes: Mapping[Spot, str],
) -> None:
    """Work out what was never made, from launches alone: the same on every rank.

    Args:
        poisoned: what was not, before these entries; fields and futures.
        entries: since then, in program order.
        start: number of the first one.
        causes: where tasks raised, and the story.
    """
    for number, within, launched in launches_of(entries, start):
        for point in launched.binding.points:
            raised = causes.get((number, within, point.colour))
            if raised is None and not poisoned:
                continue
            requirements = launched.requirements(point)
            # What raised on data that were never made is no cause of its own.
            cause = next(filter(None, (_read(poisoned, r) for r in requirements)), raised)
            if cause is not None:
                poisoned.add(requirements, cause)
            elif not launched.is_predicated:  # else it might not overwrite anything
                poisoned.spreads(requirements)


def _read(poisoned: PoisonedData, requirement: Requirement) -> str | None:
    if not requirement.privilege.reads:
        return None
    return poisoned.cause_in(requirement.key, requirement.space)
