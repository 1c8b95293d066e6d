"""Keeps the launches and their dependences instead of running them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import networkx as nx

from specinfer.runtime.dependence import LaunchId
from specinfer.runtime.executor import Failure, Operation
from specinfer.runtime.poison import PoisonedData


class RecordingExecutor:
    """Runs nothing; ``graph`` has a node for each launch and an edge for each dependence found.

    Nothing ever finishes here, so the graph shows all that a launch depends on, however far back.
    """

    is_in_order = False

    def __init__(self) -> None:
        self.poisoned = PoisonedData()
        self.graph = nx.DiGraph()

    def submit(
        self, id: LaunchId, operation: Operation, waits_for: Collection[LaunchId]
    ) -> Sequence[LaunchId]:
        """Add the launch to the graph."""
        self.graph.add_node(id, launch=operation)
        self.graph.add_edges_from((earlier, id) for earlier in sorted(waits_for))
        return ()

    def wait(self, ids: Collection[LaunchId] | None) -> None:
        """Return at once: there is nothing to wait for."""

    def take_failures(self) -> list[Failure]:
        """None: nothing ran."""
        return []

    def close(self) -> None:
        """Do nothing."""
