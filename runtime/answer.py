"""What a mapper answered, as ranks compare it: where a launch runs, and how its data are moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from specinfer.runtime.lowering import Part
from specinfer.runtime.placement import Transfer, members

PLACE = "where it runs"
MEANS = "how data are moved for it"
"""Names under which answers are compared with the arguments."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A transfer, and how it is done.

    Attributes:
        transfer: what moves.
        num_bytes: that move, to all ranks together.
        as_messages: whether as a set of messages; else with a collective, if there is one.
    """

    transfer: Transfer
    num_bytes: int
    as_messages: bool

    def __str__(self) -> str:
        means = " as messages" if self.as_messages else ""
        return f"{self.transfer.kind} of {self.num_bytes} bytes of {self.transfer.key[1]}{means}"


@dataclass(frozen=True, slots=True)
class Answer:
    """To the questions that are asked for one launch, or for a read.

    Attributes:
        parts: who runs what; none for a read.
        deliveries: what moves before, in order.
    """

    parts: Sequence[Part]
    deliveries: Sequence[Delivery]

    def texts(self) -> tuple[tuple[str, str], ...]:
        """What ranks compare, by name; the same on all ranks where the answers are."""
        place, means = placement_text(self.parts), "; ".join(map(str, self.deliveries))
        return tuple((name, text) for name, text in ((PLACE, place), (MEANS, means)) if text)

    def fingerprint(self) -> bytes:
        """What stands for it in digests."""
        text = "\0".join(text for _, text in self.texts())
        return blake2b(text.encode(), digest_size=8).digest()


def placement_text(parts: Sequence[Part]) -> str:
    """Where the parts of a launch run."""
    described = []
    for part in parts:
        at = "it " if part.point.colour is None else f"point {part.point.colour} "
        spaces = " ".join(f"{name}{space}" for name, space in part.spaces.items())
        partial = f" parts of {','.join(sorted(part.partial))}" if part.partial else ""
        described.append(f"{at}on ranks {members(part.ranks)} with {spaces}{partial}")
    return "; ".join(described)
