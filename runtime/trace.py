"""Traces: a part of a program that repeats, recorded once and replayed without analysis.

The body of a trace is a function that launches tasks. The first run is recorded, the second one
*verified*: it must issue the same operations. From then on the body is not called any more: a
replay runs the recorded operations, one after the other where they were in order, else with the
dependences that were found once. What differs from run to run reaches the tasks through parameters
and through memory.

A trace may be replayed only where the fields that it uses lie as they did when it was recorded: its
*preconditions*. What its operations leave behind are its *postconditions*. Where these imply those,
the trace is *idempotent*: back-to-back replays need no check, and no fence between them.

Source: Lee et al., "Dynamic tracing: memoization of task graphs for dynamic task-based runtimes"
(SC 2018).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from reprlib import repr as short
from typing import Any, Protocol, TypeVar

from specinfer.runtime.dependence import DependenceAnalyzer, Requirement
from specinfer.runtime.errors import TraceError
from specinfer.runtime.executor import Operation
from specinfer.runtime.future import LATE, LOOKED_INTO, Future, Parameter, late_in
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.launch import Launch
from specinfer.runtime.placement import FieldState
from specinfer.runtime.privilege import RW, R
from specinfer.runtime.region import FieldKey
from specinfer.runtime.replication import Launched

States = Mapping[FieldKey, FieldState]
Prepare = Callable[[Sequence[Operation]], Sequence[Callable[[], Any]]]
_Key = tuple[Hashable, tuple[str, ...], Hashable]
"""Bucket, names of parameters, and epoch of the runtime."""

TEMPLATES = 16
"""Templates that a trace keeps unless told otherwise: those used last."""


PLAIN = frozenset({int, float, bool, str, bytes, type(None)})
"""Kinds of values that hold no others."""


def exactly(value: Any) -> Hashable:
    """What stands for a plain value, and is equal only where the value is the same.

    Python takes ``1``, ``1.0`` and ``True`` for equal, as it does ``0.0`` and ``-0.0``; a task may
    tell them apart.

    >>> exactly(1) == exactly(True), exactly((0.0,)) == exactly((-0.0,)), exactly("a")
    (False, False, (<class 'str'>, 'a'))
    """
    kind = type(value)
    if kind in PLAIN and (value or kind is not float):  # as a rule
        return kind, value
    if isinstance(value, tuple):
        return kind, tuple(map(exactly, value))
    if isinstance(value, frozenset):
        return kind, frozenset(map(exactly, value))
    if isinstance(value, (float, complex)):
        return kind, repr(value)
    return kind, value


@dataclass(frozen=True, slots=True)
class Issued:
    """A launch as it was issued, to compare two runs by.

    Attributes:
        what: the task with its regions.
        values: the other arguments, by parameter.
        launch: it, for people.
        first: number of the run's operations before it.
    """

    what: Hashable
    values: tuple[tuple[str, Hashable], ...]
    launch: Launch
    first: int = 0


@dataclass(frozen=True, slots=True)
class Recording:
    """What one run of a body issued.

    Attributes:
        operations: of this process, in order.
        issued: the launches, in order.
        before: states of the fields that it uses, when it began; on several ranks.
        after: when it ended.
        results: futures that its launches give.
        refusal: why it cannot be replayed, if so.
        launches: as other ranks are told of them; only if there are any.
        result_ranks: for each of the results, the ranks that have it when the run ends.
    """

    operations: tuple[Operation, ...]
    issued: tuple[Issued, ...]
    before: States
    after: States
    results: tuple[Future, ...] = ()
    refusal: str | None = None
    launches: tuple[Launched, ...] = ()
    result_ranks: tuple[int, ...] = ()

    def begins_like(self, other: Recording) -> bool:
        """Whether the fields that both use lay alike."""
        return all(other.before.get(key, state) is state for key, state in self.before.items())

    @property
    def is_idempotent(self) -> bool:
        """Whether it may be replayed right behind itself."""
        return all(self.after[key] is state for key, state in self.before.items())


@dataclass(frozen=True, slots=True)
class Template:
    """A recording that was verified: what a replay runs.

    Attributes:
        recording: what it does.
        answer: what the body returned.
        bucket: what the body was told, for people.
        calls: what runs the operations, if they are run in order.
        edges: for each operation, those it waits for: counted from 0 in the same replay, and
            backwards from -1 in the one right before it.
        uses: what all of it does, as one launch; the last two only if it is not run in order.
    """

    recording: Recording
    answer: Any
    bucket: tuple[Hashable, ...]
    calls: tuple[Callable[[], Any], ...]
    edges: tuple[tuple[int, ...], ...]
    uses: tuple[Requirement, ...] = ()


_Kept = TypeVar("_Kept", Recording, Template)


def make_template(
    recording: Recording,
    answer: Any,
    bucket: tuple[Hashable, ...] = (),
    prepare: Prepare | None = None,
) -> Template:
    """Make a recording ready for replays.

    Args:
        recording: verified.
        answer: what the body returned.
        bucket: what the body was told.
        prepare: makes the calls of operations that run in order. If they do not, their dependences
            are found, also on a replay right before.
    """
    operations = recording.operations
    edges: tuple[tuple[int, ...], ...] = ()
    if prepare is None:
        analyzer, count = DependenceAnalyzer(), len(operations)
        found = [
            analyzer.launch(id, operation.requirements)
            for id, operation in enumerate((*operations, *operations))
        ]
        edges = tuple(tuple(sorted(id - count for id in waits)) for waits in found[count:])
    calls = () if prepare is None else tuple(prepare(operations))
    uses = _uses(operations) if prepare is None else ()
    return Template(recording, answer, bucket, calls, edges, uses)


def _uses(operations: Sequence[Operation]) -> tuple[Requirement, ...]:
    """What operations do together: a requirement for each key, over all points that lie between."""
    spaces: dict[Hashable, IndexSpace] = {}
    written: set[Hashable] = set()
    for operation in operations:
        for need in operation.requirements:
            space = spaces.setdefault(need.key, need.space)
            if space is not need.space:
                spaces[need.key] = space.hull(need.space)
            if need.privilege.writes or need.privilege.op is not None:
                written.add(need.key)
    return tuple(
        Requirement(key, space, RW if key in written else R, is_data=False)
        for key, space in spaces.items()
    )


@dataclass(slots=True)
class TraceStats:
    """What became of the runs of a trace.

    Attributes:
        recorded: runs that were recorded.
        verified: second runs, found to be like the first.
        replayed: runs without analysis.
        elided: replays right behind another of the same, without check or fence.
        analysed: runs that were no replays.
        missed: runs that were analysed again although they had been seen before, by reason.
    """

    recorded: int = 0
    verified: int = 0
    replayed: int = 0
    elided: int = 0
    missed: Counter[str] = field(default_factory=Counter)
    analysed: int = 0


class Host(Protocol):
    """The runtime, as a trace needs it."""

    def begin_run(self, name: str, bucket: Hashable, parameters: Mapping[str, Any]) -> None:
        """Take in that a trace is run."""
        ...

    def begin_recording(self) -> None:
        """Keep what is issued from now on."""
        ...

    def end_recording(self) -> Recording:
        """What was issued since then."""
        ...

    def states_are(self, states: States) -> str | None:
        """A field that does not lie as it should; None if all do."""
        ...

    def replay(self, template: Template, *, is_recurrent: bool) -> None:
        """Run what was recorded."""
        ...

    def may_replay(self, name: str) -> bool:
        """Whether the mapper lets a trace be replayed."""
        ...

    @property
    def epoch(self) -> Hashable:
        """Changes when mappers or memories change: what was recorded before is void."""
        ...

    @property
    def last_replayed(self) -> Template | None:
        """The template behind which nothing else was issued yet."""
        ...

    @property
    def prepare(self) -> Prepare | None:
        """Makes the calls of operations that run as they are issued; None: they do not."""
        ...


class Trace:
    """A part of a program that repeats. Made by ``Runtime.trace``.

    Args:
        host: the runtime.
        name: for people.
        body: launches tasks; gets the parameters by name. It must not read anything.
        is_strict: a run that could have been a replay, and is not, raises.
        keeps: templates that are kept: those used last.

    Raises:
        TraceError: it keeps none.

    Attributes:
        stats: what became of its runs.
    """

    def __init__(
        self,
        host: Host,
        name: str,
        body: Callable[..., Any],
        *,
        is_strict: bool = False,
        keeps: int = TEMPLATES,
    ) -> None:
        if keeps < 1:
            raise TraceError(f"trace {name}: keeps {keeps} recordings, expected 1 or more")
        self.name = name
        self.stats = TraceStats()
        self._host = host
        self._body = body
        self._is_strict = is_strict
        self._keeps = keeps
        self._recorded: OrderedDict[_Key, list[Recording]] = OrderedDict()
        self._templates: OrderedDict[_Key, list[Template]] = OrderedDict()
        self._parameters: dict[str, Parameter] = {}

    def __call__(self, *bucket: Hashable, **parameters: Any) -> Any:
        """Run the body, or replay it.

        Args:
            bucket: what the body must know; another bucket, also one of other types, is another
                trace.
            parameters: values for its launches, which may differ from run to run.

        Returns:
            What the body returned: futures, which get new values in each run.

        Raises:
            TraceError: the body reads something, a parameter is or holds a future, or a bucket
                cannot be hashed; in strict mode also a run that is no replay.
        """
        key = (tuple(map(exactly, bucket)), tuple(sorted(parameters)), self._host.epoch)
        try:
            templates = self._templates.get(key, ())
        except TypeError as error:
            raise TraceError(
                f"trace {self.name}: bucket {short(bucket)}: {error}, expected values that can be "
                "hashed, such as numbers, texts and tuples of them"
            ) from None
        for name, value in parameters.items():
            kind = type(value)
            if kind in LATE or (kind in LOOKED_INTO and late_in(value) is not None):
                late = value if kind in LATE else late_in(value)
                is_in = "is" if late is value else f"is {short(value)} with"
                raise TraceError(
                    f"trace {self.name}: parameter {name} {is_in} a {type(late).__name__.lower()}, "
                    "expected a value: what is not known yet reaches a trace through regions"
                )
            if name not in self._parameters:
                self._parameters[name] = Parameter(name)
            self._parameters[name].value = value
        self._host.begin_run(self.name, bucket, parameters)
        last = self._host.last_replayed
        missed = None
        for template in reversed(templates):
            recording = template.recording
            is_recurrent = template is last and recording.is_idempotent
            moved = None if is_recurrent else self._host.states_are(recording.before)
            if moved is None:
                self._host.replay(template, is_recurrent=is_recurrent)
                self.stats.replayed += 1
                self.stats.elided += is_recurrent
                self._templates.move_to_end(key)
                return template.answer
            missed = f"precondition: {moved} does not lie where it did"
        if missed is not None:
            self._miss(missed)
        return self._analyse(bucket, key)

    def explain(self) -> str:
        """What became of its runs, and why those that were no replays were none."""
        stats = self.stats
        lines = [
            f"trace {self.name}: {stats.recorded} recorded, {stats.verified} verified, "
            f"{stats.replayed} replayed ({stats.elided} without a fence)"
        ]
        lines += (f"  {count} x {reason}" for reason, count in stats.missed.most_common())
        for templates in self._templates.values():
            for template in templates:
                recording = template.recording
                kind = "idempotent" if recording.is_idempotent else "not idempotent"
                lines.append(
                    f"  bucket {template.bucket}: {len(recording.issued)} launches, "
                    f"{len(recording.operations)} operations, {kind}"
                )
        return "\n".join(lines)

    def _analyse(self, bucket: tuple[Hashable, ...], key: _Key) -> Any:
        """Run the body with analysis, and keep what it issued."""
        self.stats.analysed += 1
        self._host.begin_recording()
        try:
            answer = self._body(*bucket, **{name: self._parameters[name] for name in key[1]})
        finally:
            recording = self._host.end_recording()
        if not self._host.may_replay(self.name):
            self._miss("the mapper does not let it be replayed")
            return answer
        if recording.refusal is not None:
            self._miss(recording.refusal)
            return answer
        known = self._recorded.get(key, [])
        for earlier in known:
            if earlier.begins_like(recording):
                known.remove(earlier)
                if not known:
                    del self._recorded[key]
                if (reason := difference(earlier, recording)) is None:
                    template = make_template(recording, answer, bucket, self._host.prepare)
                    verified = [*self._templates.get(key, ()), template]
                    _keep(self._templates, key, verified, self._keeps)
                    self.stats.verified += 1
                    return answer
                self._miss(reason)
                break
        _keep(self._recorded, key, [*known, recording], self._keeps)
        self.stats.recorded += 1  # the first one from where the data lay now
        return answer

    def _miss(self, reason: str) -> None:
        self.stats.missed[reason] += 1
        if self._is_strict:
            raise TraceError(f"trace {self.name} is not replayed: {reason}")


def _keep(known: OrderedDict[_Key, list[_Kept]], key: _Key, listed: list[_Kept], most: int) -> None:
    """Put a list under a key, as the last one used; forget the oldest of all beyond ``most``."""
    known[key] = listed
    known.move_to_end(key)
    while sum(map(len, known.values())) > most:
        oldest = next(iter(known))
        known[oldest].pop(0)
        if not known[oldest]:
            del known[oldest]


def difference(one: Recording, other: Recording) -> str | None:
    """Why two runs of a body are not the same; None if they are."""
    for at, (first, second) in enumerate(zip(one.issued, other.issued, strict=False)):
        if first.what != second.what:
            was, now = str(first.launch), str(second.launch)
            if was == now:
                now = "the same of another partition, projection or task of that name"
            return f"diverged: launch {at} was {was}, then {now}"
        for (name, value), (_, changed) in zip(first.values, second.values, strict=True):
            if value != changed:
                was, now = short(first.launch.values[name]), short(second.launch.values[name])
                if was == now:
                    now = "another object like it"
                return (
                    f"diverged: {name} of launch {at}, {second.launch}, was {was}, then {now}; "
                    "what differs from run to run must be a parameter of the trace"
                )
    if len(one.issued) != len(other.issued):
        return f"diverged: {len(one.issued)} launches, then {len(other.issued)}"
    return None
