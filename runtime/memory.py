"""Who holds how much of a memory, and an error that tells it when there is no more.

A memory is a name and a budget. It counts; what it counts is allocated elsewhere, after it was
asked. So a program that needs too much is told so in words, before the system ends it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from specinfer.runtime.arrays import HOST
from specinfer.runtime.errors import ConfigError, SpecInferError

LISTED = 5
"""Holders that an error names; the rest are summed up."""

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_UNITS = {
    **{unit: 1024**power for power, unit in enumerate(_BINARY)},
    **{unit: 1000**power for power, unit in enumerate(("B", "kB", "MB", "GB", "TB", "PB"))},
    "KB": 1000,  # often written so
}
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?) ?(?P<unit>[A-Za-z]+)", re.ASCII)


class HoldError(SpecInferError):
    """A memory told of something that cannot be; names the memory and the owner."""


class OutOfMemoryError(SpecInferError):
    """A memory asked for more than is left; says who asked, what is left, and who holds the rest.

    Attributes:
        memory: name of the memory.
        owner: who asked.
        asked: bytes asked for.
        left: bytes that were left.
        budget: of the memory, in bytes.
    """

    def __init__(
        self,
        memory: str,
        owner: str,
        asked: int,
        budget: int,
        holders: tuple[tuple[str, int], ...],
    ) -> None:
        self.memory = memory
        self.owner = owner
        self.asked = asked
        self.budget = budget
        self.left = budget - sum(num_bytes for _, num_bytes in holders)
        super().__init__(
            f"{memory}: {owner} asks for {human_size(asked)}, "
            f"but {human_size(self.left)} of {human_size(budget)} are left, "
            f"{human_size(asked - self.left)} too few; {_list(holders)}"
        )


@dataclass(slots=True)
class Memory:
    """Counts what is held of one memory. Not for several threads at once.

    Attributes:
        name: of the memory.
        budget_bytes: what may be held at once; None for no end.
        device: whose memory it is, as torch calls it.
        used: bytes held now.
        peak: the most that were held at once.

    Raises:
        HoldError: the budget is negative.

    >>> memory = Memory("cpu", 1000)
    >>> memory.hold("weights", 600)
    >>> memory.hold("cache", 500)
    Traceback (most recent call last):
    ...
    specinfer.runtime.memory.OutOfMemoryError: cpu: cache asks for 500 B, but 400 B of 1000 B are \
left, 100 B too few; held: weights 600 B
    """

    name: str
    budget_bytes: int | None = None
    device: str = HOST
    used: int = field(default=0, init=False)
    peak: int = field(default=0, init=False)
    _held: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.budget_bytes is not None and self.budget_bytes < 0:
            raise HoldError(f"{self.name}: budget is {self.budget_bytes} bytes, expected 0 or more")

    @property
    def left(self) -> int | None:
        """Bytes that may still be held; None for no end."""
        return None if self.budget_bytes is None else self.budget_bytes - self.used

    @property
    def holders(self) -> tuple[tuple[str, int], ...]:
        """Who holds how many bytes, the largest first; of equals, by name."""
        return tuple(sorted(self._held.items(), key=lambda item: (-item[1], item[0])))

    def hold(self, owner: str, num_bytes: int) -> None:
        """Count bytes as held by ``owner``, in addition to what it holds.

        Raises:
            OutOfMemoryError: they are more than is left; nothing has changed.
            HoldError: ``num_bytes`` is negative.
        """
        if num_bytes < 0:
            raise HoldError(f"{self.name}: {owner} asks for {num_bytes} bytes, expected 0 or more")
        if self.budget_bytes is not None and self.used + num_bytes > self.budget_bytes:
            raise OutOfMemoryError(self.name, owner, num_bytes, self.budget_bytes, self.holders)
        self._held[owner] = self._held.get(owner, 0) + num_bytes
        self.used += num_bytes
        self.peak = max(self.peak, self.used)

    def release(self, owner: str) -> int:
        """Count all that ``owner`` holds as free.

        Returns:
            How many bytes that were.

        Raises:
            HoldError: it holds nothing.
        """
        if owner not in self._held:
            raise HoldError(
                f"{self.name}: {owner} releases, but holds nothing; {_list(self.holders)}"
            )
        num_bytes = self._held.pop(owner)
        self.used -= num_bytes
        return num_bytes


def budgets_from(data: Mapping[str, Any], *, where: str = "memory") -> dict[str, int | None]:
    """Budgets in bytes of a mapping from YAML, by the name of the memory.

    A budget is a number of bytes, a size such as ``8 GB`` or ``1.5 GiB``, or null for no end.

    Raises:
        ConfigError: something else.

    >>> budgets_from({"cpu": "8 GB", "gpu": "70 GiB", "disk": None})
    {'cpu': 8000000000, 'gpu': 75161927680, 'disk': None}
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected a mapping of memories to sizes, got {data!r}")
    budgets: dict[str, int | None] = {}
    for name, size in data.items():
        if not isinstance(name, str):
            raise ConfigError(f"{where}: expected the name of a memory, got {name!r}")
        budgets[name] = None if size is None else _parse_size(size, f"{where}.{name}")
    return budgets


def human_size(num_bytes: int) -> str:
    """A size for people, in powers of 1024.

    >>> human_size(1000), human_size(1536), human_size(70 << 30)
    ('1000 B', '1.5 KiB', '70.0 GiB')
    """
    power = min(max(num_bytes.bit_length() - 1, 0) // 10, len(_BINARY) - 1)
    return f"{num_bytes / 1024**power:.{1 if power else 0}f} {_BINARY[power]}"


def _parse_size(size: object, here: str) -> int:
    if type(size) is int and size >= 0:
        return size
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None or found["unit"] not in _UNITS:
        raise ConfigError(
            f"{here}: expected bytes, or a size such as '8 GB' (units: {', '.join(_UNITS)}), "
            f"got {size!r}"
        )
    return int(Fraction(found["number"]) * _UNITS[found["unit"]])


def _list(holders: tuple[tuple[str, int], ...]) -> str:
    if not holders:
        return "nothing is held"
    listed = [f"{owner} {human_size(num_bytes)}" for owner, num_bytes in holders[:LISTED]]
    if rest := holders[LISTED:]:
        listed.append(f"{len(rest)} more {human_size(sum(num_bytes for _, num_bytes in rest))}")
    return f"held: {', '.join(listed)}"
