"""Compiles an operator graph to a program: tasks in order, with operands instead of tensors.

The result of an operator is a value with a lifetime: the first and the last step that touch it. A
model lays values that never live at once over each other (:mod:`specinfer.runtime.arena`), so a
model of thirty layers needs little more memory than one. What that makes a step wait for is found
by the runtime like any other dependence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from specinfer.models.errors import GraphError
from specinfer.models.graph import Graph, Node, SymbolicTensor
from specinfer.ops.attention import ATTENTION
from specinfer.runtime.task import Task

PLAN = ("keys", "seen", "extents", "work", "scratch")
"""What the attention of all layers shares, by task parameter: its plan, and scratch memory."""


@dataclass(frozen=True, slots=True)
class Operand:
    """What a task's argument stands for.

    Attributes:
        kind: ``input`` of the batch, ``weight``, ``value``, ``kv`` of a layer, or attention
            ``plan``.
        name: of the input, weight, plan or graph's tensor; the number of the layer.
        columns: of a value, from which to behind which; None: all.
    """

    kind: str
    name: str
    columns: tuple[int, int] | None = None

    def __str__(self) -> str:
        name = self.name if self.kind in ("input", "weight") else f"{self.kind}.{self.name}"
        return name if self.columns is None else "{}[:,{}:{}]".format(name, *self.columns)


@dataclass(frozen=True, slots=True)
class Step:
    """A task with its operands and values by parameter."""

    task: Task
    arguments: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        listed = ", ".join(f"{name}={value}" for name, value in self.arguments)
        return f"{self.task.name}({listed})"


@dataclass(frozen=True, slots=True)
class Value:
    """What an operator makes: ``rows`` is a symbolic size, ``width`` the features of a row.

    Attributes:
        rows: symbolic size.
        width: features of a row.
        first: step that makes it.
        last: step that uses it last; one behind all of them for the logits.
    """

    rows: str
    width: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled graph.

    Attributes:
        name: of the graph.
        steps: in program order.
        values: by the name of the graph's tensor, in program order.
        output: operand of the logits.
        weights: shape of each weight, by its name in the checkpoint, or in ``stacks``.
        num_layers: attention layers, each with a part of the K/V pool.
        heads: query heads of a layer.
        kv_heads: K/V heads of a layer.
        head_size: features of a head.
        stacks: weights of the checkpoint that lie one below the other in one that is used.
    """

    name: str
    steps: tuple[Step, ...]
    values: dict[str, Value]
    output: Operand
    weights: dict[str, tuple[int, ...]]
    num_layers: int
    heads: int
    kv_heads: int
    head_size: int
    stacks: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(map(str, self.steps))


def compile_graph(graph: Graph) -> Program:
    """Lower every operator to its tasks, and find out how long each result is needed.

    Raises:
        GraphError: attention layers of different shapes, or none; a result that is no matrix.
    """
    heads, kv_heads, head_size = _attention_shape(graph)
    operands = {tensor.name: Operand("input", tensor.name) for tensor in graph.inputs}
    steps: list[Step] = []
    layer = 0
    for node in graph.nodes:
        operands[node.out.name] = Operand("value", node.out.name)
        steps += _lower(node, operands, layer)
        layer += node.operator is ATTENTION
    first, last = lifetimes(steps)
    last[graph.output.name] = len(steps)
    values = {
        name: Value(*_matrix(graph, node.out), first[name], last[name])
        for node in graph.nodes
        for name in [node.out.name]
    }
    return Program(
        graph.name,
        tuple(steps),
        values,
        operands[graph.output.name],
        dict(graph.weights),
        layer,
        heads,
        kv_heads,
        head_size,
    )


def _lower(node: Node, operands: dict[str, Operand], layer: int) -> Iterator[Step]:
    known: dict[str, Any] = {
        "out": operands[node.out.name],
        "slots": Operand("input", "slots"),
        "kv": Operand("kv", str(layer)),
        **{name: Operand("plan", name) for name in PLAN},
        **dict(zip(node.operator.inputs, (operands[t.name] for t in node.inputs), strict=True)),
        **{name: Operand("weight", weight) for name, weight in node.weights.items()},
        **node.attributes,
    }
    for task in node.operator.lower(frozenset(node.weights)):
        yield Step(task, tuple((name, known[name]) for name in task.parameters))


def lifetimes(steps: Sequence[Step]) -> tuple[dict[str, int], dict[str, int]]:
    """The first and the last step that each value is an argument of, by its name."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for at, step in enumerate(steps):
        for _, given in step.arguments:
            if isinstance(given, Operand) and given.kind == "value":
                first.setdefault(given.name, at)
                last[given.name] = at
    return first, last


def _matrix(graph: Graph, tensor: SymbolicTensor) -> tuple[str, int]:
    match tensor.shape:
        case (str(rows), int(width)):
            return rows, width
    raise GraphError(f"{graph.name}: {tensor} cannot be stored, expected (rows, features)")


def _attention_shape(graph: Graph) -> tuple[int, int, int]:
    """Query heads, K/V heads, and features of a head."""
    shapes = set()
    for node in graph.nodes:
        if node.operator is ATTENTION:
            size = node.attributes["head_size"]
            queries, keys, *_ = node.inputs
            shapes.add((int(queries.shape[1]) // size, int(keys.shape[1]) // size, size))
    if len(shapes) != 1:
        raise GraphError(
            f"{graph.name}: attention layers have (heads, K/V heads, head size) {sorted(shapes)}, "
            "expected one for all layers"
        )
    return shapes.pop()
