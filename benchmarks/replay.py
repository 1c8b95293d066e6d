"""What a token tree would have yielded, worked out from ranks alone.

The rank of an output token is how many tokens the SSM held likelier there. A tree that takes the k
likeliest continuations of every node of a level contains the LLM's token exactly where its rank is
below k; so one teacher-forced pass of the SSM tells the acceptance of every expansion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

WIDTHS = (1, 2, 3, 4, 5)
WIDE = (4, 2, 2, 2, 1, 1, 1, 1)


def expansion(width: int) -> tuple[int, ...]:
    """The paper's configuration (section 6.4): depth 8, ``width`` children at the third level."""
    return (1, 1, width, 1, 1, 1, 1, 1)


EXPANSIONS = (*map(expansion, WIDTHS), WIDE)


def label(widths: Sequence[int]) -> str:
    """An expansion as the paper writes it.

    >>> label((1, 1, 3))
    '<1,1,3>'
    """
    return f"<{','.join(map(str, widths))}>"


def replay(ranks: Sequence[int], widths: Sequence[int]) -> list[int]:
    """Tokens of each verification step of one request.

    The prefill gives the first token. Then each step accepts tokens for as long as the rank lies
    below the level's width, and the LLM adds one; what lies behind the output's end is not counted.

    Args:
        ranks: of every output token.
        widths: children of each node, by level.

    >>> replay([0, 0, 1, 0, 0, 0], (1, 2))
    [3, 2]
    """
    steps, position = [], 1
    while position < len(ranks):
        accepted = 0
        for rank, width in zip(ranks[position:], widths, strict=False):
            if rank >= width:
                break
            accepted += 1
        steps.append(min(accepted + 1, len(ranks) - position))
        position += steps[-1]
    return steps


def tokens_per_step(requests: Iterable[Sequence[int]], widths: Sequence[int]) -> float:
    """Tokens behind the prefill's over verification steps, pooled over requests."""
    steps = [tokens for ranks in requests for tokens in replay(ranks, widths)]
    return sum(steps) / len(steps) if steps else 0.0


def top(requests: Iterable[Sequence[int]], k: int) -> float:
    """How often the LLM's token is among the SSM's ``k`` likeliest.

    >>> top([[0, 1], [3, 0]], 2)
    0.75
    """
    ranks = [rank for request in requests for rank in request]
    return sum(rank < k for rank in ranks) / len(ranks) if ranks else 0.0
