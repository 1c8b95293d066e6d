"""The conformance test that every speculator passes, and what is particular to each.

A new speculator is added to ``MAKERS``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from tiny_models import (
    Draft,
    Sizes,
    audit_kv,
    decoder_of,
    let_go,
    make_decoder,
    make_room,
    make_ssm,
    noisy_copy,
    plain_forward,
    plain_greedy,
    reduced,
    tiny_config,
    tiny_model,
)

from specinfer.scheduler.errors import TreeError
from specinfer.scheduler.speculators import Context, Speculator
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.speculators.planted import PlantedSpeculator, Told
from specinfer.scheduler.speculators.ssm import DEFAULT_EXPANSION, level_sizes
from specinfer.scheduler.speculators.suffixes import SuffixIndex
from specinfer.scheduler.token_tree import TokenTree

LLM = tiny_model(4, tiny_config(vocabulary=12))
SIZES = Sizes(requests=3, rows=96, length=96)

SSMS = {
    "SSM": Draft(noisy_copy(LLM, 1), (2, 1, 2)),
    "SSM of one node": Draft(noisy_copy(LLM, 1), (1,)),
    "SSM of more than 64 nodes": Draft(LLM, (4, 3, 4, 1)),
    "prefix of the LLM": Draft(LLM, (1, 2, 1), layers=1),
    "SSM, best first": Draft(noisy_copy(LLM, 1), (4, 4, 4, 4), nodes=9),
    "SSM of some tokens": Draft(
        reduced(noisy_copy(LLM, 1), range(2, 11)), (2, 1, 2), known=(tuple(range(2, 11)), 12)
    ),
}


def make_planted() -> PlantedSpeculator:
    """One that knows how the first of ``prompts()`` goes on."""
    decoder = make_decoder(noisy_copy(LLM, 1), SIZES, nodes=8)
    told: Told = {(): [1, 2, 3, 4] * 24}
    return PlantedSpeculator(decoder, (2, 1, 2), [[0.5, 0.2], [0.7], [0.1, 0.6]], told)


MAKERS: dict[str, Callable[[], Speculator]] = {
    "n-gram": NGramSpeculator,
    "n-gram of one token": lambda: NGramSpeculator(max_nodes=30, min_match=1),
    "n-gram of one node": lambda: NGramSpeculator(max_nodes=1, min_match=1),
    "n-gram with a corpus": lambda: NGramSpeculator(min_match=1, corpus=SuffixIndex(prompts())),
    **{name: partial(make_ssm, draft, SIZES) for name, draft in SSMS.items()},
    "planted": make_planted,
}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[[], Speculator]:
    return MAKERS[request.param]


def contents(tree: TokenTree) -> tuple[list[int], list[int]]:
    return tree.tokens, tree.parents


def prompts() -> list[list[int]]:
    """A text that repeats, one that does not, and one of one token."""
    return [[1, 2, 3, 4] * 6, [random.Random(0).randrange(12) for _ in range(40)], [7]]


# Conformance


def test_trees_are_rooted_at_the_last_token_and_fit_their_limits(
    make: Callable[[], Speculator],
) -> None:
    speculator = make()
    texts = prompts()
    for request, text in enumerate(texts):
        assert make_room(speculator, request, 96)
        assert len(text) < 96
    for max_depths in ([9, 9, 9], [0, 1, 2], [1, 0, 0], [2, 2, 1], [0, 0, 0]):
        contexts = [
            Context(request, text, depth)
            for request, (text, depth) in enumerate(zip(texts, max_depths, strict=True))
        ]
        trees = speculator.draft(contexts)
        assert len(trees) == len(contexts)
        for context, tree in zip(contexts, trees, strict=True):
            assert tree.root == tree.tokens[0] == context.tokens[-1]
            assert max(tree.depths) <= context.max_depth
            assert len(tree) - 1 <= speculator.max_nodes
            assert all(0 <= token < 12 for token in tree.tokens)
        speculator.accept({request: [5] for request in range(3)})
        for text in texts:
            text.append(5)
    assert speculator.name


def as_read(draft: Draft, tokens: Sequence[int]) -> list[int]:
    """A text in the numbers of the SSM's own vocabulary."""
    if draft.known is None:
        return list(tokens)
    ids, _ = draft.known
    return [ids.index(token) if token in ids else len(ids) for token in tokens]


