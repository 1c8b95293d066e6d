"""Pages of equal text are found and shared; what nobody holds goes, oldest first."""

from __future__ import annotations

import pytest

from specinfer.ops.attention import PAGE_SLOTS
from specinfer.scheduler.kv_pages import KVPages

A, B, C, D = ([token] * PAGE_SLOTS for token in range(4))


def serve(pages: KVPages, request: int, text: list[int]) -> int | None:
    """Admit a request, compute what it lacks, and let it go."""
    cached = pages.admit(request, text)
    if cached is not None:
        compute(pages, request, text)
        pages.release(request)
    return cached


def compute(pages: KVPages, request: int, text: list[int]) -> None:
    """Commit what a request lacks of a text, for others to find."""
    pages.commit(request, len(text) - pages.length(request))
    pages.share(request, text)


@pytest.mark.parametrize(("length", "used"), [(0, 0), (1, 1), (16, 1), (17, 2), (33, 3)])
def test_a_text_uses_the_pages_it_reaches(length: int, used: int) -> None:
    pages = KVPages(pages=4, requests=1, nodes=1)
    pages.admit(0, [5] * 40)
    assert len(pages.pages(0, length)) == used


def test_a_refused_request_holds_nothing() -> None:
    pages = KVPages(pages=2, requests=1, nodes=1)
    assert pages.admit(0, [5] * 33) is None
    assert pages.admit(0, [5] * 17, spare=1) is None
    assert pages.num_available == 2
    assert pages.admit(1, [5]) == 0
    assert pages.admit(2, [5]) is None, "there is scratch for one request"
    pages.release(1)
    assert pages.admit(2, [5] * 32) == 0


def test_a_request_grows_as_far_as_there_are_pages() -> None:
    pages = KVPages(pages=3, requests=2, nodes=1)
    pages.admit(0, [5])
    pages.admit(1, [5])
    assert pages.capacity(0) == PAGE_SLOTS
    assert not pages.grow(0, 33)
    assert pages.capacity(0) == PAGE_SLOTS
    assert pages.grow(0, 32)
    assert pages.grow(0, 7), "what it has is enough"
    assert pages.capacity(0) == 32
    assert pages.num_available == 0


def test_a_prefix_is_found_by_all_that_stands_before_it() -> None:
    pages = KVPages(pages=20, requests=4, nodes=1)
    assert serve(pages, 0, A + B + C) == 0
    assert serve(pages, 1, A + B + D) == 32
    assert serve(pages, 2, B + C) == 0, "B is found behind A only"
    assert serve(pages, 3, A + C + C) == 16


def test_the_last_token_is_always_left_to_compute() -> None:
    pages = KVPages(pages=20, requests=4, nodes=1)
    serve(pages, 0, A + B)
    assert serve(pages, 1, A + B) == 16
    assert serve(pages, 2, A + B + [9]) == 32
    assert serve(pages, 3, A + B[:1]) == 16


def test_a_page_that_is_not_full_is_not_shared() -> None:
    pages = KVPages(pages=20, requests=4, nodes=1)
    serve(pages, 0, A + B[:15])
    assert serve(pages, 1, A + B[:15] + [9, 9]) == 16


def test_nothing_is_found_before_it_is_committed_and_shared() -> None:
    pages = KVPages(pages=20, requests=5, nodes=1)
    pages.admit(0, A + B)
    assert pages.admit(1, A + B) == 0
    compute(pages, 0, A[:15])
    assert pages.admit(2, A + B) == 0
    pages.commit(0, 1)
    assert pages.admit(3, A + B) == 0
    pages.share(0, A)
    assert pages.admit(4, A + B) == 16


def test_a_page_computed_twice_is_kept_once() -> None:
    pages = KVPages(pages=4, requests=2, nodes=1)
    pages.admit(0, A + B)
    pages.admit(1, A + B)
    compute(pages, 0, A)
    compute(pages, 1, A + B[:3])
    assert pages.num_available == 1
    assert pages.pages(0, 16).tolist() == pages.pages(1, 16).tolist()
    assert pages.pages(0, 32)[1] != pages.pages(1, 32)[1]
    pages.release(0)
    assert pages.num_available == 2, "the other one still holds A"


def test_the_oldest_text_goes_first_and_of_a_text_its_end() -> None:
    pages = KVPages(pages=5, requests=2, nodes=1)
    serve(pages, 0, A + B)
    serve(pages, 1, C + D + [9])  # its last page holds nothing that could be found
    pages.admit(2, [7] * 32)  # the free page, and that of A + B
    assert pages.admit(3, A + B + [9], spare=1) is None, "A alone is left"
    assert serve(pages, 3, A + B) == 16
    pages.release(2)
    assert serve(pages, 4, C + D) == 16


def test_text_that_was_used_again_is_the_youngest() -> None:
    pages = KVPages(pages=2, requests=2, nodes=1)
    serve(pages, 0, A)
    serve(pages, 1, B)
    assert serve(pages, 2, [*A, 9]) == 16  # takes the page of B for its end
    pages.admit(3, [7] * 16)
    assert pages.admit(4, [*A, 9]) is None
    pages.release(3)
    assert pages.admit(5, [*A, 9]) == 16


def test_a_page_that_is_held_is_not_evicted() -> None:
    pages = KVPages(pages=3, requests=3, nodes=1)
    serve(pages, 0, A + B)
    assert pages.admit(1, [*A, 9]) == 16
    assert pages.admit(2, [7] * 32) is None
    assert pages.admit(2, [7] * 16) == 0
    assert pages.num_available == 0
