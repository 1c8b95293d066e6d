"""Who is admitted, preempted, asked and given rows, one decision at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from batcher_laws import World

from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.batcher import Batcher
from specinfer.scheduler.errors import RequestError
from specinfer.scheduler.iteration import Admitted, Budgets, Chunk, Decode, Iteration, equal_shares
from specinfer.scheduler.kv_pages import KVPages
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculation import Speculation


def most(low: int, high: int) -> int:
    """Trees are as large as they may be, and all of them is right."""
    return high


def world(pages: Sequence[int], **budgets: Any) -> World:
    given = {"rows": 64, "requests": 4, "chunk": 64, "nodes": 4, "depth": 4} | budgets
    return World(Budgets(**given), pages, most)


def step(world: World) -> Iteration:
    world.begin()
    done = world.in_flight
    assert done is not None
    world.finish()
    return done


def prompt(tokens: int, first: int) -> list[int]:
    return [first] * tokens


def test_a_request_is_computed_then_decoded_until_it_ends() -> None:
    one = world([8])
    one.submit(prompt(20, 1), 12)
    first, second, third = step(one), step(one), step(one)
    assert first.admitted == (Admitted(0, cached=0),)
    assert first.chunks == (Chunk(0, 0, 20, is_last=True),)
    assert not first.decodes
    assert second.decodes == (Decode(0, nodes=4, depth=4),)
    assert third.decodes == (Decode(0, nodes=4, depth=4),)  # 1 + 5 + 5 tokens
    assert step(one).decodes == (Decode(0, nodes=0, depth=0),), "the last is the LLM's own"
    assert one.batcher.is_idle
    assert one.batcher.begin().freed == ((0,),)


def test_admission_looks_at_the_text_as_it_is_and_leaves_a_page_for_each_that_runs() -> None:
    four = world([4], nodes=0)
    for first in range(3):
        four.submit(prompt(10, first), 40)  # up to 4 pages each
    step(four)
    assert (four.batcher.running, four.batcher.waiting) == ([0, 1], [2])


def test_nobody_overtakes_the_first_who_waits() -> None:
    four = world([4])
    for tokens in (16, 40, 1):
        four.submit(prompt(tokens, tokens), 5)
    step(four)
    assert (four.batcher.running, four.batcher.waiting) == ([0], [1, 2])


def test_the_youngest_is_preempted_and_finds_what_it_had_computed() -> None:
    five = world([5], nodes=0)
    for first in range(2):
        five.submit(prompt(31, first), 30)
    done = [step(five) for _ in range(3)]
    assert done[0].preempted == ()
    assert [d.request for d in done[1].decodes] == [0, 1]
    assert done[2].preempted == (1,), "each wants its third page"
    assert done[2].freed == ((1,),)
    assert five.batcher.waiting == [1]
    while 1 not in five.batcher.running:
        last = step(five)
    assert 0 not in five.batcher.running, "nothing was left until the older one had ended"
    assert last.admitted == (Admitted(1, cached=16),), "of its end the other one took the room"
    five.drain()


def test_a_prompt_that_was_computed_before_is_found() -> None:
    eight = world([8])
    eight.submit(prompt(40, 1), 1)
    step(eight)
    eight.submit(prompt(40, 1), 1)
    done = step(eight)
    assert done.admitted == (Admitted(1, cached=32),)
    assert done.chunks == (Chunk(1, 32, 40, is_last=True),)


def test_prompts_and_trees_share_the_rows() -> None:
    two = world([20], rows=16, requests=4, nodes=9, depth=2, prefill_share=0.25)
    two.submit(prompt(4, 1), 60)
    two.submit(prompt(4, 2), 60)
    step(two)
    two.submit(prompt(50, 3), 9)
    done = step(two)
    assert [d.nodes for d in done.decodes] == [9, 1], "all but the roots' and 4 rows of prompts"
    assert done.chunks == (Chunk(2, 0, 4, is_last=False),)


def test_rows_that_no_tree_takes_are_for_prompts() -> None:
    two = world([20], rows=16, nodes=3, depth=2, prefill_share=0.25)
    two.submit(prompt(4, 1), 60)
    step(two)
    two.submit(prompt(50, 3), 9)
    assert step(two).chunks == (Chunk(1, 0, 12, is_last=False),)


def test_a_chunk_is_no_longer_than_it_may_be() -> None:
    two = world([20], chunk=10)
    two.submit(prompt(25, 1), 9)
    two.submit(prompt(4, 2), 9)
    assert step(two).chunks == (Chunk(0, 0, 10, is_last=False), Chunk(1, 0, 4, is_last=True))
    assert step(two).chunks == (Chunk(0, 10, 20, is_last=False),)


def test_a_tree_is_as_deep_as_pages_allow() -> None:
    three = world([3], nodes=8, depth=8)
    for first in (1, 2):
        three.submit(prompt(10, first), 30)
    step(three)
    # Each has 11 tokens: the first gets the page that is left, the other has room for 5 more.
    assert step(three).decodes == (Decode(0, nodes=8, depth=8), Decode(1, nodes=8, depth=5))


def test_an_ssm_is_asked_about_decoding_requests_and_catches_up_in_chunks() -> None:
    one = world([8, 8], chunk=16)
    one.submit(prompt(20, 1), 30)
    assert step(one).drafts == ((),)
    assert step(one).drafts == ((),)
    assert step(one).drafts == ((Chunk(0, 0, 16, is_last=False),),)
    (draft,) = step(one).drafts[0]
    assert (draft.start, draft.is_last) == (16, True)


def test_ssms_share_rows_of_their_own() -> None:
    two = world([20, 20], draft_rows=24)
    for first in (1, 2):
        two.submit(prompt(20, first), 30)
    step(two)
    # Each has 21 tokens.
    assert step(two).drafts == ((Chunk(0, 0, 21, is_last=True), Chunk(1, 0, 3, is_last=False)),)


@pytest.mark.parametrize(
    ("speculation", "nodes", "depth"),
    [
        (Speculation(), 9, 8),
        (Speculation(max_nodes=3), 3, 3),
        (Speculation(max_nodes=30), 9, 8),
        (Speculation(max_depth=2), 9, 2),
        (Speculation(max_depth=20), 9, 8),
        (Speculation(max_nodes=5, max_depth=2), 5, 2),
        (Speculation(enabled=False), 0, 0),
        (Speculation(enabled=False, max_nodes=3, max_depth=2), 0, 0),
    ],
)
def test_a_tree_is_no_larger_than_its_request_allows(
    speculation: Speculation, nodes: int, depth: int
) -> None:
    two = world([20, 20], nodes=9, depth=8)
    two.submit(prompt(4, 1), 30, speculation)
    two.submit(prompt(4, 2), 30)
    step(two)
    done = step(two)
    assert done.decodes == (Decode(0, nodes, depth), Decode(1, 9, 8))
    assert [chunk.request for chunk in done.drafts[0]] == [0, 1][nodes == 0 :], "who is asked about"


def test_an_ssm_without_room_is_not_asked_and_holds_nobody_up() -> None:
    small = world([8, 2])
    for first in (1, 2):
        small.submit(prompt(12, first), 60)
    step(small)
    done = step(small)
    assert [chunk.request for chunk in done.drafts[0]] == [0], "text and tree take 2 pages"
    assert [decode.request for decode in done.decodes] == [0, 1]
    assert all(decode.nodes == 4 for decode in done.decodes), "other speculators may draw"
    while done.drafts[0]:
        done = step(small)
    assert done.freed[1] == (0,), "its text has grown too long for the SSM"
    assert [decode.request for decode in done.decodes] == [0, 1]
    small.drain()


def test_an_older_request_takes_room_in_an_ssm_from_a_younger() -> None:
    small = world([8, 3], nodes=1, depth=1)
    for first in (1, 2):
        small.submit(prompt(10, first), 40)
    step(small)
    assert [chunk.request for chunk in step(small).drafts[0]] == [0, 1]
    freed: list[int] = []
    while not freed:
        done = step(small)
        freed = list(done.freed[1])
    assert freed == [1]
    assert [chunk.request for chunk in done.drafts[0]] == [0]
    assert [d.request for d in done.decodes] == [0, 1], "the LLM goes on with both"


def test_a_cancelled_request_leaves_when_the_iteration_is_done() -> None:
    one = world([8])
    one.submit(prompt(20, 1), 12)
    one.submit(prompt(20, 2), 12)
    one.begin()
    one.cancel(0)
    assert one.pools[0].requests == [0, 1], "its rows are being computed"
    one.finish()
    assert one.pools[0].requests == [1]
    one.cancel(1)
    assert one.batcher.is_idle
    assert not one.batcher.cancel(7)
    assert one.batcher.begin().freed == ((0, 1),)


def test_what_could_never_run_is_refused() -> None:
    one = world([2])
    one.submit(prompt(10, 1), 23)
    with pytest.raises(
        RequestError,
        match="request 1: 10 prompt tokens and 24 new ones take 3 pages, expected at most 2",
    ):
        one.submit(prompt(10, 1), 24)


def test_a_number_is_used_once_at_a_time() -> None:
    batcher = Batcher(Budgets(rows=4, requests=1, chunk=4), KVPages(2, 1, 1))
    batcher.submit(Request(id=3, prompt=[1], max_new_tokens=1))
    with pytest.raises(RequestError, match="request 3: this number is in use"):
        batcher.submit(Request(id=3, prompt=[1], max_new_tokens=1))
    assert batcher.cancel(3)
    batcher.submit(Request(id=3, prompt=[1], max_new_tokens=1))


@pytest.mark.parametrize("shares", [[], [5], [-1], [4, 0]])
def test_an_allocation_that_breaks_the_budgets_is_refused(shares: list[int]) -> None:
    one = world([8])
    one.batcher._allocate = lambda decodes, rows: shares if decodes else []
    one.submit(prompt(3, 1), 12)
    step(one)
    with pytest.raises(ConfigError, match=r"expected at most \[4\], and 63 together"):
        one.begin()


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ({"rows": 0}, "rows is 0, expected at least 1"),
        ({"depth": -1}, "depth is -1, expected at least 0"),
        ({"prefill_share": 1.5}, r"prefill_share is 1.5, expected 0 to 1"),
        ({"rows": 4, "requests": 5}, "rows is 4, expected at least 5: one for each request"),
    ],
)
def test_budgets_that_cannot_be_kept_are_refused(budgets: dict[str, Any], message: str) -> None:
    given = {"rows": 8, "requests": 2, "chunk": 8} | budgets
    with pytest.raises(ValueError, match=message):
        Budgets(**given)


@pytest.mark.parametrize(
    ("most", "rows", "shares"),
    [
        ([], 5, []),
        ([3, 3], 0, [0, 0]),
        ([3, 3], 3, [2, 1]),
        ([1, 9], 6, [1, 5]),
        ([2, 2], 9, [2, 2]),
    ],
)
def test_rows_are_shared_equally(most: list[int], rows: int, shares: list[int]) -> None:
    assert equal_shares([Decode(at, n, n) for at, n in enumerate(most)], rows) == shares
