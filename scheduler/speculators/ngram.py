"""Speculation by looking back: what followed the last few tokens when they stood there before.

Prompt and output of the request itself are searched, and a corpus of other texts if there is one.
So it costs no model, and pays where text repeats: edits of given code, summaries with quotes, a
corpus of what is written often. Several places make a tree.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count, groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specinfer.scheduler.speculators import Context
from specinfer.scheduler.speculators.suffixes import END, LONGEST, SuffixIndex
from specinfer.scheduler.step_cost import FREE, StepCost
from specinfer.scheduler.token_tree import TokenTree

CORPUS_PLACES = 64
"""Places of a corpus that are looked at: enough to count what follows."""


class _Place(NamedTuple):
    """Where the last tokens stood before.

    Attributes:
        agreement: how many of them.
        text: where that is.
        at: the token that follows them there.
    """

    agreement: int
    text: Sequence[int] | NDArray[np.int32]
    at: int


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
        max_places: places in the request's own text that are looked at, the latest.
        corpus: other texts to look at.

    Attributes:
        max_nodes: see above, as for all of these.
        min_match: tokens that must agree.
        max_places: places in the request's own text.
        corpus: other texts.
    """

    name = "ngram"

    def __init__(
        self,
        max_nodes: int = 16,
        min_match: int = 2,
        cost: StepCost = FREE,
        max_places: int = 8,
        corpus: SuffixIndex | None = None,
    ) -> None:
        self.max_nodes = max_nodes
        self.min_match = min_match
        self._cost = cost
        self.max_places = max_places
        self.corpus = corpus
        self._indices: dict[int, _Index] = {}

    def release(self, request: int) -> None:
        """Forget the index."""
        self._indices.pop(request, None)

    def draft(self, contexts: Sequence[Context]) -> list[TokenTree]:
        """The likeliest nodes of the paths behind all places."""
        drafts = []
        for context in contexts:
            places = self._places(context)
            most = context.limit(self.max_nodes)
            found = _grow(context.tokens[-1], places, context.max_depth, most)
            probabilities = [math.exp(log_prob) for log_prob in found.log_probs[1:]]
            size = self._cost.best_size(probabilities, len(contexts))
            drafts.append(found.restricted(range(1, 1 + size)))
        return drafts

    def accept(self, tokens: Mapping[int, Sequence[int]]) -> None:
        """Do nothing: the next context tells."""

    def _places(self, context: Context) -> list[_Place]:
        """Those that agree longest come first; of these the request's own, the latest first."""
        tokens, least = context.tokens, self.min_match
        index = self._indices.setdefault(context.request, _Index(least))
        index.extend(tokens)
        ends = index.ends.get(tuple(tokens[-least:]), [])[:-1]
        places = [
            _Place(_agreement(tokens, e), tokens, e) for e in ends[: -1 - self.max_places : -1]
        ]
        if (corpus := self.corpus) is not None:
            found = corpus.places(tokens, least, CORPUS_PLACES)
            places += [_Place(agreement, corpus.tokens, at) for agreement, at in found]
        return sorted(places, key=lambda place: -place.agreement)


def _grow(root: int, places: Sequence[_Place], max_depth: int, max_nodes: int) -> TokenTree:
    """The likeliest nodes behind places, the likeliest first, with the logarithms of how likely."""
    tree, order = TokenTree(root), count()
    waiting: list[tuple[float, int, int, int, list[_Place]]] = []

    def look_behind(node: int, reached: float, places: Sequence[_Place]) -> None:
        if tree.depths[node] < max_depth:
            for token, share, behind in _continuations(places):
                heappush(waiting, (-reached * share, next(order), node, token, behind))

    look_behind(0, 1.0, places)
    while waiting and len(tree) <= max_nodes:
        likely, _, parent, token, behind = heappop(waiting)
        node = tree.add(parent, token, math.log(-likely))
        look_behind(node, -likely, behind)
    return tree


def _continuations(places: Sequence[_Place]) -> Iterator[tuple[int, float, list[_Place]]]:
    """What follows, how likely each token is, and the places behind it.

    The places that agree longest are believed first; what is left to doubt is for them and those
    that agree in fewer tokens, and so on. Places that are believed alike share by counting.

    Args:
        places: by agreement, the longest first.
    """
    behind: dict[int, list[_Place]] = {}
    likely, counts = dict[int, float](), Counter[int]()
    left = 1.0
    for agreement, alike in groupby(places, key=lambda place: place.agreement):
        for _, text, at in alike:
            if at < len(text) and (token := int(text[at])) != END:
                behind.setdefault(token, []).append(_Place(agreement + 1, text, at + 1))
                counts[token] += 1
        if total := counts.total():
            belief = _belief(agreement, total, len(counts))
            for token, times in counts.items():
                likely[token] = likely.get(token, 0.0) + left * belief * times / total
            left *= 1 - belief
    return ((token, likely[token], found) for token, found in behind.items())


def _belief(agreement: int, places: int, tokens: int) -> float:
    """How often one of the tokens that follow some places follows again.

    One place is right the more often the longer it agrees (measured: docs/evaluation.md). Many
    places with few different tokens are, too, however short they agree: a new token comes as often
    as it did among them (Witten and Bell, "The zero-frequency problem", 1991).

    Args:
        agreement: tokens that all places agree in.
        places: how many.
        tokens: how many different ones follow them.

    >>> _belief(10, 1, 1), _belief(2, 1, 1), _belief(2, 59, 1), _belief(2, 59, 57)
    (0.9, 0.5, 0.9666666666666667, 0.5)
    """
    return max(1 - 1 / agreement, 1 / 4, (places - 1) / (places + tokens))


def _agreement(tokens: Sequence[int], place: int) -> int:
    """How many tokens before ``place`` equal the last ones.

    >>> _agreement([1, 2, 3, 9, 2, 3], 3)
    2
    """
    length = 0
    while length < min(LONGEST, place) and tokens[place - 1 - length] == tokens[-1 - length]:
        length += 1
    return length
