"""Keeps what the body of a trace issues."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from numbers import Number
from typing import Any

from specinfer.runtime.binding import Binding
from specinfer.runtime.executor import Operation
from specinfer.runtime.future import Future, FutureMap
from specinfer.runtime.launch import Launch
from specinfer.runtime.placement import FieldState
from specinfer.runtime.region import FieldKey
from specinfer.runtime.replication import Launched
from specinfer.runtime.trace import PLAIN, Issued, Recording, exactly


class Recorder:
    """One run of a body.

    Attributes:
        operations: issued so far.
        results: futures given so far.
        launches: issued so far, as other ranks are told of them; only if there are any.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.results: list[Future] = []
        self.launches: list[Launched] = []
        self._issued: list[Issued] = []
        self._before: dict[FieldKey, FieldState] = {}
        self._refusal: str | None = None

    def launch(
        self, binding: Binding, arguments: Mapping[str, Any], states: Mapping[FieldKey, FieldState]
    ) -> None:
        """Take in a launch, with where the fields are before it."""
        if states:
            for key in binding.keys:
                self._before.setdefault(key, states[key])
        values = {n: v for n, v in arguments.items() if n not in binding.regions}
        compared = tuple((name, self._comparable(value)) for name, value in values.items())
        launch = Launch(binding, values)
        self._issued.append(Issued(binding, compared, launch, len(self.operations)))
        if not binding.task.is_capturable:
            self._refusal = f"not capturable: task {binding.task.name}"

    def recording(self, states: Mapping[FieldKey, FieldState]) -> Recording:
        """All of it."""
        return Recording(
            tuple(self.operations),
            tuple(self._issued),
            self._before,
            {key: states[key] for key in self._before},
            tuple(self.results),
            self._refusal,
            tuple(self.launches),
            tuple(future.ranks for future in self.results),
        )

    def _comparable(self, value: Any) -> Hashable:
        """What must be the same in the next run."""
        if type(value) in PLAIN:  # as a rule
            return exactly(value)
        if isinstance(value, Future):
            if value in self.results:
                return "result", self.results.index(value)
            return "future from before the trace", id(value)
        if isinstance(value, FutureMap | tuple):
            return tuple(self._comparable(inside) for inside in value)
        if isinstance(value, Number | str | bytes):
            return exactly(value)
        return id(value)
