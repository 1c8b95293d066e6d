"""Errors of the scheduler; the tree of all errors is drawn in :mod:`specinfer.runtime.errors`."""

from __future__ import annotations

from specinfer.runtime.errors import SpecInferError


class TreeError(SpecInferError):
    """Parents that do not describe a token tree, or an expansion that cannot make one."""


class RequestError(SpecInferError):
    """A request that cannot be served: an empty prompt, one longer than the context, ..."""
