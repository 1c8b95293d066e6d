"""Which K/V slots belong to whom: pages for committed tokens, scratch for uncommitted nodes.

Plain numbers, no memory. A request that is admitted holds the pages of its longest possible text
and a fixed range of scratch slots until it leaves, so that no step can run out of either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specinfer.ops.attention import PAGE_SLOTS


@dataclass(frozen=True, slots=True)
class _Holding:
    pages: NDArray[np.int64]
    scratch: int


class KVSlots:
    """Hands out the slots of one model's K/V pool.

    Args:
        requests: requests that can be admitted at once.
        tokens: committed tokens that there is room for, over all requests.
        nodes: uncommitted nodes of one request.

    >>> slots = KVSlots(requests=2, tokens=64, nodes=4)
    >>> slots.admit(7, 20), slots.admit(8, 33), slots.admit(8, 32)
    (True, False, True)
    >>> slots.committed(7, 14, 18).tolist(), slots.scratch(7).tolist()
    ([30, 31, 32, 33], [80, 81, 82, 83])
    """

    def __init__(self, requests: int, tokens: int, nodes: int) -> None:
        pages = -(-tokens // PAGE_SLOTS)
        self._nodes = nodes
        self._scratch_start = (pages + 1) * PAGE_SLOTS
        # Page 0 is the null page: rows that are padding write there.
        self._free_pages = list(range(pages, 0, -1))
        self._free_scratch = list(range(requests - 1, -1, -1))
        self._held: dict[int, _Holding] = {}
        self.num_slots = self._scratch_start + requests * nodes

    @property
    def num_free_pages(self) -> int:
        """Pages that no request holds."""
        return len(self._free_pages)

    def admit(self, request: int, tokens: int) -> bool:
        """Reserve room for a request of at most ``tokens`` tokens, if there is room now."""
        needed = -(-tokens // PAGE_SLOTS)
        if needed > len(self._free_pages) or not self._free_scratch:
            return False
        pages = np.array([self._free_pages.pop() for _ in range(needed)], np.int64)
        self._held[request] = _Holding(pages, self._free_scratch.pop())
        return True

    def release(self, request: int) -> None:
        """Take back what a request holds."""
        held = self._held.pop(request)
        self._free_pages += held.pages[::-1].tolist()
        self._free_scratch.append(held.scratch)

    def pages(self, request: int, length: int) -> NDArray[np.int64]:
        """The pages of a request's first ``length`` tokens."""
        return self._held[request].pages[: -(-length // PAGE_SLOTS)]

    def committed(self, request: int, start: int, stop: int) -> NDArray[np.int64]:
        """The slots of a request's tokens ``start`` to ``stop``."""
        at = np.arange(start, stop)
        return self._held[request].pages[at // PAGE_SLOTS] * PAGE_SLOTS + at % PAGE_SLOTS

    def scratch(self, request: int) -> NDArray[np.int64]:
        """The slots of a request's uncommitted nodes."""
        start = self._scratch_start + self._held[request].scratch * self._nodes
        return np.arange(start, start + self._nodes)
