"""What a model of an engine will be, before its weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from specinfer.models.checkpoint import Checkpoint
from specinfer.models.definition import Definition
from specinfer.models.graph import Graph


@dataclass(frozen=True, slots=True)
class Plan:
    """A model of an engine before its weights are read.

    Attributes:
        name: for people.
        checkpoint: where its weights are.
        definition: says what it computes.
        layers: how many of its first layers are used; None for all.
    """

    name: str
    checkpoint: Checkpoint
    definition: Definition
    layers: int | None = None

    @property
    def prefix(self) -> str:
        """What the names of its weights' regions start with."""
        return f"{self.name}."

    @property
    def parameters(self) -> dict[str, Any]:
        """The definition's parameters, with this checkpoint's values."""
        return self.definition.evaluate(self.checkpoint.config, **self._overrides)

    @property
    def graph(self) -> Graph:
        """What it computes."""
        return self.definition.build(self.checkpoint.config, **self._overrides)

    @property
    def _overrides(self) -> dict[str, int]:
        return {} if self.layers is None else {"layers": self.layers}
