"""Where the K/V of a lane lie: committed tokens in pages, uncommitted nodes in scratch.

Plain arithmetic on numbers or arrays, for the references and for kernels.
"""

from __future__ import annotations

from typing import Any

from specinfer.ops.attention import PAGE_SLOTS


def committed(lane_pages: Any, lane: int, position: Any) -> Any:
    """The slot of a committed token.

    Args:
        lane_pages: (lanes, pages) page numbers.
        lane: whose token.
        position: of the token in its text.

    >>> import numpy as np
    >>> int(committed(np.array([[4, 9]]), 0, 17))
    145
    """
    return lane_pages[lane, position // PAGE_SLOTS] * PAGE_SLOTS + position % PAGE_SLOTS


def scratch(scratch_start: int, scratch_nodes: int, lane: int, node: Any) -> Any:
    """The slot of an uncommitted node; the root is node 0 and is never there.

    >>> scratch(64, 4, 1, 3)
    70
    """
    return scratch_start + lane * scratch_nodes + node - 1
