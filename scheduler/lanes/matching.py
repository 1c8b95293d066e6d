"""The task that guesses what follows in each lane from where its last tokens stood before.

The trees are those of :class:`~specinfer.scheduler.speculators.ngram.NGramSpeculator`, node for
node, in another way. It looks at few *places*, each the position of a token that followed the
lane's last tokens before. A place goes down one path of the tree: whoever knows the depth knows the
token. So all that waits to become a node is a partition of the places: a *group* for each
candidate, those places that are behind its token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from specinfer.ops.kernels.numba_cuda import launch, threads_for
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.task import task
from specinfer.scheduler.speculators.suffixes import LONGEST

IntArray = NDArray[np.int64]

MOST_PLACES = 32
"""That a kernel looks at in a lane."""
MOST_MATCHING = 1024
"""Threads of a block that looks for places."""


@task(length=R, text=R, tokens=WD, parents=WD, count=WD, pure=True)
def match_text(
    length: Tensor,
    text: Tensor,
    tokens: Tensor,
    parents: Tensor,
    count: Tensor,
    min_match: int,
    max_places: int,
    max_depth: int,
) -> None:
    """Draw the likeliest nodes behind the latest places, as many as there is room for.

    Args:
        length: (lanes,) tokens of the text; 0: the lane is empty.
        text: (lanes, context) token ids.
        tokens: (lanes, capacity) written, the root first; 0 for nodes that are not in use.
        parents: (lanes, capacity) written; -1 for the root and for nodes that are not in use.
        count: (lanes,) written: nodes in use, 0 where the lane is empty.
        min_match: last tokens that must have stood before a place.
        max_places: places that are looked at, the latest; at most :data:`MOST_PLACES`.
        max_depth: most levels of a tree.
    """
    texts, nodes, above = text.numpy(), tokens.numpy(), parents.numpy()
    nodes[:] = 0
    above[:] = -1
    for lane, end in enumerate(length.tolist()):
        count[lane] = 0
        if end:
            own = texts[lane, :end]
            found = _Growth(own, *_places(own, min_match, max_places), max_depth)
            nodes[lane, 0] = own[-1]
            used = 1
            while used < nodes.shape[1] and (grown := found.next()) is not None:
                above[lane, used], nodes[lane, used] = grown
                used += 1
            count[lane] = used


def _places(text: IntArray, least: int, most: int) -> tuple[IntArray, IntArray]:
    """The places, and how many tokens before them agree; longest first, of these the latest."""
    end = len(text)
    if end <= least:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    runs = np.lib.stride_tricks.sliding_window_view(text[:-1], least)
    at = least + np.flatnonzero((runs == text[-least:]).all(axis=1))[::-1][:most]
    agreement = np.zeros(len(at), np.int64)
    for i, place in enumerate(at):
        longest = min(LONGEST, place)
        differs = text[place - longest : place] != text[end - longest :]
        agreement[i] = np.argmax(differs[::-1]) if differs.any() else longest
    order = np.argsort(-agreement, kind="stable")
    return at[order], agreement[order]


@dataclass(slots=True)
class _Group:
    """A candidate: what follows some places that went the same way.

    Attributes:
        likely: that it is right.
        parent: the node above.
        depth: of itself.
        token: that it would have.
        members: the places behind it.
    """

    likely: float
    parent: int
    depth: int
    token: int
    members: list[int]


class _Growth:
    """Nodes of a tree, the likeliest first; of those that are as likely, the one found first."""

    def __init__(self, text: IntArray, at: IntArray, agreement: IntArray, max_depth: int) -> None:
        self._text, self._at, self._agreement = text, at, agreement
        self._max_depth = max_depth
        self._grown = 0
        self._waiting = self._behind(_Group(1.0, -1, 0, -1, list(range(len(at)))), 0)

    def next(self) -> tuple[int, int] | None:
        """Parent and token of the next node."""
        if not self._waiting:
            return None
        likeliest = max(self._waiting, key=lambda group: group.likely)
        self._waiting.remove(likeliest)
        self._grown += 1
        self._waiting += self._behind(likeliest, self._grown)
        return likeliest.parent, likeliest.token

    def _behind(self, group: _Group, node: int) -> list[_Group]:
        """The candidates behind a group that has become a node."""
        if group.depth == self._max_depth:
            return []
        follows = {
            i: int(self._text[self._at[i] + group.depth])
            for i in group.members
            if self._at[i] + group.depth < len(self._text)
        }
        agreements = {i: int(self._agreement[i]) + group.depth for i in group.members}
        likely = dict.fromkeys(follows.values(), 0.0)
        left = 1.0
        for agreement in sorted(set(agreements.values()), reverse=True):
            # What agrees less is believed as far as there is doubt, together with what agrees more.
            seen = [token for i, token in follows.items() if agreements[i] >= agreement]
            if not seen:
                continue
            places, tokens = len(seen), len(set(seen))
            belief = max(1 - 1 / agreement, 1 / 4, (places - 1) / (places + tokens))
            for token in set(seen):
                likely[token] += left * belief * seen.count(token) / places
            left *= 1 - belief
        return [
            _Group(
                group.likely * likely[token],
                node,
                group.depth + 1,
                token,
                [i for i, other in follows.items() if other == token],
            )
            for token in likely
        ]


@match_text.variant("cuda")
def _match_text_on_gpu(
    length: Tensor,
    text: Tensor,
    tokens: Tensor,
    parents: Tensor,
    count: Tensor,
    min_match: int,
    max_places: int,
    max_depth: int,
) -> None:
    from specinfer.scheduler.lanes import matching_kernels as kernels

    tables: list[Tensor | int] = [length, text, tokens, parents, count]
    threads = threads_for(max(text.shape[1], tokens.shape[1]), MOST_MATCHING)
    launch(kernels.match_text, len(length), threads, [*tables, min_match, max_places, max_depth])
