"""Laws of pages, against a table of texts and a memory that is written as a decoder would.

No page is both free and held, each is held as often as texts begin with it, what a page holds is
the prefix of each of its holders, and all come back. The table knows texts only, not pages.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from specinfer.ops.attention import PAGE_SLOTS
from specinfer.scheduler.kv_pages import KVPages

PAGES, REQUESTS, NODES = 8, 4, 3
# Few contents of a page, so that texts begin alike.
texts = st.builds(
    lambda blocks, end: [token for block in blocks for token in [block] * PAGE_SLOTS] + end,
    st.lists(st.integers(1, 2), max_size=4),
    st.lists(st.integers(1, 2), min_size=1, max_size=PAGE_SLOTS),
)


@dataclass
class Text:
    """What a request wants, how much of it is committed, and how far it has pages."""

    tokens: list[int]
    length: int
    reserved: int

    @property
    def full(self) -> list[tuple[int, ...]]:
        """What stands in each full page, and before it."""
        ends = range(PAGE_SLOTS, self.length + 1, PAGE_SLOTS)
        return [tuple(self.tokens[:end]) for end in ends]


def reach(tokens: int) -> int:
    return (tokens + PAGE_SLOTS - 1) // PAGE_SLOTS


class Pages(RuleBasedStateMachine):
    """Requests come, compute, grow and go; memory is what they write to their slots."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = KVPages(PAGES, REQUESTS, NODES)
        self.texts: dict[int, Text] = {}
        self.memory = [0] * self.pages.num_slots
        self.num_seen = 0
        self.ever: set[tuple[int, ...]] = set()

    @property
    def full(self) -> set[tuple[int, ...]]:
        return {prefix for text in self.texts.values() for prefix in text.full}

    @property
    def num_held(self) -> int:
        own = sum(reach(text.reserved) - len(text.full) for text in self.texts.values())
        return len(self.full) + own

    @rule(tokens=texts, spare=st.integers(0, 2))
    def admit(self, tokens: list[int], spare: int) -> None:
        request, self.num_seen = self.num_seen, self.num_seen + 1
        ends = range(PAGE_SLOTS, len(tokens), PAGE_SLOTS)
        held = sum(tuple(tokens[:end]) in self.full for end in ends)
        known = sum(tuple(tokens[:end]) in self.ever for end in ends)
        needed = reach(len(tokens)) - held + spare
        has_room = len(self.texts) < REQUESTS and needed <= PAGES - self.num_held
        cached = self.pages.admit(request, tokens, spare)
        assert (cached is not None) == has_room
        if cached is not None:
            assert held * PAGE_SLOTS <= cached <= known * PAGE_SLOTS
            assert cached < len(tokens)
            self.texts[request] = Text(list(tokens), cached, len(tokens))

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), num_more=st.integers(1, 40))
    def grow(self, data: st.DataObject, num_more: int) -> None:
        request = data.draw(st.sampled_from(sorted(self.texts)))
        text = self.texts[request]
        wanted = text.length + num_more
        needed = reach(wanted) - reach(text.reserved)
        assert self.pages.grow(request, wanted) == (needed <= PAGES - self.num_held)
        if needed <= PAGES - self.num_held or needed <= 0:
            text.reserved = max(text.reserved, wanted)

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), num_more=st.integers(0, 40), token=st.integers(1, 2))
    def commit(self, data: st.DataObject, num_more: int, token: int) -> None:
        request = data.draw(st.sampled_from(sorted(self.texts)))
        text = self.texts[request]
        capacity = reach(text.reserved) * PAGE_SLOTS
        assert self.pages.capacity(request) == capacity
        stop = min(text.length + num_more, capacity)
        text.tokens += [token] * (stop - len(text.tokens))
        tokens = text.tokens[text.length : stop]
        slots = self.pages.committed(request, text.length, stop).tolist()
        for slot, written in zip(slots, tokens, strict=True):
            self.memory[slot] = written
        self.pages.commit(request, len(tokens))
        self.pages.share(request, text.tokens)
        text.length, text.reserved = stop, capacity
        self.ever |= set(text.full)

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.texts)))
        self.pages.release(request)
        del self.texts[request]

    @invariant()
    def what_lies_in_a_page_is_the_prefix_of_each_holder(self) -> None:
        for request, text in self.texts.items():
            slots = self.pages.committed(request, 0, text.length).tolist()
            assert [self.memory[slot] for slot in slots] == text.tokens[: text.length]
            assert self.pages.length(request) == text.length

    @invariant()
    def equal_prefixes_lie_in_one_page_and_nothing_else_is_shared(self) -> None:
        holders: dict[int, set[tuple[int, ...] | int]] = {}
        for request, text in self.texts.items():
            for at, page in enumerate(self.pages.pages(request, text.reserved).tolist()):
                what = text.full[at] if at < len(text.full) else request
                holders.setdefault(page, set()).add(what)
        assert all(len(held) == 1 for held in holders.values())
        assert len(holders) == self.num_held
        assert all(1 <= page <= PAGES for page in holders)

    @invariant()
    def what_is_not_held_is_available(self) -> None:
        assert self.pages.num_available == PAGES - self.num_held

    @invariant()
    def scratch_is_nobody_elses(self) -> None:
        slots = [slot for request in self.texts for slot in self.pages.scratch(request).tolist()]
        assert len(slots) == len(set(slots)) == NODES * len(self.texts)
        assert all((PAGES + 1) * PAGE_SLOTS <= slot < self.pages.num_slots for slot in slots)

    def teardown(self) -> None:
        for request in self.texts:
            self.pages.release(request)
        assert self.pages.num_available == PAGES
        for request in range(-REQUESTS, 0):  # each page and all scratch can be had anew
            assert self.pages.admit(request, [3] * (PAGES // REQUESTS * PAGE_SLOTS)) == 0
        assert self.pages.num_available == 0


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