def accepted_tokens(tree: TokenTree, generator: random.Random) -> list[int]:
    """What a verifier might say: a path of the tree and a token more, or a path alone."""
    path = tree.path(generator.randrange(len(tree)))[1:]
    if path and generator.random() < 0.2:
        return path  # as after pruning: the LLM's own token was drafted, but not verified
    return [*path, generator.randrange(12)]


@pytest.mark.parametrize("seed", range(4))
def test_a_tree_depends_on_the_text_only(make: Callable[[], Speculator], seed: int) -> None:
    """After any history of right, wrong and partly right guesses, as if it were the first tree."""
    generator = random.Random(seed)
    speculator, texts = make(), prompts()
    for request in range(3):
        make_room(speculator, request, 96)
    for _ in range(6):
        asked = sorted(generator.sample(range(3), generator.randint(1, 3)))
        contexts = [Context(r, texts[r], generator.choice([0, 1, 3, 8])) for r in asked]
        trees = speculator.draft(contexts)
        fresh = make()
        for request in asked:
            make_room(fresh, request, 96)
        assert list(map(contents, trees)) == list(map(contents, fresh.draft(contexts)))
        accepted = {r: accepted_tokens(t, generator) for r, t in zip(asked, trees, strict=True)}
        speculator.accept(accepted)
        for request, tokens in accepted.items():
            texts[request] += tokens


def test_released_room_serves_the_next_and_the_same_tree_comes_again(
    make: Callable[[], Speculator],
) -> None:
    speculator, texts = make(), prompts()
    first: list[tuple[list[int], list[int]]] | None = None
    for start in (0, 10, 20):
        for request in range(3):
            assert make_room(speculator, start + request, 96)
        contexts = [Context(start + n, text, 5) for n, text in enumerate(texts)]
        found = list(map(contents, speculator.draft(contexts)))
        assert found == (first or found)
        first = found
        if start == 10:  # one leaves behind its verification, the others before it
            speculator.accept({10: [1, 2]})
        for request in (1, 0, 2):
            let_go(speculator, start + request)


def test_a_request_that_leaves_does_not_disturb_the_others(
    make: Callable[[], Speculator],
) -> None:
    speculator, alone, texts = make(), make(), prompts()
    for request in range(3):
        make_room(speculator, request, 96)
    make_room(alone, 0, 96)
    speculator.draft([Context(request, text, 4) for request, text in enumerate(texts)])
    let_go(speculator, 1)
    speculator.accept({0: [3], 2: [5]})
    (tree,) = speculator.draft([Context(0, [*texts[0], 3], 4)])
    (right,) = alone.draft([Context(0, [*texts[0], 3], 4)])
    assert contents(tree) == contents(right)


# N-grams


def ngram_tree(tokens: Sequence[int], max_depth: int = 9, **given: Any) -> TokenTree:
    speculator = NGramSpeculator(**given)
    (tree,) = speculator.draft([Context(0, tokens, max_depth)])
    return tree


def told(tree: TokenTree) -> list[list[int]]:
    """The paths to the leaves, without the root."""
    return sorted(tree.path(node)[1:] for node in range(len(tree)) if not tree.children(node))


@pytest.mark.parametrize("seed", range(30))
def test_every_path_followed_the_last_tokens_before(seed: int) -> None:
    generator = random.Random(seed)
    min_match = generator.choice([1, 2, 3])
    text = [generator.randrange(3) for _ in range(generator.randint(1, 60))]
    tree = ngram_tree(text, generator.randint(0, 9), max_nodes=40, min_match=min_match)
    behind = [
        text[place:]
        for place in range(min_match, len(text))
        if text[place - min_match : place] == text[-min_match:]
    ]
    assert all(
        any(path == earlier[: len(path)] for earlier in behind) for path in told(tree) if path
    )


