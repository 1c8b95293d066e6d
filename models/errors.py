"""Errors of the model layer; the tree of all errors is drawn in :mod:`specinfer.runtime.errors`."""

from __future__ import annotations

from specinfer.runtime.errors import SpecInferError


class GraphError(SpecInferError):
    """An operator graph that cannot be built; the message starts with the place in the graph."""


class CheckpointError(SpecInferError):
    """Weights that cannot be used: names the file, the tensor, what was found and expected."""


class FetchError(SpecInferError):
    """A model that could not be brought into the cache; nothing half-written is left there."""
