"""Debug mode: tasks are held to what they declare, each time they run.

A :class:`CheckingExecutor` around any executor runs every task between two looks at its memory.
Refused, with the place of the launch in the user's program:

* a task that writes what it only reads (``R``): NumPy arrays cannot be written, others are compared
  with a copy;
* a task that leaves points of what it overwrites (``WD``) unwritten, or reads them first: they are
  filled with a canary before. A pure task runs twice, with two canaries: what differs then comes
  from what it should not have looked at;
* a task that writes beside the points that it was given, in the same memory;
* a task that launches tasks, or waits: tasks are leaves.

That a task with ``Reduce`` only folds is not checked: one that assigns instead passes on one rank.

Operations run one at a time. It costs copies of all memory that a task may change, and of what it
reads; it is for finding bugs.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specinfer.runtime.arrays import bits
from specinfer.runtime.call import Call, Executable
from specinfer.runtime.dependence import LaunchId
from specinfer.runtime.errors import LaunchError
from specinfer.runtime.executor import Executor, Operation
from specinfer.runtime.executor.wrapping import WrappingExecutor
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.partition import Projected
from specinfer.runtime.privilege import Privilege

Bytes = NDArray[np.uint8]

CANARIES = (0xA5, 0x5A)
"""Bytes that overwritten memory is filled with, where there is no better canary."""

_RUNTIME = str(Path(__file__).parent)  # as its modules are named in frames


class CheckingExecutor(WrappingExecutor):
    """Hands everything on, with tasks that are watched.

    Args:
        inner: carries out the operations.
    """

    def __init__(self, inner: Executor) -> None:
        super().__init__(inner)
        self._watch = _Watch()

    def submit(
        self, id: LaunchId, operation: Operation, waits_for: Collection[LaunchId]
    ) -> Sequence[LaunchId]:
        """Hand on an operation that will be watched.

        Raises:
            LaunchError: a task launches it.
        """
        site = launch_site()
        self._watch.refuse_in_task(f"issues {operation}", site)
        watched = self._watched(operation, site)
        finished: Sequence[LaunchId] = self._inner.submit(id, watched, waits_for)
        return finished

    def replay(
        self, base: LaunchId, calls: Sequence[Callable[[], Any]], operations: Sequence[Operation]
    ) -> None:
        """Have recorded operations run in order, each of them watched."""
        site = launch_site()
        self._watch.refuse_in_task("replays a trace", site)
        watched = [self._watched(operation, site) for operation in operations]
        self._inner.replay(base, [operation.run for operation in watched], watched)

    def wait(self, ids: Collection[LaunchId] | None) -> None:
        """Wait for operations.

        Raises:
            LaunchError: a task does.
        """
        self._watch.refuse_in_task("waits for launches", launch_site())
        self._inner.wait(ids)

    def _watched(self, operation: Operation, site: str) -> Operation:
        if not isinstance(operation, Call):
            return _Alone(operation, self._watch)
        watched = copy(operation)
        watched.function = _Checked(operation.executable, site, self._watch)
        return watched


def launch_site() -> str:
    """The line of the program that called the runtime: the innermost one outside of it."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_RUNTIME):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


class _Watch:
    """Which task runs on this thread, and that no other does meanwhile."""

    def __init__(self) -> None:
        self.alone = threading.RLock()
        self._here = threading.local()

    def refuse_in_task(self, what: str, site: str) -> None:
        running = getattr(self._here, "running", None)
        if running is not None:
            raise LaunchError(f"{running}: {what} at {site}, but tasks are leaves: they must not")

    def run(self, who: str, function: Callable[..., Any], values: Sequence[Any]) -> Any:
        self._here.running = who
        try:
            return function(*values)
        finally:
            self._here.running = None


class _Alone:
    """An operation that runs while no task does."""

    __slots__ = ("_operation", "_watch", "requirements")

    def __init__(self, operation: Operation, watch: _Watch) -> None:
        self._operation = operation
        self._watch = watch
        self.requirements = operation.requirements

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operation, name)

    def __str__(self) -> str:
        return str(self._operation)

    def run(self) -> Any:
        """Do it."""
        with self._watch.alone:
            return self._operation.run()

    def bound(self) -> Callable[[], Any]:
        """The same as a plain function."""
        return self.run


