"""Runs an operator by itself: its shape rule says what it makes, its tasks make it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from specinfer.ops.operator import Operator
from specinfer.runtime.task import Task


def run_variant(task: Task, kind: str, *arguments: Any) -> None:
    """Run one variant of a task on torch tensors, in the view it wants."""
    variant = task.variants[kind]

    def viewed(value: Any) -> Any:
        if isinstance(value, SimpleNamespace):
            return SimpleNamespace(**{name: viewed(v) for name, v in vars(value).items()})
        return variant.view(value) if variant.view and isinstance(value, Tensor) else value

    variant.function(*map(viewed, arguments))


def apply(
    operator: Operator, *inputs: Tensor, weights: dict[str, Tensor] | None = None, **attributes: Any
) -> Tensor:
    """The operator's result, in memory that held NaN before; shapes of weights are checked."""
    weights = weights or {}
    shapes = tuple(tuple(tensor.shape) for tensor in inputs)
    signature = operator.signature(shapes, attributes)
    for name, weight in weights.items():
        assert tuple(weight.shape) == signature.weights[name]
    floats = [t for t in (*weights.values(), *inputs) if t.is_floating_point()]
    dtype = floats[0].dtype if floats else torch.float32
    out = torch.full([int(size) for size in signature.out], torch.nan, dtype=dtype)
    known = {
        **dict(zip(operator.inputs, inputs, strict=True)),
        **weights,
        **operator.defaults(),
        **attributes,
        "out": out,
    }
    for task in operator.lower(frozenset(weights)):
        task(*(known[name] for name in task.parameters))
    return out
