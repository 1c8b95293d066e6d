"""Versions: values as the list of those that made them.

A version is what a task wrote, or a reduction: a version that it started from, an operator, and the
contributions folded into it, each as often as it was. Equal versions have equal numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

NOTHING = 0
"""What a part of a reduction starts from."""
GARBAGE = 1
"""What is in memory that nobody ever wrote."""


@dataclass(frozen=True, slots=True)
class _Sum:
    base: int
    op: str
    parts: tuple[int, ...]


class Versions:
    """All versions of a program, by number.

    Attributes:
        failed: those that a task should have made which failed.
    """

    def __init__(self) -> None:
        self.failed: set[int] = set()
        self._numbers: dict[Hashable, int] = {}
        self._made: list[tuple[str, _Sum | None]] = []
        self._named(("nothing",), "nothing")
        self._named(("garbage",), "memory that was never written")

    def written(self, key: Hashable, text: str) -> int:
        """What one writes; the same key is the same version."""
        return self._named(("written", key), text)

    def folded(self, base: int, op: str, parts: Sequence[int]) -> int:
        """A version with more contributions, which were versions themselves."""
        known = self._made[base][1]
        if known is not None and known.op == op:
            base, parts = known.base, (*known.parts, *parts)
        made = _Sum(base, op, tuple(sorted(parts)))
        if not made.parts and made.base != NOTHING:
            return made.base
        if made not in self._numbers:
            self._numbers[made] = len(self._made)
            self._made.append(("", made))
            if self.failed.intersection((made.base, *made.parts)):
                self.failed.add(self._numbers[made])
        return self._numbers[made]

    def parts(self, version: int, op: str) -> tuple[int, ...]:
        """What a rank's part of a reduction with this operator holds."""
        made = self._made[version][1]
        if made is None or made.base != NOTHING or made.op != op:
            return (version,)
        return made.parts

    def precedes(self, one: int, other: int) -> bool:
        """Whether only contributions lack: a reduction in progress."""
        made, earlier = self._made[other][1], self._made[one][1]
        if one == other or (made is not None and made.base == one):
            return True
        if made is None or earlier is None or (made.base, made.op) != (earlier.base, earlier.op):
            return False
        return not Counter(earlier.parts) - Counter(made.parts)

    def text(self, version: int) -> str:
        """What it is, for people."""
        text, made = self._made[version]
        if made is None:
            return text
        parts = [self.text(part) for part in made.parts]
        base = "" if made.base == NOTHING else f"{self.text(made.base)} and "
        return f"{base}the reduction ({made.op}) of {', '.join(parts) or 'nothing'}"

    def difference(self, found: int, expected: int) -> str:
        """What is wrong with a version."""
        one, other = self._made[found][1], self._made[expected][1]
        base = found if one is None else one.base
        expected_base = expected if other is None else other.base
        op = None if other is None else other.op
        if base != expected_base or (one is not None and one.op != op):
            return f"found {self.text(found)}, expected {self.text(expected)}"
        have = Counter(() if one is None else one.parts)
        want = Counter(() if other is None else other.parts)
        said = []
        if lacking := sorted(want - have):
            said.append(f"lacks the contribution of {', '.join(map(self.text, lacking))}")
        for part in sorted(have - want):
            how = f"{have[part]} times" if part in want else "which is none of it"
            said.append(f"has the contribution of {self.text(part)}, {how}")
        return " and ".join(said)

    def _named(self, key: Hashable, text: str) -> int:
        if key not in self._numbers:
            self._numbers[key] = len(self._made)
            self._made.append((text, None))
        return self._numbers[key]
