"""Stretches of iterations over lanes write what the oracle writes, and end wherever they may."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from lane_drafts import DRAFTS, GOOD, MODEL, PROMPTS, SIZES
from tiny_models import (
    Bench,
    Draft,
    Sizes,
    make_bench,
    plain_greedy,
)

from specinfer.scheduler.kv_pages import num_pages
from specinfer.scheduler.lanes.loop import Issued, LaneLoop
from specinfer.scheduler.late_tree import LateTree
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.speculators.suffixes import SuffixIndex
from specinfer.scheduler.stats import Stats
from specinfer.scheduler.token_tree import TokenTree

WAYS: dict[str, list[Draft | Speculator]] = {"incremental": [], **DRAFTS}


def request(id: int, prompt: list[int], max_new_tokens: int = 40, eos: int = -1) -> Request:
    return Request(id=id, prompt=prompt, max_new_tokens=max_new_tokens, eos_ids=frozenset({eos}))


def bench_of(drafts: str, ahead: int, sizes: Sizes = SIZES) -> Bench:
    return make_bench(MODEL, WAYS[drafts], sizes, lookahead=ahead, lanes=True)


def assert_free(bench: Bench, sizes: Sizes = SIZES) -> None:
    for decoder in [bench.llm, *(decoder for decoder, _ in bench.ssms)]:
        assert not decoder.slots.requests
        assert decoder.slots.num_available == sizes.requests * (num_pages(sizes.length) + 1)


def issued(bench: Bench) -> int:
    """Iterations over lanes so far."""
    (trace,) = [t for t in bench.engine.runtime.traces if t.name == "lanes"]
    return trace.stats.replayed + trace.stats.analysed


@pytest.mark.parametrize("drafts", WAYS)
def test_lanes_that_nobody_needs_write_nothing(
    drafts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes are 6 for 5 texts, as for 6, so that few numbers of them are recorded."""
    numbers, issue = set[int](), LaneLoop.issue

    def told(loop: LaneLoop, lanes: int, rung: int) -> Issued:
        numbers.add(lanes)
        return issue(loop, lanes, rung)

    monkeypatch.setattr(LaneLoop, "issue", told)
    sizes = Sizes(requests=7, rows=320, length=128)
    bench = bench_of(drafts, 1, sizes)
    for count in (5, 6, 5):  # behind six, the sixth lane has an old text
        requests = [request(id, PROMPTS[id]) for id in range(count)]
        assert bench.write(requests) == [plain_greedy(MODEL, p, 40) for p in PROMPTS[:count]]
    assert numbers == {6}
    assert_free(bench, sizes)


@pytest.mark.parametrize("ahead", [1, 2])
@pytest.mark.parametrize("drafts", WAYS)
def test_writes_what_the_oracle_writes(drafts: str, ahead: int) -> None:
    bench = bench_of(drafts, ahead)
    for _ in range(2):  # the second time under the same numbers
        requests = [request(id, prompt) for id, prompt in enumerate(PROMPTS)]
        assert bench.write(requests) == [plain_greedy(MODEL, prompt, 40) for prompt in PROMPTS]
    assert issued(bench) > 20
    assert_free(bench)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("drafts", WAYS)
def test_tells_what_the_other_way_tells(drafts: str, temperature: float) -> None:
    """Tokens, trees and accepted nodes of each iteration, for a request alone."""

    def told(bench: Bench) -> list[tuple[list[int], list[list[int]], Sequence[int]]]:
        one = request(0, PROMPTS[0], 60)
        one.sampling = SamplingParams(temperature=temperature, seed=5)
        bench.engine.submit(one)
        events = list(bench.engine.run())
        return [(e.tokens, paths(e.tree), e.accepted) for e in events]

    def paths(tree: TokenTree | None) -> list[list[int]]:
        return [] if tree is None else [tree.path(node) for node in range(len(tree))]

    ours = told(bench_of(drafts, 1))
    plain = told(make_bench(MODEL, WAYS[drafts], SIZES))
    # Near the end of its text the host allows no deeper trees than what may still be written.
    depth = 17
    assert ours[:-depth] == plain[:-depth]
    assert [tokens for tokens, *_ in ours] == [tokens for tokens, *_ in plain]


SAMPLED = [
    SamplingParams(temperature=0.8, seed=7),
    SamplingParams(temperature=1.3, top_p=0.7, seed=(1 << 64) - 1),
    SamplingParams(),
    SamplingParams(temperature=0.6, top_k=2, seed=0),
    SamplingParams(temperature=1.0, min_p=0.2),
    SamplingParams(temperature=2.0, top_k=9, top_p=0.9, min_p=0.05, seed=3),
]


