"""Calls: a task's function with its arrays and values, ready to run.

An :class:`Executable` is made once for a point of a launch on a rank; each launch then makes a
:class:`Call` of it, with its own values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from reprlib import repr as short
from types import SimpleNamespace
from typing import Any

from specinfer.runtime.arrays import is_on_gpu
from specinfer.runtime.binding import Binding
from specinfer.runtime.dependence import Requirement
from specinfer.runtime.errors import LaunchError
from specinfer.runtime.future import (
    DEFERRED,
    LATE,
    LOOKED_INTO,
    Future,
    FutureMap,
    Parameter,
    late_in,
)
from specinfer.runtime.index_space import ONE, IndexSpace
from specinfer.runtime.instances import Instances
from specinfer.runtime.partition import Colour, Projected, Projection
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.task import Task, TaskFunction


class Call:
    """One run of a task's function.

    Attributes:
        function: the variant's.
        values: its arguments, in order.
        requirements: what it does to memory.
        executable: what it is a run of.
    """

    __slots__ = ("executable", "function", "requirements", "values")
    is_communication = False

    def __init__(self, executable: Executable, values: tuple[Any, ...]) -> None:
        self.executable = executable
        self.function = executable.function
        self.requirements = executable.requirements
        self.values = values

    @property
    def task(self) -> Task:
        """What it is a run of."""
        return self.executable.binding.task

    @property
    def arguments(self) -> dict[str, Any]:
        """Regions and values, in the order of parameters."""
        regions = self.executable.binding.regions
        return {
            name: regions.get(name, value)
            for name, value in zip(self.task.parameters, self.values, strict=True)
        }

    @property
    def is_on_gpu(self) -> bool:
        """Whether all that it does is to issue work to a GPU, the same in each run."""
        return self.executable.is_on_gpu

    def run(self) -> Any:
        """Call the function."""
        return self.function(*self.values)

    def bound(self) -> Callable[[], Any]:
        """The same as a plain function."""
        return partial(self.function, *self.values)

    def as_of_now(self) -> Call:
        """The same with the present values of its parameters, to be run later."""
        return self

    def __str__(self) -> str:
        return self.executable.describe(self.values)


class ResolvedCall(Call):
    """A run whose values, or whether it runs at all, are known only when its turn comes."""

    __slots__ = ("otherwise", "predicate", "result")
    is_on_gpu = False

    def __init__(
        self,
        executable: Executable,
        values: tuple[Any, ...],
        result: Future | None = None,
        predicate: Future | None = None,
        otherwise: Any = None,
    ) -> None:
        super().__init__(executable, values)
        given = [v.at(executable.colour) for v in values if isinstance(v, (Future, FutureMap))]
        if predicate is not None:
            given.append(predicate)
            self.requirements = tuple(replace(r, is_certain=False) for r in self.requirements)
        self.requirements += tuple(Requirement(f.key, ONE, R) for f in given)
        if result is not None:
            self.requirements += (Requirement(result.key, ONE, WD),)
        self.result = result
        self.predicate = predicate
        self.otherwise = otherwise

    def run(self) -> Any:
        """Look up the values and call the function."""
        return self.bound()()

    def bound(self) -> Callable[[], Any]:
        """The same as a plain function."""
        function, template, result = self.function, self.values, self.result
        colour, predicate = self.executable.colour, self.predicate
        deferred = [(i, v) for i, v in enumerate(template) if isinstance(v, DEFERRED)]
        is_late = tuple(isinstance(value, Parameter) for value in template)
        if result is None and predicate is None and sum(is_late) == len(deferred):
            caller: Callable[[], Any] = _caller(is_late)(function, *template)
            return caller

        def call() -> Any:
            if predicate is not None and not predicate.value_at(None):
                value = self.otherwise
                if isinstance(value, Parameter):
                    value = value.value
            elif deferred:
                values = list(template)
                for position, promised in deferred:
                    values[position] = promised.value_at(colour)
                value = function(*values)
            else:
                value = function(*template)
            if result is not None:
                result.put(value)
            return value

        return call

    def as_of_now(self) -> Call:
        """The same with the present values of its parameters, to be run later."""
        if not any(isinstance(value, Parameter) for value in (*self.values, self.otherwise)):
            return self
        *values, otherwise = (
            v.value if isinstance(v, Parameter) else v for v in (*self.values, self.otherwise)
        )
        return ResolvedCall(self.executable, tuple(values), self.result, self.predicate, otherwise)


@cache
def _caller(is_late: tuple[bool, ...]) -> Callable[..., Callable[[], Any]]:
    """Makes a call of ``function(*values)`` that reads late values, parameters, when it is called.

    It is compiled for the places of the parameters: a loop over them would cost as much as a small
    task.
    """
    names = [f"v{i}" for i in range(len(is_late))]
    read = ", ".join(f"{n}.value" if late else n for n, late in zip(names, is_late, strict=True))
    maker: Callable[..., Callable[[], Any]] = eval(
        f"lambda function, {', '.join(names)}: lambda: function({read})"
    )
    return maker


@dataclass(frozen=True, slots=True, eq=False)
class Executable:
    """A point of a launch on the memory of a rank.

    Attributes:
        binding: the launch.
        colour: of the point.
        rank: whose memory.
        function: the variant's.
        template: its arguments, with None where a value goes.
        positions: where each value goes.
        requirements: what it does to memory.
        is_on_gpu: whether all of the memory is a GPU's.
    """

    binding: Binding
    colour: Colour | None
    rank: int
    function: TaskFunction
    template: tuple[Any, ...]
    positions: tuple[tuple[int, str], ...]
    requirements: tuple[Requirement, ...]
    is_on_gpu: bool = False

    def call(
        self,
        values: Mapping[str, Any],
        result: Future | None = None,
        predicate: Future | None = None,
        otherwise: Any = None,
    ) -> Call:
        """A run with these values."""
        if not self.positions:
            filled = self.template
            is_deferred = False
        else:
            listed = list(self.template)
            is_deferred = False
            for position, name in self.positions:
                value = values[name]
                if isinstance(value, Projection):
                    value = value.colour(self.colour)
                elif isinstance(value, DEFERRED):
                    is_deferred = True
                listed[position] = value
            filled = tuple(listed)
        if is_deferred or result is not None or predicate is not None:
            return ResolvedCall(self, filled, result, predicate, otherwise)
        return Call(self, filled)

    def describe(self, values: Sequence[Any]) -> str:
        """The task with its arguments."""
        task = self.binding.task
        listed = []
        for name, value in zip(task.parameters, values, strict=True):
            region = self.binding.regions.get(name)
            listed.append(
                f"{name}={short(value)}"
                if region is None
                else f"{name}={task.privileges[name]} {region}"
            )
        at = "" if self.colour is None else f" at point {self.colour}"
        return f"{task.name}({', '.join(listed)}){at}"


_LOOKED_AT = (LATE | LOOKED_INTO) - {Parameter}


def check_values(
    host: object,
    binding: Binding,
    values: Mapping[str, Any],
    predicate: Future | None = None,
    otherwise: Any = None,
) -> None:
    """Refuse values that a launch could not wait for or look up, before any point of it is issued.

    Raises:
        LaunchError: a future of another runtime or of too few points, or in a wrong place; a
            projection where there is no point.
    """
    task = binding.task.name
    for name, value in values.items():
        kind = type(value)
        if kind not in _LOOKED_AT:  # as a rule
            continue
        if kind in LOOKED_INTO:
            _check_inside(task, name, value)
            continue
        if kind is Projection:
            if not binding.is_index:
                raise LaunchError(
                    f"task {task}: argument {name} is the projection {value}, a function of the "
                    "point, which a single launch has none of; expected a value"
                )
            continue
        if isinstance(value, FutureMap):
            if not binding.is_index:
                raise LaunchError(
                    f"task {task}: argument {name} is the future map of an index launch, expected "
                    "the future of one of its points"
                )
            for point in binding.points:
                if point.colour not in value:
                    raise LaunchError(
                        f"task {task}: argument {name} has no future for point {point.colour}, "
                        "expected one for each point"
                    )
        futures = (value,) if isinstance(value, Future) else value
        if not all(future.is_of(host) for future in futures):
            raise LaunchError(f"task {task}: argument {name} is a future of another runtime")
    if predicate is None:
        return
    if not isinstance(predicate, Future):
        raise LaunchError(
            f"task {task}: predicate is {type(predicate).__name__}, expected the future of a launch"
        )
    if not predicate.is_of(host):
        raise LaunchError(f"task {task}: predicate is a future of another runtime")
    if isinstance(otherwise, (Future, FutureMap, Projection)):
        raise LaunchError(f"task {task}: otherwise is {type(otherwise).__name__}, expected a value")
    if type(otherwise) in LOOKED_INTO:
        _check_inside(task, "otherwise", otherwise)


def _check_inside(task: str, name: str, value: Any) -> None:
    if (found := late_in(value)) is not None:
        raise LaunchError(
            f"task {task}: argument {name} is {short(value)}, a {type(value).__name__} with a "
            f"{type(found).__name__} in it, which the task would get as it is; expected it as an "
            "argument of its own"
        )


def make_executable(
    binding: Binding,
    colour: Colour | None,
    spaces: Mapping[str, IndexSpace],
    apart: frozenset[str],
    instances: Instances,
    processors: Sequence[str],
    requirements: tuple[Requirement, ...],
) -> Executable:
    """Look up the memory of a point and choose a variant.

    Args:
        binding: the launch.
        colour: of the point.
        spaces: the points of each region argument.
        apart: arguments that go to the rank's part of a reduction.
        instances: the rank's memory.
        processors: kinds of processor, the preferred first.
        requirements: what it does to memory.

    Raises:
        LaunchError: no variant for these processors.
    """
    task = binding.task
    arrays: dict[str, Any] = {}
    on_gpu: list[bool] = []
    for name, region in binding.regions.items():
        part = region.part(colour) if isinstance(region, Projected) else region
        views = {
            field: instances.view(key, spaces[name], is_partial=name in apart)
            for field, key in zip(part.fields, part.keys, strict=True)
        }
        on_gpu += map(is_on_gpu, views.values())
        arrays[name] = views[part.fields[0]] if len(views) == 1 else SimpleNamespace(**views)
    variant = task.select(processors, arrays)
    if variant.view is not None:
        arrays = {name: _viewed(memory, variant.view) for name, memory in arrays.items()}
    return Executable(
        binding,
        colour,
        instances.rank,
        variant.function,
        tuple(arrays.get(name) for name in task.parameters),
        tuple((i, name) for i, name in enumerate(task.parameters) if name not in arrays),
        requirements,
        bool(on_gpu) and all(on_gpu),
    )


def _viewed(memory: Any, view: Callable[[Any], Any]) -> Any:
    if isinstance(memory, SimpleNamespace):
        return SimpleNamespace(**{field: view(array) for field, array in vars(memory).items()})
    return view(memory)