@dataclass(frozen=True, slots=True)
class _Field:
    """The memory of one field of an argument.

    Attributes:
        argument: its parameter.
        name: of it, with its points, for people.
        space: the points.
        privilege: on the argument.
        array: over the memory.
    """

    argument: str
    name: str
    space: IndexSpace
    privilege: Privilege
    array: NDArray[Any]


class _Checked:
    """A task's function, watched."""

    def __init__(self, executable: Executable, site: str, watch: _Watch) -> None:
        self._executable = executable
        self._watch = watch
        task, colour = executable.binding.task, executable.colour
        self._is_pure = task.is_pure
        at = "" if colour is None else f" at point {colour}"
        self._who = f"task {task.name}{at}, launched at {site}"

    def __call__(self, *values: Any) -> Any:
        """Run it between two looks at its memory.

        Raises:
            LaunchError: it did what it must not do.
        """
        with self._watch.alone:
            fields = list(_fields(self._executable, values))
            given = [
                _unwritable(value)
                if (privilege := self._privilege(n)) is not None
                and not (privilege.writes or privilege.op)
                else value
                for n, value in enumerate(values)
            ]
            return self._run(fields, given)

    def _privilege(self, position: int) -> Privilege | None:
        task = self._executable.binding.task
        return task.privileges.get(task.parameters[position])

    def _run(self, fields: Sequence[_Field], values: Sequence[Any]) -> Any:
        before = [_bytes(field.array) for field in fields]
        discarded = [n for n, field in enumerate(fields) if _is_discarded(field)]
        roots = _Roots(field.array for field in fields if not _is_read_only(field))
        first: list[Bytes] | None = None
        if discarded and self._is_pure:
            self._fill(fields, discarded, CANARIES[0])
            self._call(fields, values, before, roots)
            first = [_bytes(field.array) for field in fields]
            for field, data in zip(fields, before, strict=True):
                if not _is_read_only(field):
                    _restore(field.array, data)
        filled = self._fill(fields, discarded, CANARIES[1])
        answer = self._call(fields, values, before, roots)
        for n in discarded:
            self._check_written(fields[n], filled[n], None if first is None else first[n])
        if first is not None:
            self._check_same(fields, first)
        return answer

    def _call(
        self,
        fields: Sequence[_Field],
        values: Sequence[Any],
        before: Sequence[Bytes],
        roots: _Roots,
    ) -> Any:
        roots.remember()
        try:
            answer = self._watch.run(self._who, self._executable.function, values)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            names = ", ".join(f"{f.argument}={f.name}" for f in fields if _is_read_only(f))
            raise LaunchError(
                f"{self._who}: writes what it only reads (R), one of {names}: {error}"
            ) from error
        for field, data in zip(fields, before, strict=True):
            if _is_read_only(field) and (point := _first_change(field, data)) is not None:
                raise LaunchError(
                    f"{self._who}: writes {field.argument}={field.name} at {point}, "
                    "which it only reads (R)"
                )
        if roots.have_changed_outside():
            parts = ", ".join(f"{f.argument}={f.name}" for f in fields if not _is_read_only(f))
            raise LaunchError(
                f"{self._who}: writes beside the points that it was given, in the memory of {parts}"
            )
        return answer

    def _fill(
        self, fields: Sequence[_Field], discarded: Sequence[int], canary: int
    ) -> dict[int, Bytes]:
        """Put canaries into what is overwritten; returns what that looks like."""
        filled = {}
        for n in discarded:
            _fill(fields[n].array, canary)
            filled[n] = _bytes(fields[n].array)
        return filled

    def _check_written(self, field: _Field, filled: Bytes, first: Bytes | None) -> None:
        item = field.array.itemsize
        kept = (_bytes(field.array) == filled).reshape(-1, item).all(1)
        if first is not None:  # certain: it left both canaries as they were
            other = np.empty_like(field.array)
            _fill(other, CANARIES[0])
            kept &= (first == _bytes(other)).reshape(-1, item).all(1)
        elif item == 1:
            return  # of 256 values, any may be meant
        if kept.any():
            at = _point(field, int(kept.argmax()))
            raise LaunchError(
                f"{self._who}: leaves {int(kept.sum())} of {kept.size} points of "
                f"{field.argument}={field.name} unwritten, first {at}, expected all (WD)"
            )

    def _check_same(self, fields: Sequence[_Field], first: Sequence[Bytes]) -> None:
        names = ", ".join(f"{f.argument}={f.name}" for f in fields if _is_discarded(f))
        for field, data in zip(fields, first, strict=True):
            if (point := _first_change(field, data)) is not None:
                raise LaunchError(
                    f"{self._who}: {field.argument}={field.name} at {point} depends on what was in "
                    f"{names} before, which it discards (WD)"
                )


