"""Which K/V slots belong to whom: pages for committed tokens, scratch for uncommitted nodes.

Plain numbers, no memory. A request's pages grow with its text. A full page of committed tokens is
found again by what it holds and what stands before it, and is shared: requests with the same prefix
hold the same pages. What nobody holds stays, oldest first to go, until its room is needed. Nothing
is ever copied for this: committed slots are never overwritten, and the last page, which is not
full, belongs to one request alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from specinfer.ops.attention import PAGE_SLOTS


@dataclass(slots=True)
class _Holding:
    """What a request holds.

    Attributes:
        scratch: number of its range of scratch slots.
        pages: of its text, in order; those behind the committed tokens are reserved.
        length: committed tokens.
        num_shared: leading pages that others can find.
        digest: of all tokens in these.
    """

    scratch: int
    pages: list[int]
    length: int
    num_shared: int
    digest: bytes


class KVPages:
    """Hands out the slots of one model's K/V pool.

    Args:
        pages: pages for committed tokens, over all requests.
        requests: requests that can be admitted at once.
        nodes: uncommitted nodes of one request.

    Attributes:
        num_pages: pages for committed tokens.
        num_slots: of the whole pool.
        scratch_start: the first slot for uncommitted nodes.
        scratch_nodes: how many of these a request has.

    >>> pages = KVPages(pages=3, requests=2, nodes=4)
    >>> prompt = list(range(20))
    >>> pages.admit(7, prompt), pages.committed(7, 14, 18).tolist(), pages.scratch(7).tolist()
    (0, [30, 31, 32, 33], [64, 65, 66, 67])
    >>> pages.commit(7, 20)
    >>> pages.share(7, prompt)
    >>> pages.admit(8, prompt), pages.pages(7, 20).tolist(), pages.pages(8, 20).tolist()
    (16, [1, 2], [1, 3])
    """

    def __init__(self, pages: int, requests: int, nodes: int) -> None:
        self.num_pages = pages
        self.scratch_nodes = nodes
        self.scratch_start = (pages + 1) * PAGE_SLOTS
        self.num_slots = self.scratch_start + requests * nodes
        # Page 0 is the null page: rows that are padding write there.
        self._free = list(range(pages, 0, -1))
        self._free_scratch = list(range(requests - 1, -1, -1))
        self._held: dict[int, _Holding] = {}
        self._num_holders = [0] * (pages + 1)
        self._page_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def num_available(self) -> int:
        """Pages that no request holds, whether something can be found in them or not."""
        return len(self._free) + len(self._idle)

    @property
    def requests(self) -> list[int]:
        """Who is admitted, in the order of admission."""
        return list(self._held)

    def __contains__(self, request: int) -> bool:
        return request in self._held

    def admit(self, request: int, tokens: Sequence[int], spare: int = 0) -> int | None:
        """Hold pages for a request's tokens, and scratch, if there is room now.

        Args:
            request: its number, not yet admitted.
            tokens: its text, at least one. The last one is never found: who asks wants the logits
                behind it.
            spare: pages that must be left over.

        Returns:
            How many of its first tokens are committed already; None if it was not admitted.
        """
        assert request not in self._held, request
        found, digest = self._find(tokens)
        num_idle = sum(page in self._idle for page in found)
        num_new = num_pages(len(tokens)) - len(found)
        if not self._free_scratch or num_new + num_idle + spare > self.num_available:
            return None
        for page in found:
            self._hold(page)
        pages = [*found, *(self._take() for _ in range(num_new))]
        length = len(found) * PAGE_SLOTS
        scratch = self._free_scratch.pop()
        self._held[request] = _Holding(scratch, pages, length, len(found), digest)
        return length

    def reserve(self, request: int, tokens: int) -> bool:
        """Hold pages for a text of so many tokens that is not known yet, all or none.

        For one who has a model to himself: nothing is found, and nobody makes room.
        """
        if self.admit(request, [0]) is None:
            return False
        if not (has_room := self.grow(request, tokens)):
            self.release(request)
        return has_room

    def grow(self, request: int, tokens: int) -> bool:
        """Have pages for the first ``tokens`` tokens of a request, all or no more than now."""
        held = self._held[request]
        needed = num_pages(tokens) - len(held.pages)
        if needed > self.num_available:
            return False
        held.pages += [self._take() for _ in range(needed)]
        return True

    def commit(self, request: int, num_tokens: int) -> None:
        """Take note that a request's next slots hold the K/V of so many more of its tokens."""
        held = self._held[request]
        held.length += num_tokens
        assert held.length <= self.capacity(request), "no page was reserved"

    def share(self, request: int, tokens: Sequence[int]) -> None:
        """Let others find the full pages of a request.

        If the same text lies in another page already, the request holds that one from now on, and
        its own is free. Whoever finds a page must read it behind those who wrote it: call this when
        the launches that write what is committed have been issued.

        Args:
            request: its number.
            tokens: its text, at least as far as it is committed.
        """
        held = self._held[request]
        assert held.length <= len(tokens), "more is committed than there is"
        for at in range(held.num_shared, held.length // PAGE_SLOTS):
            held.digest = _digest(held.digest, tokens[at * PAGE_SLOTS : (at + 1) * PAGE_SLOTS])
            held.num_shared += 1
            own, same = held.pages[at], self._page_of.get(held.digest)
            if same is None:
                self._page_of[held.digest] = own
                self._digest_of[own] = held.digest
            else:
                self._hold(same)
                held.pages[at] = same
                self._let_go(own)

    def release(self, request: int) -> None:
        """Take back what a request holds."""
        held = self._held.pop(request)
        # A page is of no use without those before it: the last ones go first.
        for page in reversed(held.pages):
            self._let_go(page)
        self._free_scratch.append(held.scratch)

    def forget(self) -> None:
        """Find nothing of what was computed up to now; nobody holds a page."""
        assert not self._held, list(self._held)
        self._free += self._idle
        self._idle.clear()
        self._page_of.clear()
        self._digest_of.clear()

    def length(self, request: int) -> int:
        """Committed tokens of a request."""
        return self._held[request].length

    def capacity(self, request: int) -> int:
        """Tokens that a request's pages have room for, the committed ones among them."""
        return len(self._held[request].pages) * PAGE_SLOTS

    def pages(self, request: int, length: int) -> NDArray[np.int64]:
        """The pages of a request's first ``length`` tokens."""
        return np.array(self._held[request].pages[: num_pages(length)], np.int64)

    def committed(self, request: int, start: int, stop: int) -> NDArray[np.int64]:
        """The slots of a request's tokens ``start`` to ``stop``."""
        at = np.arange(start, stop)
        first = start // PAGE_SLOTS
        pages = np.array(self._held[request].pages[first : num_pages(stop)], np.int64)
        return pages[at // PAGE_SLOTS - first] * PAGE_SLOTS + at % PAGE_SLOTS

    def scratch(self, request: int) -> NDArray[np.int64]:
        """The slots of a request's uncommitted nodes."""
        start = self.scratch_start + self._held[request].scratch * self.scratch_nodes
        return np.arange(start, start + self.scratch_nodes)

    def _find(self, tokens: Sequence[int]) -> tuple[list[int], bytes]:
        """Full pages with the first of these tokens, and the digest of what is in them."""
        found: list[int] = []
        digest = b""
        for start in range(0, len(tokens) - PAGE_SLOTS, PAGE_SLOTS):
            longer = _digest(digest, tokens[start : start + PAGE_SLOTS])
            page = self._page_of.get(longer)
            if page is None:
                break
            found.append(page)
            digest = longer
        return found, digest

    def _hold(self, page: int) -> None:
        self._idle.pop(page, None)
        self._num_holders[page] += 1

    def _let_go(self, page: int) -> None:
        self._num_holders[page] -= 1
        if self._num_holders[page]:
            return
        if page in self._digest_of:
            self._idle[page] = None
        else:
            self._free.append(page)

    def _take(self) -> int:
        """A page that nobody holds; one in which nothing can be found, if there is one."""
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._idle.popitem(last=False)
            del self._page_of[self._digest_of.pop(page)]
        self._num_holders[page] = 1
        return page


def num_pages(tokens: int) -> int:
    """Pages of a text.

    >>> num_pages(0), num_pages(16), num_pages(17)
    (0, 1, 2)
    """
    return -(-tokens // PAGE_SLOTS)


def _digest(before: bytes, tokens: Sequence[int]) -> bytes:
    """Name of a page by its tokens and all before them; long enough that no two share one."""
    return blake2b(before + np.array(tokens, np.int64).tobytes(), digest_size=32).digest()
