"""A log of what a program meant and of what was done for it, to be checked when it is over.

An :class:`OperationLog` is told of the launches by the runtime, whose observer it is, and of the
operations by a :class:`LoggingExecutor` around any executor. It is a list of plain records, in the
order in which things happened in this process: a record's place is its time. Each is a line of
JSON in a file, written at once, so that a program that hangs leaves it behind, too.
:mod:`specinfer.runtime.validator` reads such files; docs/validator.md lists the records.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Hashable, Sequence
from pathlib import Path
from typing import Any

from specinfer.runtime.binding import Binding
from specinfer.runtime.call import Executable
from specinfer.runtime.dependence import LaunchId, Requirement
from specinfer.runtime.errors import ConfigError
from specinfer.runtime.executor import Executor
from specinfer.runtime.executor.wrapping import WrappingExecutor
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.partition import Colour
from specinfer.runtime.placement import Copy, Fold, Reset, Transfer, members
from specinfer.runtime.region import FieldKey, Region
from specinfer.runtime.trace import Issued

Record = dict[str, Any]


class OperationLog:
    """What happens in one process.

    Args:
        ranks: those whose memory is in this process.
        path: of a file to write to, too.

    Attributes:
        records: so far.

    Raises:
        ConfigError: the file cannot be written.

    >>> from specinfer.runtime.context import Runtime
    >>> from specinfer.runtime.executor.serial import SerialExecutor
    >>> log = OperationLog()
    >>> runtime = Runtime(LoggingExecutor(SerialExecutor(), log), observer=log)
    >>> runtime.fence()
    >>> log.records[-2:]
    [{'said': 'fence', 'first': 0}, {'waited': None}]
    """

    def __init__(self, ranks: Sequence[int] = (0,), path: Path | None = None) -> None:
        self.records: list[Record] = []
        self._lock = threading.Lock()
        self._numbers: dict[str, dict[Hashable, int]] = {"binding": {}, "work": {}, "region": {}}
        self._num_launches = 0
        try:
            self._file = None if path is None else path.open("w", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"log {path}: {error.strerror}, expected a file to write") from None
        self.add({"log": 1, "ranks": list(ranks)})

    def add(self, record: Record) -> None:
        """Something happened; from any thread."""
        with self._lock:
            self.records.append(record)
            if self._file is not None:
                self._file.write(json.dumps(record) + "\n")
                self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    # What the program means: an observer of the runtime

    def launched(self, first: int, binding: Binding, *, is_predicated: bool) -> None:
        """A launch was issued."""
        record = {
            "launch": self._num_launches,
            "binding": self._binding(binding),
            "first": first,
            "predicated": is_predicated,
        }
        self._num_launches += 1
        self.add(record)

    def replayed(self, first: int, issued: Sequence[Issued]) -> None:
        """The launches of a trace are issued again."""
        for one in issued:
            is_predicated = any(name == "predicate" for name, _ in one.values)
            binding = one.launch.binding
            self.launched(first + one.first, binding, is_predicated=is_predicated)

    def said(self, first: int, what: str) -> None:
        """Something that is no launch."""
        self.add({"said": what, "first": first})

    def exchanged(self, first: int, key: FieldKey) -> None:
        """A field has other memory."""
        self.add({"exchanged": list(key), "first": first})

    # What is done for it: told by an executor

    def submitted(self, id: LaunchId, operation: Any, waits_for: Collection[LaunchId]) -> None:
        """An operation was taken."""
        executable = getattr(operation, "executable", None)
        of_memory = [] if executable is None else executable.requirements
        others = operation.requirements[len(of_memory) :]
        futures = [
            [[r.key[1], _colour(r.key[2])], str(r.privilege)]
            for r in others
            if r.key[0] == "future"
        ]
        self.add(
            {
                "op": id,
                "work": self._work(operation),
                "waits_for": sorted(waits_for),
                "futures": futures,
            }
        )

    # Things that come again and again are described once, and have a number from then on.

    def _number(self, kind: str, thing: Hashable, describe: Callable[[], Record]) -> int:
        numbers = self._numbers[kind]
        number = numbers.get(thing)
        if number is None:
            number = numbers[thing] = len(numbers)
            self.add({kind: number, **describe()})
        return number

    def _region(self, region: Region) -> None:
        self._number("region", region, lambda: _region(region))

    def _binding(self, binding: Binding) -> int:
        for point in binding.points:
            for part in point.parts.values():
                self._region(part.region)
        return self._number("binding", binding, lambda: _binding(binding))

    def _work(self, operation: Any) -> int:
        if (executable := getattr(operation, "executable", None)) is not None:
            binding = self._binding(executable.binding)
            return self._number("work", executable, lambda: _call(executable, binding))
        if (transfer := getattr(operation, "transfer", None)) is not None:
            return self._number(
                "work", transfer, lambda: {"text": str(operation), **_transfer(transfer)}
            )
        uses = [_use(r, "") for r in operation.requirements if r.key[0] not in ("future", "arena")]
        kind = "value" if operation.is_communication else "read"
        return self._number(
            "work", operation, lambda: {"kind": kind, "text": str(operation), "uses": uses}
        )


class LoggingExecutor(WrappingExecutor):
    """Hands everything on, and logs it.

    Args:
        inner: carries out the operations.
        log: is told.
    """

    def __init__(self, inner: Executor, log: OperationLog) -> None:
        super().__init__(inner)
        self._log = log
        log.add({"executor": type(inner).__name__, "in_order": bool(inner.is_in_order)})

    def submit(
        self, id: LaunchId, operation: Any, waits_for: Collection[LaunchId]
    ) -> Sequence[LaunchId]:
        """Hand on an operation that will tell when it runs."""
        self._log.submitted(id, operation, waits_for)
        logged = _Logged(operation, id, self._log)
        try:
            finished: Sequence[LaunchId] = self._inner.submit(id, logged, waits_for)
        except BaseException:
            self._refused([logged])
            raise
        if finished:
            self._log.add({"finished": list(finished)})
        return finished

    def replay(
        self, base: LaunchId, calls: Sequence[Callable[[], Any]], operations: Sequence[Any]
    ) -> None:
        """Have recorded operations run in order; each of them tells when."""
        told = [_Logged(operation, id, self._log) for id, operation in enumerate(operations, base)]
        for logged in told:
            self._log.submitted(logged.id, logged.operation, ())
        try:
            self._inner.replay(base, [logged.run for logged in told], told)
        except BaseException:
            self._refused(told)
            raise
        self._log.add({"finished": [logged.id for logged in told]})

    def wait(self, ids: Collection[LaunchId] | None) -> None:
        """Wait, and log for what."""
        self._inner.wait(ids)
        self._log.add({"waited": None if ids is None else sorted(ids)})

    def close(self) -> None:
        """Close the executor, and the log's file."""
        self._inner.close()
        self._log.add({"closed": True})
        self._log.close()

    def _refused(self, told: Sequence[_Logged]) -> None:
        refused = [logged.id for logged in told if not logged.has_started]
        if refused:
            self._log.add({"refused": refused})


