"""Launches: a task with its arguments, checked once and ready to be issued many times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as short
from types import SimpleNamespace
from typing import Any

from specinfer.runtime.errors import LaunchError
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.privilege import Privilege
from specinfer.runtime.region import Subregion
from specinfer.runtime.task import Task, TaskFunction


@dataclass(frozen=True, slots=True)
class Requirement:
    """That a launch uses one field of some points of a region, and how.

    Attributes:
        key: number of the region, and the field: what dependences are looked up by.
        space: the points.
        privilege: what the task may do to them.
    """

    key: tuple[int, str]
    space: IndexSpace
    privilege: Privilege

    def conflicts_with(self, other: Requirement) -> bool:
        """Whether two launches with these requirements must keep their order."""
        return (
            self.key == other.key
            and not self.privilege.commutes_with(other.privilege)
            and self.space.overlaps(other.space)
        )


@dataclass(frozen=True, slots=True)
class Launch:
    """A task bound to its arguments.

    Attributes:
        task: what to run.
        arguments: subregions and values, by parameter.
        requirements: one for each region argument and field.
        function: the variant for the processor that runs it.
        values: what ``function`` is called with, in order.
    """

    task: Task
    arguments: Mapping[str, Any]
    requirements: tuple[Requirement, ...]
    function: TaskFunction
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.task.name}({', '.join(self._described())})"

    def _described(self) -> list[str]:
        privileges = self.task.privileges
        return [
            f"{name}={privileges[name]} {value}" if name in privileges else f"{name}={short(value)}"
            for name, value in self.arguments.items()
        ]

    def run(self) -> Any:
        """Call the task's function on the memory of its arguments."""
        return self.function(*self.values)


def bind(
    task: Task, arguments: Mapping[str, Any], *, processors: Sequence[str] = ("cpu",)
) -> Launch:
    """Check a launch, look up its memory and choose a variant.

    Args:
        task: what to run.
        arguments: subregions and values, by parameter.
        processors: kinds of processor that may run it, the preferred first.

    Raises:
        LaunchError: an argument missing, unknown or of the wrong kind; two arguments of this
            launch that overlap with privileges that do not commute; memory not attached.
    """
    if set(arguments) != set(task.parameters):
        raise LaunchError(
            f"task {task.name}: launched with {sorted(arguments)}, expected {list(task.parameters)}"
        )
    requirements: list[tuple[str, Requirement]] = []
    for name, privilege in task.privileges.items():
        value = arguments[name]
        if not isinstance(value, Subregion):
            raise LaunchError(
                f"task {task.name}: argument {name} is {type(value).__name__}, expected a subregion"
            )
        requirements += [
            (name, Requirement((value.region.id, field), value.space, privilege))
            for field in value.fields
        ]
    for i, (name, one) in enumerate(requirements):
        for other_name, other in requirements[:i]:
            if one.conflicts_with(other):
                raise LaunchError(
                    f"task {task.name}: {other_name} ({other.privilege} {arguments[other_name]}) "
                    f"and {name} ({one.privilege} {arguments[name]}) overlap in one launch"
                )
    arrays = {name: _memory(arguments[name]) for name in task.privileges}
    variant = task.select(processors, arrays)
    if variant.view is not None:
        arrays = {name: _viewed(memory, variant.view) for name, memory in arrays.items()}
    return Launch(
        task,
        dict(arguments),
        tuple(requirement for _, requirement in requirements),
        variant.function,
        tuple(arrays[name] if name in arrays else arguments[name] for name in task.parameters),
    )


def _memory(part: Subregion) -> Any:
    if len(part.fields) == 1:
        return part.view(part.fields[0])
    return SimpleNamespace(**{field: part.view(field) for field in part.fields})


def _viewed(memory: Any, view: Callable[[Any], Any]) -> Any:
    if isinstance(memory, SimpleNamespace):
        return SimpleNamespace(**{field: view(array) for field, array in vars(memory).items()})
    return view(memory)
