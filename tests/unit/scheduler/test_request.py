from __future__ import annotations

import pytest

from specinfer.scheduler.request import Request


def _request(max_new_tokens: int = 4, output: tuple[int, ...] = ()) -> Request:
    eos = frozenset({9, 8})
    request = Request(id=0, prompt=[1, 9], max_new_tokens=max_new_tokens, eos_ids=eos)
    request.output += output
    return request


@pytest.mark.parametrize(
    ("offered", "kept", "reason"),
    [
        ([5], [5], None),
        ([5, 6, 7], [5, 6, 7], None),
        ([5, 6, 7, 5], [5, 6, 7, 5], "length"),
        ([5, 6, 7, 5, 5, 5], [5, 6, 7, 5], "length"),
        ([9], [9], "eos"),
        ([5, 8, 9, 7], [5, 8], "eos"),
        ([5, 6, 7, 9], [5, 6, 7, 9], "eos"),
        ([5, 6, 7, 5, 9], [5, 6, 7, 5], "length"),
        ([], [], None),
    ],
)
def test_takes_tokens_up_to_the_end_of_the_text(
    offered: list[int], kept: list[int], reason: str | None
) -> None:
    request = _request()
    assert request.take(offered) == kept
    assert request.output == kept
    assert request.finish_reason == reason


def test_an_end_token_in_the_prompt_ends_nothing() -> None:
    request = _request()
    assert request.finish_reason is None
    assert request.tokens == [1, 9]


def test_counts_what_was_written_before() -> None:
    request = _request(output=(5, 6))
    assert (request.tokens, request.num_remaining) == ([1, 9, 5, 6], 2)
    assert request.take([5, 5, 5]) == [5, 5]
    assert (request.finish_reason, request.num_remaining) == ("length", 0)


def test_without_end_tokens_only_the_length_ends_a_text() -> None:
    request = Request(id=0, prompt=[1], max_new_tokens=2)
    request.take([9, 9])
    assert request.finish_reason == "length"
