"""Finds where a text's last tokens stand in a large corpus, those places first that agree longest.

The index is a suffix array of the corpus read backwards: its places, sorted by the tokens before
them. All places behind the same last tokens lie together, so one more token of agreement is one
binary search in what is left. Sorting is by prefix doubling (Manber and Myers, "Suffix arrays: a
new method for on-line string searches", SODA 1990), up to the :data:`LONGEST` tokens that matter.
An index has 12 bytes a token, and takes about a second a million tokens to make.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LONGEST = 32
"""Tokens beyond which agreement is not counted."""
END = -1
"""Stands between texts: nothing agrees with it."""


class SuffixIndex:
    """Of texts.

    Args:
        texts: token ids.

    Attributes:
        tokens: all texts; :data:`END` before, between and behind them.

    >>> index = SuffixIndex([[1, 2, 3, 4], [9, 2, 3, 5]])
    >>> places = index.places([7, 9, 2, 3], least=1, most=8)
    >>> [(agreement, int(index.tokens[place])) for agreement, place in places]
    [(3, 5), (2, 4)]
    """

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        parts = [np.array([END], np.int32)]
        for text in texts:
            parts += [np.asarray(text, np.int32), parts[0]]
        joined = np.concatenate(parts)
        self.tokens: NDArray[np.int32] = joined
        self._order = _sorted_by_what_is_before(joined)

    def __len__(self) -> int:
        """Tokens of all texts."""
        return int((self.tokens != END).sum())

    def places(self, text: Sequence[int], least: int, most: int) -> list[tuple[int, int]]:
        """Where the last tokens of ``text`` stood before something else.

        Args:
            text: whose last tokens are looked for.
            least: tokens that must agree.
            most: places; of more that agree alike, some that lie evenly in the index.

        Returns:
            With each place in :attr:`tokens` how many tokens before it agree, the longest first.
        """
        ranges = self._ranges(text[-LONGEST:])
        found: list[tuple[int, int]] = []
        inner = (0, 0)
        for length in range(len(ranges), least - 1, -1):
            low, high = ranges[length - 1]
            # What agrees longer is found already, and lies within.
            new = [i for i in _spread(low, high, most) if not inner[0] <= i < inner[1]]
            found += [(length, int(self._order[i])) for i in new[: most - len(found)]]
            inner = (low, high)
            if len(found) >= most:
                break
        return found

    def _ranges(self, text: Sequence[int]) -> list[tuple[int, int]]:
        """By number of tokens that agree, from 1: the part of the index where so many do."""
        tokens, order = self.tokens, self._order
        low, high = 0, len(order)
        ranges: list[tuple[int, int]] = []
        for back, token in enumerate(reversed(text), start=1):

            def before(place: int, back: int = back) -> int:
                return int(tokens[place - back])

            low = bisect_left(order, token, low, high, key=before)
            high = bisect_left(order, token + 1, low, high, key=before)
            if low == high:
                break
            ranges.append((low, high))
        return ranges


def _sorted_by_what_is_before(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    """Places with a token at them, by the token before, the one before that and so on.

    Places that agree in :data:`LONGEST` tokens keep their order.
    """
    # ranks[i]: of place i + 1, by the tokens before it.
    ranks = np.unique(tokens, return_inverse=True)[1].astype(np.int64)
    length = 1
    while length < LONGEST:
        pairs = ranks * (len(tokens) + 1)
        pairs[length:] += ranks[:-length] + 1
        ranks = np.unique(pairs, return_inverse=True)[1].astype(np.int64)
        length *= 2
    order = np.argsort(ranks, kind="stable") + 1
    places: NDArray[np.int32] = order[np.append(tokens, END)[order] != END].astype(np.int32)
    return places


def _spread(low: int, high: int, most: int) -> Sequence[int]:
    """All of a range, or some of it that lie evenly.

    >>> list(_spread(4, 7, 8)), list(_spread(0, 100, 4))
    ([4, 5, 6], [0, 25, 50, 75])
    """
    if high - low <= most:
        return range(low, high)
    return [low + i * (high - low) // most for i in range(most)]