class _Roots:
    """Whole memories that some arrays are views of, to see whether more than those changes."""

    def __init__(self, arrays: Iterator[NDArray[Any]]) -> None:
        self._views: dict[int, tuple[Bytes, list[NDArray[Any]]]] = {}
        for array in arrays:
            root = _root(array)
            if root is not None and array.size:
                at = root.__array_interface__["data"][0]
                self._views.setdefault(at, (root, []))[1].append(array)
        self._before: dict[int, Bytes] = {}

    def remember(self) -> None:
        """Take down what is there."""
        self._before = {at: root.copy() for at, (root, _) in self._views.items()}

    def have_changed_outside(self) -> bool:
        """Whether anything but the arrays has changed since."""
        for at, (root, arrays) in self._views.items():
            expected = self._before[at]
            for array in arrays:
                offset = array.__array_interface__["data"][0] - at
                view: NDArray[Any] = np.ndarray(
                    array.shape, array.dtype, expected.data, offset, array.strides
                )
                view[...] = array
            if not np.array_equal(expected, root):
                return True
        return False


def _fields(executable: Executable, values: Sequence[Any]) -> Iterator[_Field]:
    """What a call is given of memory, field by field."""
    binding = executable.binding
    requirements = iter(executable.requirements)
    by_name = dict(zip(binding.task.parameters, values, strict=True))
    for name, region in binding.regions.items():
        part = region.part(executable.colour) if isinstance(region, Projected) else region
        for field in part.fields:
            value = by_name[name]
            array = getattr(value, field) if isinstance(value, SimpleNamespace) else value
            space = next(requirements).space
            label = f"{part.region.name}{space}"
            label += f".{field}" if len(part.region.fields) > 1 else ""
            yield _Field(name, label, space, binding.task.privileges[name], bits(array))


def _is_read_only(field: _Field) -> bool:
    return not (field.privilege.writes or field.privilege.op)


def _is_discarded(field: _Field) -> bool:
    return field.privilege.writes and not field.privilege.reads and field.array.size > 0


def _unwritable(value: Any) -> Any:
    """The same arrays, which cannot be written if they are NumPy's."""
    if isinstance(value, SimpleNamespace):
        return SimpleNamespace(**{name: _unwritable(array) for name, array in vars(value).items()})
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    return value


def _bytes(array: NDArray[Any]) -> Bytes:
    """A copy of the bits, so that NaN is equal to itself."""
    return np.frombuffer(array.tobytes(), np.uint8)


def _restore(array: NDArray[Any], data: Bytes) -> None:
    array[...] = data.view(array.dtype).reshape(array.shape)


def _fill(array: NDArray[Any], canary: int) -> None:
    """Values that nobody means: NaN, or far from zero where the type is wide enough."""
    if array.dtype.kind == "b":
        array[...] = canary % 2
        return
    item = np.full(array.itemsize, canary, np.uint8)
    if array.dtype.kind == "f":
        item = np.array([np.nan], array.dtype).view(np.uint8)
        item[0] = canary  # a NaN like no other
    array[...] = item.view(array.dtype)[0]


def _first_change(field: _Field, data: Bytes) -> str | None:
    """The first point that is not as it was."""
    now = _bytes(field.array)
    if np.array_equal(now, data):
        return None
    changed = (now != data).reshape(-1, field.array.itemsize).any(1)
    return _point(field, int(changed.argmax()))


def _point(field: _Field, number: int) -> str:
    """A point by its number in an argument, in the coordinates of the region."""
    inside = np.unravel_index(number, field.array.shape)
    return str([int(i) + low for i, low in zip(inside, field.space.lo, strict=True)])


def _root(array: NDArray[Any]) -> Bytes | None:
    """All memory that an array is a view of, as bytes; None if that cannot be known."""
    root: Any = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    storage = getattr(root.base, "untyped_storage", None)
    if storage is not None:  # a tensor's, of which NumPy saw a part only
        whole = storage()
        memory = (ctypes.c_uint8 * whole.nbytes()).from_address(whole.data_ptr())
        return np.frombuffer(memory, np.uint8)
    if not (root.flags.c_contiguous or root.flags.f_contiguous):
        return None
    flat: Bytes = root.ravel(order="K").view(np.uint8)
    return flat