def test_proposes_what_followed_the_last_tokens_before() -> None:
    (path,) = told(ngram_tree([1, 2, 3, 4, 5, 9, 1, 2], max_depth=3))
    assert path == [3, 4, 5]


def test_the_place_that_agrees_longest_is_trusted_most() -> None:
    text = [7, 1, 2, 3, 3, 3, 9, 1, 2, 4, 4, 4, 8, 1, 2, 4, 4, 4, 7, 1, 2]
    assert told(ngram_tree(text, max_nodes=1)) == [[3]]


def test_several_places_make_a_tree() -> None:
    tree = ngram_tree([1, 2, 3, 4, 9, 1, 2, 3, 5, 9, 1, 2], max_depth=2)
    assert told(tree) == [[3, 4], [3, 5]]
    assert len(tree.children(0)) == 1


@pytest.mark.parametrize("text", [[1], [1, 2], [1, 2, 3], [2, 1, 1, 2], [1, 1]])
def test_proposes_nothing_where_nothing_matches(text: list[int]) -> None:
    assert told(ngram_tree(text)) == [[]]


def test_a_match_may_reach_into_the_last_tokens() -> None:
    assert told(ngram_tree([1, 1, 1])) == [[1]]
    assert told(ngram_tree([1, 2, 1, 2])) == [[1, 2]]


def test_looks_at_the_latest_places_only() -> None:
    text = [1, 2, 5, *([1, 2, 6] * 8), 1, 2]
    assert 5 in ngram_tree(text, max_nodes=99, max_places=9).tokens
    assert 5 not in ngram_tree(text, max_nodes=99, max_places=8).tokens


def test_min_match_tokens_must_agree() -> None:
    text = [4, 1, 5, 9, 3, 1]
    assert told(ngram_tree(text)) == [[]]
    assert told(ngram_tree(text, max_depth=2, min_match=1)) == [[5, 9]]


def test_a_released_request_leaves_no_index() -> None:
    speculator = NGramSpeculator()
    make_room(speculator, 0, 100)
    speculator.draft([Context(0, [1, 2, 1, 2], 9)])
    let_go(speculator, 0)
    assert not speculator._indices


def test_output_is_searched_as_it_is_written() -> None:
    speculator = NGramSpeculator()
    make_room(speculator, 0, 100)
    text = [1, 2]
    for token, expected in ((3, []), (1, []), (2, [3, 1, 2]), (3, [1, 2, 3])):
        text.append(token)
        (tree,) = speculator.draft([Context(0, text, 3)])
        assert told(tree) == [expected]


# SSMs


@pytest.mark.parametrize("draft", SSMS.values(), ids=SSMS)
@pytest.mark.parametrize("seed", range(3))
def test_holds_the_kv_of_the_text_after_any_history(draft: Draft, seed: int) -> None:
    """Texts are computed in any parts; of one that is not yet known to its end nothing is drawn."""
    generator = random.Random(seed)
    ssm, texts = make_ssm(draft, SIZES), prompts()
    for request in range(3):
        make_room(ssm, request, 96)
    for _ in range(6):
        contexts = [
            Context(
                r,
                text,
                generator.choice([0, 1, 3, 8]),
                computed=generator.choice(
                    [None, generator.randint(ssm.slots.length(r) + 1, len(text))]
                ),
            )
            for r, text in enumerate(texts)
        ]
        trees = ssm.draft(contexts)
        for context, tree in zip(contexts, trees, strict=True):
            assert len(tree) == 1 or context.may_draw
            if context.max_depth and context.computed:
                assert ssm.slots.length(context.request) == context.computed
        accepted = {r: accepted_tokens(tree, generator) for r, tree in enumerate(trees)}
        ssm.accept(accepted)
        for request, tokens in accepted.items():
            texts[request] += tokens
            decoder = decoder_of(ssm)
            text = as_read(draft, texts[request])
            assert audit_kv(decoder, draft.model, request, text, draft.layers) < 1e-4


