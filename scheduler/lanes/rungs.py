"""How much of the largest trees an iteration draws and verifies: a few sizes, each within the next.

A *share* is what one drafter draws on a rung: of an SSM the children of each node by level, of
n-grams the most nodes. Children are ranked, and n-grams find the likeliest nodes first, so what a
smaller share draws is a part of what a larger one draws. Therefore what was accepted on one rung
tells what every rung below would have accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

from specinfer.scheduler.late_tree import FlatTree
from specinfer.scheduler.speculators.ssm import level_sizes

Share = tuple[int, ...] | int
"""Widths of an SSM's levels, or nodes of n-grams."""


@dataclass(frozen=True, slots=True)
class Rung:
    """What all drafters draw.

    Attributes:
        shares: one for each drafter; empty or 0: it draws nothing.
        deepest: most levels of n-grams.

    >>> Rung(((2, 1), 8), deepest=4).nodes, Rung(((2, 1), 8), deepest=4).depth
    (12, 4)
    """

    shares: tuple[Share, ...]
    deepest: int

    @property
    def nodes(self) -> int:
        """Most nodes of a lane's tree, the root not counted."""
        return sum(
            share if isinstance(share, int) else sum(level_sizes(share))
            for share in self.shares
            if share
        )

    @property
    def depth(self) -> int:
        """Most levels of it."""
        levels = [min(s, self.deepest) if isinstance(s, int) else len(s) for s in self.shares]
        return max(levels, default=0)

    @property
    def levels(self) -> int:
        """Steps of SSMs."""
        return sum(len(share) for share in self.shares if isinstance(share, tuple))


def rungs_of(full: Rung) -> tuple[Rung, ...]:
    """The rungs up to the full trees; the first one draws nothing.

    SSMs draw a short chain, a chain, a tree of middle size, and all. Beside them n-grams, which
    cost no model, draw on a rung more.

    >>> [rung.shares for rung in rungs_of(Rung(((3, 2, 1, 1),), 4))]
    [((),), ((1, 1),), ((1, 1, 1, 1),), ((2, 1, 1, 1),), ((3, 2, 1, 1),)]
    >>> [rung.shares for rung in rungs_of(Rung((16,), 16))]
    [(0,), (4,), (8,), (16,)]
    >>> [rung.shares for rung in rungs_of(Rung(((2,), 16), 8))]
    [((), 0), ((), 8), ((1,), 8), ((2,), 16)]
    >>> rungs_of(Rung((), 0))
    (Rung(shares=(), deepest=0),)
    """
    kinds = {type(share) for share in full.shares}
    stages: list[tuple[int, float]] = [(0, 0)]  # of an SSM, and which part of its n-grams
    if kinds == {int}:
        stages += [(0, 1 / 4), (0, 1 / 2), (0, 1)]
    else:
        stages += [(0, 1 / 2)] * (int in kinds)
        stages += [(1, 1 / 2), (2, 1 / 2), (3, 1 / 2), (4, 1)]
    found = [
        tuple(
            -int(-share * part // 1) if isinstance(share, int) else _stage(share, stage)
            for share in full.shares
        )
        for stage, part in stages
    ]
    return tuple(Rung(shares, full.deepest) for shares in dict.fromkeys(found))


def _stage(expansion: tuple[int, ...], stage: int) -> tuple[int, ...]:
    """Nothing, a third of a chain, a chain, a tree between, or the whole tree.

    The tree between has about as many times the nodes of the chain as it has of the whole tree's;
    it is wide where it begins.
    """
    depth = len(expansion)
    chain = (1,) * depth
    if stage < 2:
        return chain[: stage * -(-depth // 3)]
    if stage == 4:
        return expansion
    between = list(chain)
    most = isqrt(depth * sum(level_sizes(expansion))) if stage == 3 else depth
    for level, width in enumerate(expansion):
        while between[level] < width:
            between[level] += 1
            if sum(level_sizes(between)) > most:
                between[level] -= 1
                return tuple(between)
    return tuple(between)


def yields(
    rungs: Sequence[Rung], at: int, drafts: Sequence[FlatTree], accepted: Sequence[int]
) -> list[int]:
    """Tokens that each rung up to the one that was drawn would have given, the LLM's among them.

    Args:
        rungs: all of them.
        at: the one that was drawn.
        drafts: of each drafter.
        accepted: tokens of the tree.

    >>> rungs = rungs_of(Rung(((2, 2),), 2))
    >>> [rung.shares for rung in rungs]
    [((),), ((1,),), ((1, 1),), ((2, 2),)]
    >>> tree = FlatTree([0, 5, 6, 7, 8, 9, 4], [-1, 0, 0, 1, 1, 2, 2])
    >>> yields(rungs, 3, [tree], [5, 8]), yields(rungs, 3, [tree], [6])
    ([1, 2, 2, 3], [1, 1, 1, 2])
    """
    found = [1] * at + [1 + len(accepted)]
    if not accepted:
        return found
    for number, draft in enumerate(drafts):
        path = _path(draft, accepted)
        drawn = rungs[at].shares[number]
        for rung in range(at):
            reached = _reached(rungs[rung].shares[number], drawn, path)
            found[rung] = max(found[rung], 1 + reached)
    return found


def _path(draft: FlatTree, tokens: Sequence[int]) -> list[int]:
    """The nodes of a draft along these tokens, as far as it has them."""
    path: list[int] = []
    node, behind = 0, 1
    for token in tokens:
        for child in range(behind, len(draft.tokens)):
            if draft.tokens[child] == token and draft.parents[child] == node:
                path.append(child)
                node, behind = child, child + 1
                break
        else:
            break
    return path


def _reached(share: Share, drawn: Share, path: Sequence[int]) -> int:
    """How many nodes of a path a smaller share has, too."""
    if isinstance(share, int):
        return sum(node <= share for node in path)
    assert isinstance(drawn, tuple)
    first, frontier = 1, 1
    for depth, (node, width) in enumerate(zip(path, drawn, strict=False)):
        if depth == len(share) or (node - first) % width >= share[depth]:
            return depth
        frontier *= width
        first += frontier
    return len(path)
