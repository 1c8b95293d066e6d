"""Tasks: functions that say what they do to each of their region arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from specinfer.runtime.errors import LaunchError
from specinfer.runtime.privilege import Privilege
from specinfer.runtime.reduction import reduction

TaskFunction = Callable[..., Any]

RESERVED = frozenset({"predicate", "otherwise"})
"""Names of what every launch may be given."""

OPTIONS = ("axes", "sums", "pure", "capturable", "collective")
"""Names of what may be said of a task, besides the privileges of its arguments."""


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
class Axis:
    """What a dimension of an argument counts, the same for all dimensions of that name.

    Attributes:
        name: of what is counted.
        granule: the value argument that says how many elements one of them takes, if not 1.
    """

    name: str
    granule: str | None = None

    @classmethod
    def parse(cls, text: str) -> Axis:
        """``rows``, or ``heads*head_size``."""
        name, _, granule = text.partition("*")
        return cls(name, granule or None)


@dataclass(frozen=True, slots=True)
class Division:
    """How one launch of a task may be done in parts that together do the same.

    Attributes:
        axes: for each region argument, what its dimensions count; None: always needed whole.
        sums: axes over which written arguments are sums: parts give partial sums. Nothing is
            divided along an axis that a written argument lacks, unless it is one of these.
    """

    axes: Mapping[str, tuple[Axis | None, ...]] = field(default_factory=dict)
    sums: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        """The axes that a launch may be divided along."""
        axes = (axis.name for dims in self.axes.values() for axis in dims if axis)
        return list(dict.fromkeys(axes))


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A task and its variants, one for each kind of processor.

    Attributes:
        name: for people and profiles.
        privileges: by argument; arguments that are not named here are passed by value.
        parameters: all argument names, in order.
        variants: by processor kind (``cpu``, ``numba``, ``cuda``).
        division: along which axes a launch may be divided over ranks.
        is_pure: it does the same wherever and however often it runs: every rank may run it for
            itself.
        is_capturable: a trace may replay it.
        is_collective: the points of a launch must run at the same time, one on every rank.
        returns: its launches give a value; not if the function is annotated ``-> None``.
    """

    name: str
    privileges: Mapping[str, Privilege]
    parameters: tuple[str, ...]
    variants: dict[str, Variant] = field(default_factory=dict)
    division: Division = field(default_factory=Division)
    is_pure: bool = False
    is_capturable: bool = True
    is_collective: bool = False
    returns: bool = True
    key_parameters: tuple[str, ...] = field(init=False)
    """Parameters that tell the bindings of this task apart."""

    def __post_init__(self) -> None:
        axes = (axis for dims in self.division.axes.values() for axis in dims if axis)
        granules = dict.fromkeys(axis.granule for axis in axes if axis.granule)
        object.__setattr__(self, "key_parameters", (*self.privileges, *granules))

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
            parameters = _parameters(function)
            if parameters != self.parameters:
                raise LaunchError(
                    f"task {self.name}: variant {kind!r} takes {parameters}, "
                    f"expected {self.parameters}"
                )
            self.variants[kind] = Variant(function, view, accepts)
            return function

        return register

    def __call__(self, /, *arguments: Any, **named: Any) -> Any:
        """Run the declared function on arrays, outside of any runtime."""
        return self.variants["cpu"].function(*arguments, **named)

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


def _parameters(function: TaskFunction) -> tuple[str, ...]:
    """The names of a function's arguments, each of which a launch gives by name."""
    parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise LaunchError(
                f"task {function.__name__}: has the {parameter.kind.description} argument "
                f"{str(parameter)!r}, expected arguments that can be given by position, one by one"
            )
    return tuple(parameter.name for parameter in parameters)


