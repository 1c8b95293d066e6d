"""Who wants to know what a program says, in the order in which it says it.

Executors see operations. An observer is told what they are for: the launches, and what is no
launch. It changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from specinfer.runtime.binding import Binding
from specinfer.runtime.region import FieldKey
from specinfer.runtime.trace import Issued


class Observer(Protocol):
    """Is told by a runtime of everything that its program does.

    ``first`` is the number of the first operation that may belong to it: all operations from there
    on, up to the next thing told, do.
    """

    def launched(self, first: int, binding: Binding, *, is_predicated: bool) -> None:
        """A launch was issued, which may not run if it is predicated."""
        ...

    def replayed(self, first: int, issued: Sequence[Issued]) -> None:
        """The launches of a trace are issued again."""
        ...

    def said(self, first: int, what: str) -> None:
        """Something that is no launch, such as a read or a fence."""
        ...

    def exchanged(self, first: int, key: FieldKey) -> None:
        """A field has other memory from now on, the same on all ranks."""
        ...
