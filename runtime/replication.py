"""Control replication: every rank runs the same program, and here is how that is checked.

Each rank keeps a *history* of what it issued - launches, reads, fences, runs of traces - and a
running digest of it. Ranks with the same digest issued the same; where digests differ, the
histories tell what differs first. Everything is put down as text made from values, so that it is
the same in every process (``hash`` is not) and can be shown to people as it is.

Plain values in and out; the exchange itself is :mod:`specinfer.runtime.agreement`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from specinfer.runtime.answer import Answer
from specinfer.runtime.binding import Binding, Point
from specinfer.runtime.dependence import Requirement
from specinfer.runtime.divergence import Told
from specinfer.runtime.future import Future, FutureMap
from specinfer.runtime.index_space import ONE
from specinfer.runtime.partition import Projection
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.wording import projected_text, region_text, text_of

REMEMBERED = 32768
"""Texts of launches' regions and projections that are kept: those made last."""

RECENT = 256
"""Entries that are kept although all ranks agree on them: to tell where a rank is."""


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
        answer: the mapper's; None until it is known.
    """

    __slots__ = (
        "answer",
        "binding",
        "first",
        "given",
        "is_predicated",
        "launch",
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
        self.answer: Answer | None = None

    def told(self, number: int) -> Told:
        """It as sent to others."""
        binding = self.binding
        arguments = [(name, region_text(binding, name)) for name in binding.regions]
        arguments += zip(self.names, self.texts, strict=True)
        if self.answer is not None:
            arguments += self.answer.texts()
        return number, self.what, tuple(arguments)

    @property
    def what(self) -> str:
        """Its number and task."""
        return f"launch {self.launch}, {self.binding.task.name}"

    def requirements(self, point: Point) -> tuple[Requirement, ...]:
        """What a point does to fields and futures, wherever it runs."""
        used = point.requirements
        if self.is_predicated:
            used = tuple(replace(requirement, is_certain=False) for requirement in used)
        given = tuple(Requirement(f.at(point.colour).key, ONE, R) for f in self.given)
        result = Requirement(("future", self.launch, point.colour), ONE, WD)
        return (*used, *given, result)


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
        self._projected: dict[tuple[Binding, Projection], str] = {}

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
            _forget_oldest(self._bindings)
        key, names = known
        given: tuple[Future | FutureMap, ...] = ()
        texts: tuple[str, ...] = ()
        if names:
            values = [arguments[name] for name in names]
            texts = tuple(
                [
                    repr(v) if type(v) in (int, float, bool) else self._text(binding, v)
                    for v in values
                ]
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

    def _text(self, binding: Binding, value: Any) -> str:
        if type(value) is not Projection:
            return text_of(value)
        text = self._projected.get((binding, value))
        if text is None:
            text = self._projected[binding, value] = projected_text(
                value, (point.colour for point in binding.points)
            )
            _forget_oldest(self._projected)
        return text

    def placed(self, answer: Answer | None, fingerprint: bytes) -> None:
        """Take in what the mapper answered for the last launch, and the answer's fingerprint."""
        entry = self._entries[-1]
        assert isinstance(entry, Launched)
        entry.answer = answer
        self._running.update(fingerprint)

    def replay(self, first: int, launches: tuple[Launched, ...]) -> None:
        """Take in a replay; the run of its trace was told before."""
        self._add(Replayed(first, launches), b"replay")

    def say(
        self,
        first: int,
        what: str,
        arguments: Mapping[str, Any] | None = None,
        answer: Answer | None = None,
    ) -> None:
        """Take in something else, and what the mapper answered for it."""
        texts = tuple((name, text_of(value)) for name, value in (arguments or {}).items())
        if answer is not None:
            texts += answer.texts()
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


def _forget_oldest(known: dict[Any, Any]) -> None:
    if len(known) > REMEMBERED:
        del known[next(iter(known))]


def _binding_key(binding: Binding) -> tuple[bytes, tuple[str, ...]]:
    """What stands for a binding in digests, and the names of its values."""
    task = binding.task
    text = "\0".join((task.name, *(region_text(binding, name) for name in binding.regions)))
    names = tuple(name for name in task.parameters if name not in binding.regions)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), names
