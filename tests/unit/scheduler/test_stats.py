from __future__ import annotations

import json

import pytest

from specinfer.scheduler.stats import Stats
from specinfer.scheduler.token_tree import TokenTree, merge


def _tree() -> TokenTree:
    """Two drafters: 5 -> 7 -> 8 and 5 -> {7, 9}; nodes 1, 2 and 3."""
    one, other = TokenTree(5), TokenTree(5)
    one.add(one.add(0, 7), 8)
    other.add(0, 7)
    other.add(0, 9)
    return merge([one, other])


def test_counts_a_verification() -> None:
    stats = Stats(("ssm", "ngram"))
    stats.verified(_tree(), [1, 2], 3)
    stats.verified(_tree(), [3], 2)
    stats.verified(_tree(), [], 1)
    stats.verified(TokenTree(5), [], 1)
    told = stats.as_dict()
    assert (told["steps"], told["nodes"], told["tokens_per_step"]) == (4, 9, 7 / 4)
    # At depth 2 only the first two got to a node above, and node 3 has no children.
    assert told["acceptance_by_depth"] == [
        {"depth": 1, "offered": 3, "accepted": 2},
        {"depth": 2, "offered": 1, "accepted": 1},
    ]
    assert told["acceptance_by_speculator"] == [
        {"speculator": "ssm", "proposed": 6, "accepted": 2},
        {"speculator": "ngram", "proposed": 6, "accepted": 2},
    ]


def test_a_step_counts_the_tokens_that_the_request_used() -> None:
    stats = Stats()
    stats.verified(_tree(), [1], 1)
    assert (stats.num_step_tokens, stats.tokens_per_step) == (1, 1.0)


def test_before_the_first_step_there_is_nothing_to_divide_by() -> None:
    assert Stats().tokens_per_step == 0.0
    assert json.loads(json.dumps(Stats(("ngram",)).as_dict()))["steps"] == 0


def test_time_is_added_even_when_the_block_raises() -> None:
    stats = Stats()
    with stats.time("draft"):
        pass
    first = stats.seconds["draft"]
    with pytest.raises(KeyError), stats.time("draft"):
        raise KeyError
    assert stats.seconds["draft"] > first >= 0
    assert list(stats.seconds) == ["draft"]


def test_iterations_are_told_by_way_and_reason() -> None:
    stats = Stats(num_by_lanes=5)
    stats.by_host.update(["prompts", "sampling", "sampling"])
    stats.by_nodes.update([20, 0, 0, 0, 0])
    told = stats.as_dict()["iterations"]
    host = {"sampling": 2, "prompts": 1}
    assert told == {"lanes": 5, "lanes_by_nodes": {"0": 4, "20": 1}, "host": host}
    assert list(told["host"]) == ["sampling", "prompts"]