class _Logged:
    """An operation that tells when it ran; for the rest the operation itself."""

    __slots__ = ("_log", "has_started", "id", "operation", "requirements")

    def __init__(self, operation: Any, id: LaunchId, log: OperationLog) -> None:
        self.operation = operation
        self.requirements = operation.requirements
        self.id = id
        self.has_started = False
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self.operation, name)

    def __str__(self) -> str:
        return str(self.operation)

    def run(self) -> Any:
        """Run the operation, and tell when, even if it raises."""
        self.has_started = True
        self._log.add({"start": self.id, "thread": threading.current_thread().name})
        stop: Record = {"stop": self.id}
        try:
            return self.operation.run()
        except BaseException as error:
            stop["raised"] = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._log.add(stop)

    def bound(self) -> Callable[[], Any]:
        """The same as a plain function."""
        return self.run


# Records


def _region(region: Region) -> Record:
    storage = region.storage
    shared = storage and [storage.arena, storage.offset, storage.itemsize]
    return {
        "id": region.id,
        "name": region.name,
        "shape": list(region.shape),
        "storage": shared,
    }


def _binding(binding: Binding) -> Record:
    points = []
    for point in binding.points:
        requirements = iter(point.requirements)
        uses = [
            _use(next(requirements), name) for name, part in point.parts.items() for _ in part.keys
        ]
        points.append({"at": _colour(point.colour), "uses": uses})
    return {"text": str(binding), "pure": binding.task.is_pure, "points": points}


def _call(executable: Executable, binding: int) -> Record:
    requirements = iter(executable.requirements)
    colour = executable.colour
    (point,) = (p for p in executable.binding.points if p.colour == colour)
    return {
        "kind": "task",
        "text": executable.binding.task.name + ("" if colour is None else f" at point {colour}"),
        "binding": binding,
        "at": _colour(colour),
        "rank": executable.rank,
        "uses": [
            _use(next(requirements), name) for name, part in point.parts.items() for _ in part.keys
        ],
    }


def _transfer(transfer: Transfer) -> Record:
    record: Record = {"kind": transfer.kind, "key": list(transfer.key)}
    match transfer:
        case Copy(_, moves):
            record["moves"] = [[move.source, move.target, *_box(move.space)] for move in moves]
        case Fold(_, space, op, groups, bases, blocks):
            record["fold"] = {
                "box": _box(space),
                "op": op,
                "groups": [members(group) for group in groups],
                "bases": list(bases),
                "blocks": None if blocks is None else [[rank, *_box(s)] for rank, s in blocks],
            }
        case Reset(_, rank, space, op):
            record["reset"] = {"rank": rank, "box": _box(space), "op": op}
    return record


def _use(requirement: Requirement, argument: str) -> Record:
    """A use of a region's field, by a launch or on the memory of a rank."""
    key: Any = requirement.key
    return {
        "argument": argument,
        "key": list(key),
        "box": _box(requirement.space),
        "may": str(requirement.privilege),
    }


def _box(space: IndexSpace) -> list[list[int]]:
    return [list(space.lo), list(space.hi)]


def _colour(colour: Colour | None) -> Any:
    return list(colour) if isinstance(colour, tuple) else colour
