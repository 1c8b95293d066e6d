"""Executors around executors: what those that watch have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from specinfer.runtime.executor import Executor, Operation, plain_calls


class WrappingExecutor:
    """Hands everything on; a subclass overrides what it watches.

    Args:
        inner: carries out the operations.
    """

    def __init__(self, inner: Executor) -> None:
        self._inner: Any = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def is_in_order(self) -> bool:
        """Whether the inner executor has run each operation when ``submit`` returns."""
        return bool(self._inner.is_in_order)

    @property
    def poisoned(self) -> Any:
        """Data that were never made."""
        return self._inner.poisoned

    def prepare(self, operations: Sequence[Operation]) -> Sequence[Callable[[], Any]]:
        """A plain function for each operation: they are watched one by one."""
        return plain_calls(operations)

    def take_failures(self) -> Any:
        """What raised since the last time this was asked."""
        return self._inner.take_failures()

    def close(self) -> None:
        """Close the executor."""
        self._inner.close()
