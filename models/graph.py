"""Operator graphs: typed symbolic tensors and operators between them, checked as they are built.

A graph says what a model computes; nothing is allocated or run here. The YAML definitions of
:mod:`specinfer.models.definition` build the same graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from specinfer.models.errors import GraphError
from specinfer.ops.operator import Operator, Shape, ShapeError
from specinfer.ops.registry import OPERATORS

FLOAT = "float"
"""The element type that a model is run in: float32 or bfloat16, chosen when it is compiled."""


@dataclass(frozen=True, slots=True)
class SymbolicTensor:
    """A tensor of a graph.

    Attributes:
        name: unique in its graph.
        shape: sizes; a word is one that differs from step to step.
        dtype: ``float`` or ``int64``.
    """

    name: str
    shape: Shape
    dtype: str = FLOAT

    def __str__(self) -> str:
        return f"{self.name}: ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of a graph, with what it was given."""

    operator: Operator
    inputs: tuple[SymbolicTensor, ...]
    weights: Mapping[str, str]
    attributes: Mapping[str, Any]
    out: SymbolicTensor

    def __str__(self) -> str:
        given = [tensor.name for tensor in self.inputs]
        given += [
            f"{name}={value}" for name, value in (*self.weights.items(), *self.attributes.items())
        ]
        return f"{self.out} = {self.operator.name}({', '.join(given)})"


@dataclass(slots=True)
class Graph:
    """An operator graph under construction.

    Every graph of a decoder takes the three inputs of a token batch, made here: ``tokens`` and
    ``positions`` (rows,), and ``logit_rows`` (logit_rows,), the rows whose logits are wanted.

    >>> graph = Graph("tiny")
    >>> x = graph.op("embedding", graph.tokens, weight="embed", vocabulary=7, features=4)
    >>> print(graph.op("linear", x, weight="up", features=8, out="y"))
    y: (rows, 8)
    >>> graph.weights
    {'embed': (7, 4), 'up': (8, 4)}
    """

    name: str
    nodes: list[Node] = field(default_factory=list)
    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: tuple[SymbolicTensor, ...] = (
        SymbolicTensor("tokens", ("rows",), "int64"),
        SymbolicTensor("positions", ("rows",), "int64"),
        SymbolicTensor("logit_rows", ("logit_rows",), "int64"),
    )

    @property
    def tokens(self) -> SymbolicTensor:
        """(rows,) int64: token ids."""
        return self.inputs[0]

    @property
    def positions(self) -> SymbolicTensor:
        """(rows,) int64: depth of each token in its request."""
        return self.inputs[1]

    @property
    def logit_rows(self) -> SymbolicTensor:
        """(logit_rows,) int64: the rows that logits are wanted of."""
        return self.inputs[2]

    @property
    def output(self) -> SymbolicTensor:
        """What the last operator made: the logits.

        Raises:
            GraphError: there is no operator yet.
        """
        if not self.nodes:
            raise GraphError(f"{self.name}: an empty graph has no output")
        return self.nodes[-1].out

    def tensor(self, name: str) -> SymbolicTensor:
        """The input or result of that name.

        Raises:
            GraphError: there is none.
        """
        for tensor in (*self.inputs, *(node.out for node in reversed(self.nodes))):
            if tensor.name == name:
                return tensor
        raise GraphError(f"{self.name}: no tensor {name!r} has been made yet")

    def op(
        self, operator: str, *inputs: SymbolicTensor, out: str | None = None, **given: Any
    ) -> SymbolicTensor:
        """Add an operator and return its result.

        Args:
            operator: its name, one of :data:`specinfer.ops.registry.OPERATORS`.
            inputs: tensors of this graph.
            out: name of the result; by default the operator's name and a number.
            given: names of the operator's weights in the checkpoint (None leaves an optional one
                out), and its attributes.

        Raises:
            GraphError: an unknown operator, a tensor of another graph, shapes or attributes that do
                not fit, a weight that is missing or was used before with another shape.
        """
        name = out or f"{operator}_{len(self.nodes)}"
        where = f"{self.name}: {name} = {operator}"
        if operator not in OPERATORS:
            raise GraphError(f"{where}: unknown operator; known: {', '.join(OPERATORS)}")
        kind = OPERATORS[operator]
        takes = (*kind.weights, *kind.optional_weights)
        weights = {k: v for k, v in given.items() if k in takes and v is not None}
        attributes = {k: v for k, v in given.items() if k not in takes}
        if missing := [weight for weight in kind.weights if weight not in weights]:
            raise GraphError(f"{where}: weight {missing[0]!r} is missing")
        made = {*self.inputs, *(node.out for node in self.nodes)}
        if strangers := [tensor for tensor in inputs if tensor not in made]:
            raise GraphError(f"{where}: {strangers[0]} is no tensor of this graph")
        try:
            signature = kind.signature(tuple(tensor.shape for tensor in inputs), attributes)
        except (ShapeError, TypeError) as error:  # a text where arithmetic wants a number
            raise GraphError(f"{where}: {error}") from None
        if name in {tensor.name for tensor in made}:
            raise GraphError(f"{where}: there is a tensor {name!r} already")
        for weight, checkpoint_name in weights.items():
            self._use_weight(where, checkpoint_name, signature.weights[weight])
        result = SymbolicTensor(name, signature.out)
        attributes = {**kind.defaults(), **attributes}
        self.nodes.append(Node(kind, inputs, weights, attributes, result))
        return result

    def _use_weight(self, where: str, name: str, shape: Shape) -> None:
        sizes = tuple(size for size in shape if isinstance(size, int))
        if len(sizes) < len(shape):
            raise GraphError(f"{where}: weight {name} is {shape}, expected numbers")
        if self.weights.setdefault(name, sizes) != sizes:
            raise GraphError(
                f"{where}: weight {name} is {sizes} here, but {self.weights[name]} before"
            )
