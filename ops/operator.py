"""What an operator is: named inputs and weights, a shape rule, and the tasks it lowers to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from specinfer.runtime.task import Task

Dim = int | str
"""A size: a number, or the name of one that differs from step to step (``rows``)."""

Shape = tuple[Dim, ...]


class ShapeError(ValueError):
    """Inputs or attributes that an operator cannot take."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a shape rule answers.

    Attributes:
        out: shape of the result.
        weights: shape of each weight the operator may be given.
    """

    out: Shape
    weights: Mapping[str, Shape] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operator:
    """A kind of node of an operator graph.

    Attributes:
        name: what graphs call it.
        infer: the shape rule: input shapes by position, attributes by keyword.
        tasks: what it lowers to, in order. Their parameters name the operator's inputs, weights and
            attributes, ``out``, and the model's state (``kv``, ``keys``, ...).
        weights: the weights it must be given.
        optional_weights: those it may be given.
        without: what it lowers to instead of ``tasks`` where an optional weight is not given.
    """

    name: str
    infer: Callable[..., Signature]
    tasks: tuple[Task, ...]
    weights: tuple[str, ...] = ()
    optional_weights: tuple[str, ...] = ()
    without: tuple[Task, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors it takes, in order."""
        return tuple(n for n, p in self._parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD)

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the values that describe it."""
        return tuple(n for n, p in self._parameters.items() if p.kind is p.KEYWORD_ONLY)

    @property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.infer).parameters

    def lower(self, given: frozenset[str]) -> tuple[Task, ...]:
        """The tasks for an instance that was given these weights."""
        return self.tasks if set(self.optional_weights) <= given else self.without

    def signature(self, shapes: tuple[Shape, ...], attributes: Mapping[str, Any]) -> Signature:
        """Apply the shape rule.

        Raises:
            ShapeError: a wrong number of inputs, an unknown or missing attribute, or shapes that
                do not fit.
        """
        if len(shapes) != len(self.inputs):
            raise ShapeError(f"given {len(shapes)} inputs, expected {', '.join(self.inputs)}")
        required = {n for n in self.attributes if self._parameters[n].default is inspect._empty}
        if unknown := sorted(set(attributes) - set(self.attributes)):
            raise ShapeError(f"unknown attribute {unknown[0]}; known: {', '.join(self.attributes)}")
        if missing := sorted(required - set(attributes)):
            raise ShapeError(f"attribute {missing[0]} is missing")
        return self.infer(*shapes, **attributes)

    def defaults(self) -> dict[str, Any]:
        """Attributes that may be left out, with their values."""
        return {
            name: parameter.default
            for name, parameter in self._parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not inspect._empty
        }


def expect(condition: bool, message: str) -> None:
    """Raise a :class:`ShapeError` unless ``condition`` holds."""
    if not condition:
        raise ShapeError(message)
