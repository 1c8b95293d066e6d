"""Reduction operators: how values are folded, and what folding starts from.

They are commutative and associative; on integers any order gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from specinfer.runtime.errors import LaunchError


@dataclass(frozen=True, slots=True)
class ReductionOperator:
    """A commutative operator on numbers.

    Attributes:
        name: as in ``Reduce("+")``.
        fold: NumPy's operation on two arrays and ``out``.
        identity: the neutral element of a NumPy type.
    """

    name: str
    fold: Callable[..., Any]
    identity: Callable[[np.dtype[Any]], Any]


def _least(dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "b":
        return False
    return np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


def _greatest(dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "b":
        return True
    return np.iinfo(dtype).max if dtype.kind in "iu" else np.inf


OPERATORS = {
    operator.name: operator
    for operator in (
        ReductionOperator("+", np.add, lambda _: 0),
        ReductionOperator("*", np.multiply, lambda _: 1),
        ReductionOperator("min", np.minimum, _greatest),
        ReductionOperator("max", np.maximum, _least),
    )
}
"""Those that the runtime can carry out itself, by name."""


def reduction(op: str) -> ReductionOperator:
    """The operator of that name.

    Raises:
        LaunchError: there is none.
    """
    try:
        return OPERATORS[op]
    except KeyError:
        raise LaunchError(
            f"reduction {op!r}: unknown operator, expected one of {', '.join(OPERATORS)}"
        ) from None
