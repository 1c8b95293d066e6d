"""Launches: a binding with values, checked and ready to be issued many times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any

from specinfer.runtime.binding import Binding
from specinfer.runtime.task import Task


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    """A task with all of its arguments.

    Attributes:
        binding: the task and its region arguments.
        values: the other arguments, by parameter.
    """

    binding: Binding
    values: Mapping[str, Any]

    @property
    def task(self) -> Task:
        """What is run."""
        return self.binding.task

    @property
    def arguments(self) -> dict[str, Any]:
        """Regions and values, in the order of parameters."""
        regions = self.binding.regions
        return {
            name: regions[name] if name in regions else self.values[name]
            for name in self.task.parameters
        }

    def __str__(self) -> str:
        privileges = self.task.privileges
        described = (
            f"{name}={privileges[name]} {value}" if name in privileges else f"{name}={short(value)}"
            for name, value in self.arguments.items()
        )
        return f"{self.task.name}({', '.join(described)})"
