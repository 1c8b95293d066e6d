"""Tasks: functions that say what they do to each of their region arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from specinfer.runtime.errors import LaunchError
from specinfer.runtime.privilege import Privilege

TaskFunction = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Task:
    """A task and its variants, one for each kind of processor.

    Attributes:
        name: for people and profiles.
        privileges: by argument; arguments that are not named here are passed by value.
        parameters: all argument names, in order.
        variants: the function to run, by processor kind (``cpu``, ``cuda``).
    """

    name: str
    privileges: Mapping[str, Privilege]
    parameters: tuple[str, ...]
    variants: dict[str, TaskFunction] = field(default_factory=dict)

    def variant(self, kind: str) -> Callable[[TaskFunction], TaskFunction]:
        """Register a function with the same arguments for another kind of processor."""

        def register(function: TaskFunction) -> TaskFunction:
            parameters = tuple(inspect.signature(function).parameters)
            if parameters != self.parameters:
                raise LaunchError(
                    f"task {self.name}: variant {kind!r} takes {parameters}, "
                    f"expected {self.parameters}"
                )
            self.variants[kind] = function
            return function

        return register

    def select(self, kind: str) -> TaskFunction:
        """The variant for a kind of processor.

        Raises:
            LaunchError: there is none.
        """
        try:
            return self.variants[kind]
        except KeyError:
            raise LaunchError(
                f"task {self.name}: no variant for {kind!r}; has {', '.join(self.variants)}"
            ) from None


def task(**privileges: Privilege) -> Callable[[TaskFunction], Task]:
    """Declare a task: the privilege of each region argument, by name.

    An argument with a privilege receives the array of its subregion's one field, or a record with
    one attribute for each of several fields; the others receive the value given at the launch.
    The decorated function is the ``cpu`` variant.

    >>> from specinfer.runtime.privilege import R, WD
    >>> @task(x=R, y=WD)
    ... def scale(x, y, factor):
    ...     y[:] = x * factor
    >>> scale.parameters, str(scale.privileges["y"])
    (('x', 'y', 'factor'), 'WD')

    Raises:
        LaunchError: a privilege for an argument that the function does not take.
    """

    def declare(function: TaskFunction) -> Task:
        parameters = tuple(inspect.signature(function).parameters)
        if unknown := set(privileges) - set(parameters):
            raise LaunchError(
                f"task {function.__name__}: privilege for {min(unknown)!r}, "
                f"expected one of {parameters}"
            )
        return Task(function.__name__, dict(privileges), parameters, {"cpu": function})

    return declare