@pytest.mark.parametrize("drafts", WAYS)
def test_samples_what_the_other_way_samples(drafts: str) -> None:
    """Also beside a request that does not."""
    texts = []
    for bench in (bench_of(drafts, 1), make_bench(MODEL, WAYS[drafts], SIZES)):
        requests = [request(id, prompt) for id, prompt in enumerate(PROMPTS)]
        for one, params in zip(requests, SAMPLED, strict=True):
            one.sampling = params
        texts.append(bench.write(requests))
        if len(texts) == 1:
            assert issued(bench) > 20
            assert not bench.engine.stats.by_host["sampling"]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("params", "verifier", "draws"),
    [
        (SamplingParams(temperature=0.8, seed=1), "naive", None),
        (SamplingParams(temperature=0.8, seed=1, typical_p=0.9), "coupled", None),
        (SamplingParams(temperature=0.8, seed=1, presence_penalty=0.1), "coupled", None),
        (SamplingParams(temperature=0.8, seed=1), "coupled", "top_k"),
    ],
)
def test_other_ways_to_sample_are_for_the_host(
    params: SamplingParams, verifier: str, draws: str | None
) -> None:
    drafts = [replace(GOOD, draws=draws)]
    bench = make_bench(MODEL, drafts, SIZES, lookahead=1, lanes=True, verifier=verifier)
    one = request(0, PROMPTS[0])
    one.sampling = params
    bench.write([one])
    assert not issued(bench)


@pytest.mark.parametrize("seed", range(6))
def test_requests_come_go_and_are_cancelled(seed: int) -> None:
    generator = random.Random(seed)
    drafts = generator.choice(list(WAYS))
    bench = bench_of(drafts, generator.choice([1, 2]))
    all_of_them: dict[int, Request] = {}
    cancelled: set[int] = set()
    for step in range(150):
        if step < 100 and generator.random() < 0.1:
            prompt = [generator.randrange(40) for _ in range(generator.randint(1, 30))]
            eos = generator.choice([-1, -1, generator.randrange(40)])
            one = request(len(all_of_them), prompt, generator.randint(1, 50), eos)
            if generator.random() < 0.2:
                one.sampling = SamplingParams(temperature=0.7, seed=3)
            all_of_them[one.id] = one
            bench.engine.submit(one)
        if all_of_them and generator.random() < 0.02:
            id = generator.choice(list(all_of_them))
            if all_of_them[id].finish_reason is None:
                cancelled.add(id)
                bench.engine.cancel(id)
        bench.engine.step()
    for _ in bench.engine.run():
        pass
    for id, one in all_of_them.items():
        if id not in cancelled and one.sampling.is_greedy:
            right = plain_greedy(MODEL, one.prompt, one.max_new_tokens)
            (eos,) = one.eos_ids
            right = right[: right.index(eos) + 1] if eos in right else right
            assert one.output == right
        assert id in cancelled or one.finish_reason is not None
    assert_free(bench)


def test_trees_of_ngrams_are_as_deep_as_ssms_have_rows_for() -> None:
    """Three requests in 15 rows: an SSM catches up with 5 tokens each, behind 4 levels."""
    drafts: list[Draft | Speculator] = [Draft(GOOD.model, (1, 1)), NGramSpeculator()]
    bench = make_bench(
        MODEL, drafts, Sizes(requests=3, rows=15, length=128), lookahead=1, lanes=True
    )
    prompts = [[7, 8, 9, 10] * 6, [5] * 30, [1, 2, 3] * 8]
    requests = [request(id, prompt) for id, prompt in enumerate(prompts)]
    for one in requests:
        bench.engine.submit(one)
    trees = [e.tree for e in bench.engine.run() if isinstance(e.verified, LateTree)]
    right = [plain_greedy(MODEL, prompt, 40) for prompt in prompts]
    assert [one.output for one in requests] == right
    assert max(max(tree.depths) for tree in trees if tree) == 4


def test_with_few_pages_it_ends_in_time() -> None:
    sizes = Sizes(requests=3, rows=64, length=128, pages=6)
    bench = bench_of("an SSM", 1, sizes)
    requests = [request(id, prompt, 40) for id, prompt in enumerate(PROMPTS)]
    assert bench.write(requests) == [plain_greedy(MODEL, prompt, 40) for prompt in PROMPTS]


def test_a_corpus_is_searched_on_the_host() -> None:
    ngram = NGramSpeculator(corpus=SuffixIndex([plain_greedy(MODEL, PROMPTS[0], 40)]))
    bench = make_bench(MODEL, [GOOD, ngram], SIZES, lookahead=1, lanes=True)
    requests = [request(id, prompt) for id, prompt in enumerate(PROMPTS)]
    assert bench.write(requests) == [plain_greedy(MODEL, prompt, 40) for prompt in PROMPTS]
    assert not [t for t in bench.engine.runtime.traces if t.name == "lanes"]


@pytest.mark.parametrize("drafts", WAYS)
def test_counts_what_the_other_way_counts(drafts: str) -> None:
    """All statistics, of trees that are never made."""

    def counted(bench: Bench) -> Stats:
        bench.engine.submit(request(0, PROMPTS[0], 60))
        while len(bench.engine.step()[0].request.output) < 35:
            pass
        return bench.engine.stats

    ours, plain = counted(bench_of(drafts, 1)), counted(make_bench(MODEL, WAYS[drafts], SIZES))
    ours.seconds = plain.seconds = {}
    assert ours == plain
