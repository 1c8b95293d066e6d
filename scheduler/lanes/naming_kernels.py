"""The kernel of :mod:`specinfer.scheduler.lanes.naming`: a thread for each token."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from numba import cuda


@cuda.jit
def rename(tokens, names):
    """See the task."""
    i = cuda.grid(1)
    row = i // tokens.shape[1]
    if row < tokens.shape[0]:
        column = i - row * tokens.shape[1]
        tokens[row, column] = names[min(tokens[row, column], names.shape[0] - 1)]
