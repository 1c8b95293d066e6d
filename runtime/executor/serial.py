"""Runs each launch as it is issued, in program order: the meaning of every program."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from specinfer.runtime.dependence import LaunchId
from specinfer.runtime.launch import Launch


class SerialExecutor:
    """The oracle that every other executor must agree with."""

    def submit(
        self, id: LaunchId, launch: Launch, waits_for: Collection[LaunchId]
    ) -> Sequence[LaunchId]:
        """Run the launch now."""
        try:
            launch.run()
        except Exception as error:
            error.add_note(f"raised by launch {id}: {launch}")
            raise
        return (id,)

    def wait(self, ids: Collection[LaunchId] | None) -> None:
        """Return at once: everything submitted has run."""

    def close(self) -> None:
        """Do nothing."""
