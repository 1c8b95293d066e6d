"""Speculation by looking back: what followed the last few tokens when they stood there before.

Prompt and output of the request itself are searched, so it costs no model and pays where text
repeats: edits of given code, summaries with quotes. Several earlier places make a tree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from specinfer.scheduler.speculators import Context
from specinfer.scheduler.token_tree import TokenTree


@dataclass(slots=True)
class _Index:
    """Where each run of ``size`` tokens ended, latest last."""

    size: int
    num_tokens: int = 0
    ends: defaultdict[tuple[int, ...], list[int]] = field(default_factory=lambda: defaultdict(list))

    def extend(self, tokens: Sequence[int]) -> None:
        for end in range(max(self.num_tokens + 1, self.size), len(tokens) + 1):
            self.ends[tuple(tokens[end - self.size : end])].append(end)
        self.num_tokens = len(tokens)


class NGramSpeculator:
    """Proposes what followed earlier occurrences of the request's last tokens.

    Args:
        max_nodes: most nodes of a tree, the root not counted.
        min_match: tokens that must agree.
        max_places: earlier places looked at, the latest first; those that agree longest come first.
        trust: tokens proposed for each token that agrees: a long match is worth a long guess.
    """

    name = "ngram"

    def __init__(
        self, max_nodes: int = 12, min_match: int = 2, max_places: int = 8, trust: float = 2.0
    ) -> None:
        self.max_nodes = max_nodes
        self._min_match = min_match
        self._max_places = max_places
        self._trust = trust
        self._indices: dict[int, _Index] = {}

    def admit(self, request: int, tokens: int) -> bool:
        """Start an index; there is always room."""
        self._indices[request] = _Index(self._min_match)
        return True

    def release(self, request: int) -> None:
        """Forget the index."""
        del self._indices[request]

    def draft(self, contexts: Sequence[Context]) -> list[TokenTree]:
        """A path for each earlier place, as far as the budget goes."""
        return [self._tree(context) for context in contexts]

    def accept(self, tokens: Mapping[int, Sequence[int]]) -> None:
        """Do nothing: the next context tells."""

    def _tree(self, context: Context) -> TokenTree:
        tokens = context.tokens
        tree = TokenTree(tokens[-1])
        index = self._indices[context.request]
        index.extend(tokens)
        places = index.ends.get(tuple(tokens[-self._min_match :]), [])[:-1][-self._max_places :]
        matches = [(_agreement(tokens, place), place) for place in places]
        for agreement, place in sorted(matches, reverse=True):
            length = min(context.max_depth, int(agreement * self._trust))
            node = 0
            for token in tokens[place : place + length]:
                if len(tree) > self.max_nodes and tree.child(node, token) is None:
                    return tree
                node = tree.add(node, token)
        return tree


def _agreement(tokens: Sequence[int], place: int, limit: int = 32) -> int:
    """How many tokens before ``place`` equal the last ones, up to ``limit``.

    >>> _agreement([1, 2, 3, 9, 2, 3], 3)
    2
    """
    length = 0
    while length < min(limit, place) and tokens[place - 1 - length] == tokens[-1 - length]:
        length += 1
    return length
