"""Boost-tuning as a pure state: which prompts are still to be learned, and by which SSM.

Source: Miao et al., SpecInfer, ASPLOS 2024, section 3: all prompts where the SSM and the LLM write
identical subsequent tokens are marked, and the next SSM is tuned on those that are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Truths = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Boosting:
    """What has been learned so far.

    Attributes:
        num_prompts: all there are.
        marked: by SSM so far, the prompts of its pool that it reproduces, ascending.
    """

    num_prompts: int
    marked: tuple[tuple[int, ...], ...] = ()

    @property
    def pool(self) -> list[int]:
        """Prompts that no SSM reproduces: the next one's.

        >>> Boosting(5).learned([True, False, False, True, False]).pool
        [1, 2, 4]
        """
        covered = {prompt for prompts in self.marked for prompt in prompts}
        return [prompt for prompt in range(self.num_prompts) if prompt not in covered]

    def learned(self, is_reproduced: Sequence[bool] | Truths) -> Boosting:
        """The state behind the next SSM.

        Args:
            is_reproduced: for each prompt of the pool, in order.
        """
        pairs = zip(self.pool, is_reproduced, strict=True)
        return replace(self, marked=(*self.marked, tuple(p for p, is_same in pairs if is_same)))

    def lesson(self, keep: float, seed: int) -> list[int]:
        """What the next SSM is trained on: the pool, and a share of the marked prompts.

        Args:
            keep: share of the marked prompts, so that they count less and not nothing; 0 is the
                paper's.
            seed: of the choice.
        """
        pool = self.pool
        others = np.setdiff1d(np.arange(self.num_prompts), pool)
        chance = np.random.default_rng((seed, len(self.marked)))
        kept = chance.choice(others, round(keep * len(others)), replace=False)
        return sorted([*pool, *kept.tolist()])


def is_reproduced(ranks: NDArray[np.int32], first: int, share: float) -> bool:
    """Whether an SSM reproduces an output.

    Behind equal tokens the SSM's likeliest is what it would write, so ranks from reading along tell
    whether it writes the same.

    Args:
        ranks: of the output's tokens; 0 is the SSM's likeliest.
        first: how many tokens count; 0: all.
        share: how many of these must be the SSM's likeliest; 1 is the paper's.

    >>> ranks = np.array([0, 0, 3, 0], np.int32)
    >>> is_reproduced(ranks, 2, 1.0), is_reproduced(ranks, 0, 1.0), is_reproduced(ranks, 0, 0.75)
    (True, False, True)
    """
    counted = ranks[: first or None]
    return not len(counted) or bool((counted == 0).mean() >= share)


def tokens_of_steps(
    ranks: Sequence[NDArray[np.int32]], expansions: Sequence[Sequence[int]]
) -> list[int]:
    """Tokens of each verification step of one output, for merged trees of several SSMs.

    The first token comes with the prompt. Then each step accepts the longest path that one of the
    trees has, and the LLM adds a token.

    Args:
        ranks: by SSM, of every output token.
        expansions: by SSM, children of each node by level.

    >>> a, b = np.array([0, 0, 1, 0, 0]), np.array([0, 1, 0, 0, 0])
    >>> tokens_of_steps([a], [(1, 1)]), tokens_of_steps([a, b], [(1, 1), (1, 1)])
    ([2, 2], [2, 2])
    >>> tokens_of_steps([a], [(2, 2)])
    [3, 1]
    """
    steps, place, length = [], 1, len(ranks[0])
    while place < length:
        depth = max(
            _depth(own[place : place + len(widths)], widths)
            for own, widths in zip(ranks, expansions, strict=True)
        )
        steps.append(min(depth + 1, length - place))
        place += steps[-1]
    return steps


def _depth(ranks: NDArray[np.int32], widths: Sequence[int]) -> int:
    for depth, (rank, width) in enumerate(zip(ranks.tolist(), widths, strict=False)):
        if rank >= width:
            return depth
    return len(ranks)
