from __future__ import annotations

from typing import Any

import pytest

from specinfer.scheduler.errors import RequestError
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import SamplingParams


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


def test_a_stop_token_ends_the_text_once_enough_is_written() -> None:
    request = Request(
        id=0,
        prompt=[1],
        max_new_tokens=5,
        eos_ids=frozenset({9}),
        stop_ids=frozenset({7}),
        sampling=SamplingParams(min_new_tokens=2),
    )
    assert request.take([7, 9, 7, 5]) == [7, 9, 7]
    assert request.finish_reason == "stop"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stop_ids": frozenset({20})}, "request 0: stop: token 20, expected 0 to 19"),
        (
            {"sampling": SamplingParams(logit_bias={30: 1.0})},
            "request 0: sampling: token 30, expected 0 to 19",
        ),
        (
            {"sampling": SamplingParams(min_new_tokens=5)},
            "min_new_tokens is 5, expected at most max_new_tokens, which is 4",
        ),
    ],
)
def test_refuses_what_can_never_be_served(values: dict[str, Any], said: str) -> None:
    request = Request(id=0, prompt=[1], max_new_tokens=4, **values)
    with pytest.raises(RequestError, match=said):
        request.check(100, 20)
