"""Speculation by looking back: what followed the last few tokens when they stood there before.

Prompt and output of the request itself are searched, so it costs no model and pays where text
repeats: edits of given code, summaries with quotes. Several earlier places make a tree.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from specinfer.scheduler.speculators import Context
from specinfer.scheduler.step_cost import FREE, StepCost
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

    Of all nodes found, the likeliest are proposed, as many as their verification is worth.

    Args:
        max_nodes: most nodes of a tree, the root not counted.
        min_match: tokens that must agree.
        cost: of a verification step by its rows.
        max_places: earlier places looked at, the latest first; those that agree longest come first.
    """

    name = "ngram"

    def __init__(
        self, max_nodes: int = 16, min_match: int = 2, cost: StepCost = FREE, max_places: int = 8
    ) -> None:
        self.max_nodes = max_nodes
        self._min_match = min_match
        self._cost = cost
        self._max_places = max_places
        self._indices: dict[int, _Index] = {}

    def admit(self, request: int, tokens: int) -> bool:
        """Start an index; there is always room."""
        self._indices[request] = _Index(self._min_match)
        return True

    def release(self, request: int) -> None:
        """Forget the index."""
        del self._indices[request]

    def draft(self, contexts: Sequence[Context]) -> list[TokenTree]:
        """The likeliest nodes of the paths behind all earlier places."""
        drafts = []
        for context in contexts:
            found = self._find(context)
            likeliest = sorted(range(1, len(found)), key=lambda n: -found.log_probs[n])
            likeliest = likeliest[: self.max_nodes]
            probabilities = [math.exp(found.log_probs[node]) for node in likeliest]
            size = self._cost.best_size(probabilities, len(contexts))
            drafts.append(found.restricted(sorted(likeliest[:size])))
        return drafts

    def accept(self, tokens: Mapping[int, Sequence[int]]) -> None:
        """Do nothing: the next context tells."""

    def _find(self, context: Context) -> TokenTree:
        """Every path, as far as it may be right, with estimated log-probabilities."""
        tokens = context.tokens
        tree = TokenTree(tokens[-1])
        index = self._indices[context.request]
        index.extend(tokens)
        places = index.ends.get(tuple(tokens[-self._min_match :]), [])[:-1][-self._max_places :]
        matches = [(_agreement(tokens, place), place) for place in places]
        length = min(context.max_depth, self.max_nodes)
        for agreement, place in sorted(matches, reverse=True):
            node = 0
            for depth, token in enumerate(tokens[place : place + length]):
                child = tree.child(node, token)
                if child is None:
                    reached = math.exp(tree.log_probs[node])
                    claimed = sum(math.exp(tree.log_probs[c]) for c in tree.children(node))
                    # Always less than what the parent has: a node is never kept without it.
                    left = max(reached - claimed, LEAST * reached)
                    likely = left * _confidence(agreement + depth)
                    child = tree.add(node, token, math.log(likely))
                node = child
        return tree


def _confidence(agreement: int) -> float:
    """How often the next token is the same behind places that agree in so many tokens.

    Fits a small model's greedy outputs, and is too sure of a larger one's behind long matches
    (measured: docs/evaluation.md).
    """
    return max(1 - 1 / agreement, 1 / 4)


LEAST = 0.01
"""The share that is left to a path whose probability others have claimed."""


def _agreement(tokens: Sequence[int], place: int, limit: int = 32) -> int:
    """How many tokens before ``place`` equal the last ones, up to ``limit``.

    >>> _agreement([1, 2, 3, 9, 2, 3], 3)
    2
    """
    length = 0
    while length < min(limit, place) and tokens[place - 1 - length] == tokens[-1 - length]:
        length += 1
    return length
