"""Executors carry out launches; the seam between deciding and acting.

``serial`` is the oracle: it runs each launch as it is issued. ``threads`` runs launches without
dependences between them at once. ``record`` runs nothing and keeps the task graph to look at.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from specinfer.runtime.dependence import LaunchId
from specinfer.runtime.launch import Launch


class Executor(Protocol):
    """Runs launches in any order that keeps their dependences."""

    def submit(
        self, id: LaunchId, launch: Launch, waits_for: Collection[LaunchId]
    ) -> Sequence[LaunchId]:
        """Take a launch that may run once all of ``waits_for`` have.

        Returns:
            The launches that have finished and were not reported before.
        """
        ...

    def wait(self, ids: Collection[LaunchId] | None) -> None:
        """Return when these launches (default all) have finished; raise what a task raised."""
        ...

    def close(self) -> None:
        """Stop, and give back threads or other resources."""
        ...
