"""Tasks: functions that say what they do to each of their region arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from specinfer.runtime.errors import LaunchError
from specinfer.runtime.privilege import Privilege

TaskFunction = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to carry out a task.

    Attributes:
        function: takes the task's arguments.
        view: turns each array into what ``function`` wants, once for every bound launch.
        accepts: whether it is right for these arrays, by argument; told before ``view``.
    """

    function: TaskFunction
    view: Callable[[Any], Any] | None = None
    accepts: Callable[[Mapping[str, Any]], bool] | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A task and its variants, one for each kind of processor.

    Attributes:
        name: for people and profiles.
        privileges: by argument; arguments that are not named here are passed by value.
        parameters: all argument names, in order.
        variants: by processor kind (``cpu``, ``numba``, ``cuda``).
    """

    name: str
    privileges: Mapping[str, Privilege]
    parameters: tuple[str, ...]
    variants: dict[str, Variant] = field(default_factory=dict)

    def variant(
        self,
        kind: str,
        *,
        view: Callable[[Any], Any] | None = None,
        accepts: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> Callable[[TaskFunction], TaskFunction]:
        """Register a function with the same arguments for another kind of processor.

        Args:
            kind: of processor.
            view: see :class:`Variant`, as for ``accepts``.
            accepts: by default every array will do.

        Raises:
            LaunchError: the function takes other arguments.
        """

        def register(function: TaskFunction) -> TaskFunction:
            parameters = tuple(inspect.signature(function).parameters)
            if parameters != self.parameters:
                raise LaunchError(
                    f"task {self.name}: variant {kind!r} takes {parameters}, "
                    f"expected {self.parameters}"
                )
            self.variants[kind] = Variant(function, view, accepts)
            return function

        return register

    def __call__(self, *arguments: Any) -> Any:
        """Run the declared function on arrays, outside of any runtime."""
        return self.variants["cpu"].function(*arguments)

    def select(self, kinds: Sequence[str], arrays: Mapping[str, Any]) -> Variant:
        """The variant for the first of these kinds that has one which accepts the arrays.

        Raises:
            LaunchError: there is none.
        """
        for kind in kinds:
            variant = self.variants.get(kind)
            if variant and (variant.accepts is None or variant.accepts(arrays)):
                return variant
        raise LaunchError(
            f"task {self.name}: no variant for {' or '.join(kinds)}; has {', '.join(self.variants)}"
        )


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
        return Task(function.__name__, dict(privileges), parameters, {"cpu": Variant(function)})

    return declare
