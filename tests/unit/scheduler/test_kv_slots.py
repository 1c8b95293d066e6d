"""No slot is ever held twice, and all come back."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from specinfer.ops.attention import PAGE_SLOTS
from specinfer.scheduler.kv_slots import KVSlots

REQUESTS, TOKENS, NODES = 3, 100, 5
PAGES = 7  # for 100 tokens


class Slots(RuleBasedStateMachine):
    """Requests come and go; a plain table says what each of them asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = KVSlots(REQUESTS, TOKENS, NODES)
        self.asked: dict[int, int] = {}
        self.num_seen = 0

    @rule(tokens=st.integers(1, 120))
    def admit(self, tokens: int) -> None:
        held = sum(-(-asked // PAGE_SLOTS) for asked in self.asked.values())
        has_room = len(self.asked) < REQUESTS and held + -(-tokens // PAGE_SLOTS) <= PAGES
        self.num_seen += 1
        assert self.slots.admit(self.num_seen, tokens) == has_room
        if has_room:
            self.asked[self.num_seen] = tokens

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.asked)))
        self.slots.release(request)
        del self.asked[request]

    @invariant()
    def no_slot_is_held_twice(self) -> None:
        of_tokens = [
            self.slots.committed(request, 0, tokens).tolist()
            for request, tokens in self.asked.items()
        ]
        of_nodes = [self.slots.scratch(request).tolist() for request in self.asked]
        held = list(chain(*of_tokens, *of_nodes))
        assert len(held) == len(set(held))
        # The first page takes what padding rows write.
        assert all(PAGE_SLOTS <= slot < self.slots.num_slots for slot in held)
        assert all(len(slots) == NODES for slots in of_nodes)

    @invariant()
    def positions_lie_in_the_pages_in_order(self) -> None:
        for request, tokens in self.asked.items():
            pages = self.slots.pages(request, tokens)
            assert len(pages) == -(-tokens // PAGE_SLOTS)
            for start, stop in ((0, tokens), (tokens // 2, tokens), (tokens, tokens)):
                assert self.slots.committed(request, start, stop).tolist() == [
                    pages[at // PAGE_SLOTS] * PAGE_SLOTS + at % PAGE_SLOTS
                    for at in range(start, stop)
                ]

    @invariant()
    def what_is_not_held_is_free(self) -> None:
        held = sum(-(-asked // PAGE_SLOTS) for asked in self.asked.values())
        assert self.slots.num_free_pages == PAGES - held

    def teardown(self) -> None:
        for request in list(self.asked):
            self.slots.release(request)
        assert self.slots.num_free_pages == PAGES
        assert self.slots.admit(-1, TOKENS)


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize(("length", "pages"), [(0, 0), (1, 1), (16, 1), (17, 2), (33, 3)])
def test_a_text_uses_the_pages_it_reaches(length: int, pages: int) -> None:
    slots = KVSlots(requests=1, tokens=64, nodes=1)
    slots.admit(0, 40)
    assert len(slots.pages(0, length)) == pages


def test_a_refused_request_holds_nothing() -> None:
    slots = KVSlots(requests=1, tokens=32, nodes=1)
    assert not slots.admit(0, 33)
    assert slots.num_free_pages == 2
    assert slots.admit(1, 1)
    assert not slots.admit(2, 1), "there is scratch for one request"
    slots.release(1)
    assert slots.admit(2, 32)