def task(
    *,
    axes: Mapping[str, Sequence[str | None]] | None = None,
    sums: Sequence[str] = (),
    pure: bool = False,
    capturable: bool = True,
    collective: bool = False,
    **privileges: Privilege,
) -> Callable[[TaskFunction], Task]:
    """Declare a task: the privilege of each region argument, by name.

    An argument with a privilege receives the array of its subregion's one field, or a record with
    one attribute for each of several fields; the others receive the value given at the launch.
    The decorated function is the ``cpu`` variant.

    Args:
        axes: what the dimensions of a region argument count, see :class:`Division`.
        sums: see there.
        pure: see :class:`Task`, as for ``capturable`` and ``collective``.
        capturable: a trace may replay it.
        collective: its points run at the same time, one on every rank.
        privileges: by argument.

    >>> from specinfer.runtime.privilege import R, WD
    >>> @task(x=R, y=WD, pure=True, axes={"x": ("rows", None), "y": ("rows",)})
    ... def total(x, y, factor) -> None:
    ...     y[:] = x.sum(1) * factor
    >>> total.parameters, str(total.privileges["y"]), total.division.names
    (('x', 'y', 'factor'), 'WD', ['rows'])

    Raises:
        LaunchError: a privilege that is none, or for an argument that the function does not take,
            axes for one without a privilege or that mean nothing, an unknown reduction, an
            argument of a reserved name, or one that cannot be given by name.
    """
    for name, told in {"pure": pure, "capturable": capturable, "collective": collective}.items():
        if not isinstance(told, bool):
            raise LaunchError(f"task: option {name} is {told!r}, expected True or False")
    for name, listed in {"axes": axes, "sums": sums}.items():
        if isinstance(listed, Privilege):
            raise LaunchError(f"task: option {name} is the privilege {listed}, expected names")

    def declare(function: TaskFunction) -> Task:
        parameters = _parameters(function)
        if unknown := set(privileges) - set(parameters):
            raise LaunchError(
                f"task {function.__name__}: privilege for {min(unknown)!r}, "
                f"expected one of {parameters}"
            )
        if taken := RESERVED & set(parameters):
            raise LaunchError(
                f"task {function.__name__}: has an argument {min(taken)!r}, which launches have "
                "themselves"
            )
        if options := set(OPTIONS) & set(parameters):
            raise LaunchError(
                f"task {function.__name__}: has an argument {min(options)!r}, which is the name of "
                "an option of `task`"
            )
        for name, privilege in privileges.items():
            if not isinstance(privilege, Privilege):
                raise LaunchError(
                    f"task {function.__name__}: privilege of {name} is {privilege!r}, expected R, "
                    "RW, WD or Reduce(operator)"
                )
            if privilege.op is not None:
                reduction(privilege.op)
        if unknown := set(axes or ()) - set(privileges):
            raise LaunchError(
                f"task {function.__name__}: axes for {min(unknown)!r}, which has no privilege"
            )
        named = [Axis.parse(dim) for dims in (axes or {}).values() for dim in dims if dim]
        if unknown := set(sums) - {axis.name for axis in named}:
            raise LaunchError(
                f"task {function.__name__}: sums over {min(unknown)!r}, expected one of its axes: "
                f"{', '.join(sorted({axis.name for axis in named})) or 'none'}"
            )
        values = set(parameters) - set(privileges)
        if unknown := {axis.granule for axis in named if axis.granule} - values:
            raise LaunchError(
                f"task {function.__name__}: an axis counts in {min(unknown)!r}, expected a value "
                f"argument: {', '.join(sorted(values)) or 'none'}"
            )
        returns = inspect.signature(function).return_annotation not in (None, "None")
        if axes and returns:
            raise LaunchError(
                f"task {function.__name__}: declares axes, but its parts could not make up a value "
                "that it returns; expected a function annotated `-> None`"
            )
        division = Division(
            {
                name: tuple(Axis.parse(dim) if dim else None for dim in dims)
                for name, dims in (axes or {}).items()
            },
            frozenset(sums),
        )
        return Task(
            function.__name__,
            dict(privileges),
            parameters,
            {"cpu": Variant(function)},
            division,
            is_pure=pure,
            is_capturable=capturable,
            is_collective=collective,
            returns=returns,
        )

    return declare
