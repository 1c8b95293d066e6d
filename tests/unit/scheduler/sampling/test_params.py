"""What sampling parameters refuse, and what they say of themselves."""

from __future__ import annotations

import math
from typing import Any

import pytest

from specinfer.scheduler.sampling.params import SamplingParams


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"temperature": -1.0}, "temperature is -1.0, expected at least 0, and finite"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1, expected at least 1, or 0"),
        ({"top_p": 0.0}, "top_p is 0.0, expected above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"min_p": -0.1}, "min_p is -0.1, expected 0 to 1"),
        ({"typical_p": math.nan}, "typical_p is nan, expected above 0 and at most 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0, expected above 0"),
        ({"presence_penalty": math.inf}, "presence_penalty is inf, expected a finite number"),
        ({"frequency_penalty": math.nan}, "frequency_penalty is nan"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1, expected at least 0"),
        ({"seed": -1}, "seed is -1, expected 0 to"),
        ({"seed": 1 << 64}, "seed is 18446744073709551616"),
        (
            {"logit_bias": {3: math.inf}},
            "logit_bias of token 3 is inf, expected a finite number or",
        ),
        ({"logit_bias": {-3: 1.0}}, "logit_bias of token -3, expected a token id, at least 0"),
        ({"bad_words": ((),)}, "bad_words has a word without tokens"),
        ({"bad_words": ((4, -1),)}, "token -1, expected at least 0"),
        ({"end_ids": frozenset({-7})}, "token -7, expected at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SamplingParams(**values)


def test_a_mapping_of_biases_is_stored_hashable_and_in_order() -> None:
    params = SamplingParams(logit_bias={7: 1.0, 2: -math.inf})
    assert params.logit_bias == ((2, -math.inf), (7, 1.0))
    assert hash(params) == hash(SamplingParams(logit_bias={2: -math.inf, 7: 1.0}))


def test_defaults_are_greedy_and_plain() -> None:
    assert SamplingParams().is_greedy
    assert SamplingParams(top_k=4, top_p=0.5, seed=1, end_ids=frozenset({1})).is_plain


@pytest.mark.parametrize(
    "values",
    [
        {"repetition_penalty": 1.1},
        {"presence_penalty": -0.5},
        {"frequency_penalty": 0.5},
        {"logit_bias": {1: 1.0}},
        {"bad_words": ((1,),)},
        {"min_new_tokens": 1, "end_ids": frozenset({1})},
    ],
)
def test_what_changes_logits_is_not_plain(values: dict[str, Any]) -> None:
    assert not SamplingParams(**values).is_plain


def test_every_token_that_is_named_is_told() -> None:
    params = SamplingParams(
        logit_bias={4: 1.0}, bad_words=((5, 6), (7,)), end_ids=frozenset({8}), min_new_tokens=1
    )
    assert sorted(params.named_tokens) == [4, 5, 6, 7, 8]
