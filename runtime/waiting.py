"""Operations that make something known to the program: data that are complete, values of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from specinfer.runtime.dependence import Requirement
from specinfer.runtime.future import Future
from specinfer.runtime.index_space import ONE
from specinfer.runtime.machine import Machine
from specinfer.runtime.privilege import RW, WD


class Observation:
    """Does nothing, once everything before it has.

    Args:
        requirements: what it waits for.
        what: the same for people.
    """

    __slots__ = ("_what", "requirements")
    is_communication = False

    def __init__(self, requirements: Sequence[Requirement], what: object) -> None:
        self.requirements = requirements
        self._what = what

    def run(self) -> None:
        """Do nothing."""

    def bound(self) -> Callable[[], Any]:
        """The same as a plain function."""
        return self.run

    def as_of_now(self) -> Self:
        """The same."""
        return self

    def __str__(self) -> str:
        return f"read of {self._what}"


class Border(Observation):
    """Does nothing: all of a replay runs behind its start, and before its end.

    Args:
        what: which of them it is.
    """

    __slots__ = ()

    def __init__(self, what: str) -> None:
        super().__init__((), what)

    def __str__(self) -> str:
        return f"{self._what} of a replay"


class ValueMove:
    """Sends the value of a future from a rank that has it to all others."""

    __slots__ = ("_future", "_machine", "_root", "requirements")
    is_communication = True

    def __init__(self, machine: Machine, future: Future) -> None:
        self._machine = machine
        self._future = future
        self._root = (future.ranks & -future.ranks).bit_length() - 1
        # Who receives it sees nothing of what was there before.
        privilege = RW if self._root in machine.ranks else WD
        self.requirements = (Requirement(future.key, ONE, privilege),)

    def run(self) -> None:
        """Send or receive it."""
        for value in self._machine.send_value(self._future.packed(), self._root):
            self._future.put(value)

    def bound(self) -> Callable[[], Any]:
        """The same as a plain function."""
        return self.run

    def as_of_now(self) -> Self:
        """The same."""
        return self

    def __str__(self) -> str:
        return f"value of launch {self._future.launch}"
