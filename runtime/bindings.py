"""Launches that were checked once, remembered: a program issues the same ones again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from reprlib import repr as short
from typing import Any

from specinfer.runtime.binding import Binding, bind_index, bind_single
from specinfer.runtime.errors import LaunchError, TraceError
from specinfer.runtime.partition import Partition, Projected, points
from specinfer.runtime.region import Region, Subregion
from specinfer.runtime.store import Store
from specinfer.runtime.task import Task

REMEMBERED = 32768
"""Checked launches that are kept: those used last."""


class Bindings:
    """Checks launches.

    Args:
        store: of the regions that they may use.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[tuple[Any, ...], Binding] = OrderedDict()

    def bind(
        self, task: Task, arguments: Mapping[str, Any], domain: int | tuple[int, ...] | None = None
    ) -> Binding:
        """A task with its regions, for a single launch or each point of a domain.

        Raises:
            LaunchError: an argument missing, unknown or of the wrong kind; arguments or points that
                overlap with privileges that do not commute; a region of another runtime.
        """
        try:
            parameters = task.parameters
        except AttributeError:
            raise LaunchError(
                f"launch of {getattr(task, '__qualname__', None) or short(task)}, expected a task: "
                "a function declared with `@task(...)`"
            ) from None
        if len(arguments) != len(parameters) or any(n not in arguments for n in parameters):
            raise LaunchError(
                f"task {task.name}: launched with {sorted(arguments)}, expected {list(parameters)}"
            )
        try:
            key = (task, domain, *[arguments[name] for name in task.key_parameters])
            binding = self._known.get(key)
        except (TypeError, TraceError):  # something that is no region, and cannot be looked up
            key, binding = (), None
        if binding is not None:
            self._known.move_to_end(key)
            return binding
        if domain is None:
            binding = bind_single(task, arguments)
        else:
            binding = bind_index(task, points(domain), arguments)
        self._check_own(binding)
        _check_declared(task, arguments)
        if key:
            self._known[key] = binding
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return binding

    def _check_own(self, binding: Binding) -> None:
        for name, argument in binding.regions.items():
            part = argument.partition.whole if isinstance(argument, Projected) else argument
            where = f"task {binding.task.name}: argument {name}, {argument},"
            self._store.check_known(part.region, where)


def _check_declared(task: Task, arguments: Mapping[str, Any]) -> None:
    """Refuse data that a task does not say what it does to.

    Only a launch that is new is looked at: one that is known has it from the same program.
    """
    for name, value in arguments.items():
        if name not in task.privileges and isinstance(
            value, Region | Subregion | Partition | Projected
        ):
            raise LaunchError(
                f"task {task.name}: argument {name} is {value}, expected a value: the task "
                f"declares no privilege for {name}"
            )