@pytest.mark.parametrize(
    "expansion", [(1,), (3, 2), (2, 2, 2), (1, 1, 3, 1, 1, 1, 1, 1), (12, 1)], ids=str
)
def test_expands_every_node_by_its_likeliest_children(expansion: tuple[int, ...]) -> None:
    ssm = make_ssm(Draft(LLM, expansion), SIZES)
    text = prompts()[1]
    make_room(ssm, 0, 96)
    (tree,) = ssm.draft([Context(0, text, 99)])
    assert len(tree) - 1 == ssm.max_nodes == sum(level_sizes(expansion))
    assert [tree.depths.count(d + 1) for d in range(len(expansion))] == level_sizes(expansion)
    for node in range(len(tree)):
        children = tree.children(node)
        if children:
            logits = plain_forward(LLM, text + tree.path(node)[1:]).logits[-1]
            best = logits.topk(len(children))
            assert [tree.tokens[child] for child in children] == best.indices.tolist()
            log_probs = tree.log_probs[node] + logits.log_softmax(-1)[best.indices]
            found = torch.tensor([tree.log_probs[child] for child in children]).double()
            torch.testing.assert_close(found, log_probs, atol=1e-4, rtol=1e-4)


def test_the_paper_s_expansion() -> None:
    assert level_sizes(DEFAULT_EXPANSION) == [1, 1, 3, 3, 3, 3, 3, 3]
    assert sum(level_sizes(DEFAULT_EXPANSION)) == 20


@pytest.mark.parametrize("expansion", [(), (0,), (2, -1, 3)], ids=str)
def test_refuses_an_expansion_that_makes_no_tree(expansion: tuple[int, ...]) -> None:
    with pytest.raises(TreeError, match=r"expansion \[.*\]: expected widths of at least 1"):
        level_sizes(expansion)


def test_refuses_more_children_than_there_are_tokens() -> None:
    with pytest.raises(TreeError, match=r"at most the vocabulary's \d+ tokens"):
        make_ssm(Draft(LLM, (1, 9999)), SIZES)


def test_the_llm_as_its_own_ssm_is_always_right() -> None:
    """What it has accepted, it keeps: it never guesses wrong for having lost its place."""
    text = prompts()[1]
    output = plain_greedy(LLM, text, 40)
    ssm = make_ssm(Draft(LLM, (1, 2, 1, 1)), SIZES)
    make_room(ssm, 0, 96)
    written = 0
    while written < 36:
        (tree,) = ssm.draft([Context(0, text + output[:written], 99)])
        nodes = tree.follow(output[written:])
        assert len(nodes) == 4
        assert decoder_of(ssm).slots.length(0) == len(text) + written
        ssm.accept({0: output[written : written + 5]})
        written += 5


def test_keeps_the_kv_of_accepted_nodes_that_it_computed() -> None:
    """Leaves are not computed; nor is another drafter's token, or the LLM's own."""
    ssm = make_ssm(Draft(LLM, (2, 1, 1)), SIZES)
    decoder, text = decoder_of(ssm), prompts()[1]
    make_room(ssm, 0, 96)
    for accepted_depth, kept in ((3, 2), (2, 2), (1, 1), (0, 0)):
        (tree,) = ssm.draft([Context(0, text, 99)])
        second = tree.path(tree.children(tree.children(tree.children(0)[1])[0])[0])[1:]
        accepted = [*second[:accepted_depth], 11]
        cached = decoder.slots.length(0)
        assert cached == len(text)
        ssm.accept({0: accepted})
        text += accepted
        assert decoder.slots.length(0) == cached + kept
        assert audit_kv(decoder, LLM, 0, text) < 1e-4


def test_a_full_pool_takes_no_more_requests() -> None:
    ssm = make_ssm(Draft(LLM, (2, 1)), Sizes(requests=2, length=32))
    assert make_room(ssm, 0, 32)
    assert make_room(ssm, 1, 32)
    assert not make_room(ssm, 2, 1)
    let_go(ssm, 0)
    assert not make_room(ssm, 2, 16 * ssm.slots.num_available + 1)
    assert make_room(ssm, 2, 16 * ssm.slots.num_available)
