"""Which weights of a model are kept in a layout that makes its matrix products faster."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from specinfer.models.compiler import Operand, Program
from specinfer.ops.kernels.packed import can_pack, pack


def pack_weights(program: Program, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pack the weights that only matrix products read, where this machine gains by it.

    Args:
        program: what reads them.
        weights: by name; a packed one has the same shape.
    """
    shared = {name for name, is_factor in _uses(program) if not is_factor}
    packed = set(factors(program)) - shared
    return {
        name: pack(weight) if name in packed and can_pack(weight.dtype) else weight
        for name, weight in weights.items()
    }


def factors(program: Program) -> list[str]:
    """Names of the weights that are the matrix of a product, in program order."""
    return list(dict.fromkeys(name for name, is_factor in _uses(program) if is_factor))


def _uses(program: Program) -> list[tuple[str, bool]]:
    """Each use of a weight, and whether it is as the matrix of a product."""
    return [
        (value.name, parameter == "weight" and "packed" in step.task.variants)
        for step in program.steps
        for parameter, value in step.arguments
        if isinstance(value, Operand) and value.kind == "weight"
    ]
