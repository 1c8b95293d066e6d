"""Iterations that are issued ahead write what iterations do that are waited for."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from tiny_models import (
    Bench,
    Draft,
    Sizes,
    audit_kv,
    make_bench,
    noisy_copy,
    plain_greedy,
    tiny_config,
    tiny_model,
)

from specinfer.ops import sample
from specinfer.runtime.errors import PoisonedError
from specinfer.runtime.executor import Executor
from specinfer.runtime.executor.serial import SerialExecutor
from specinfer.runtime.executor.shuffled import ShuffledExecutor
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.privilege import RW, WD, R
from specinfer.runtime.task import task
from specinfer.scheduler import pipeline
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import GREEDY, SamplingParams
from specinfer.scheduler.speculators import Context, ssm
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.token_tree import TokenTree

MODEL = tiny_model(3, tiny_config())
SSMS = [Draft(noisy_copy(MODEL, n, 0.02), (2, 1, 1)) for n in (1, 2)]
BEST_FIRST = Draft(noisy_copy(MODEL, 1, 0.02), (3, 2, 2), nodes=6)
Drafters = Sequence[Callable[[], Any]]
DRAFTERS: dict[str, Drafters] = {
    "none": [],
    "n-grams": [lambda: NGramSpeculator(6)],
    "an SSM": [lambda: SSMS[0]],
    "two SSMs and n-grams": [lambda: SSMS[0], lambda: NGramSpeculator(6), lambda: SSMS[1]],
    "an SSM, best first": [lambda: BEST_FIRST],
}
EXECUTORS: dict[str, Callable[[], Executor]] = {
    "serial": SerialExecutor,
    "shuffled": partial(ShuffledExecutor, 5),
    "threads": partial(ThreadedExecutor, 2, lambda: torch.set_num_threads(1)),
}


def some_requests(seed: int, sampling: SamplingParams = GREEDY, count: int = 9) -> list[Request]:
    rng = random.Random(seed)
    return [
        Request(
            id=id,
            prompt=[5] * rng.choice([0, 16])
            + [rng.randrange(40) for _ in range(rng.randint(1, 30))],
            max_new_tokens=rng.randint(1, 40),
            eos_ids=frozenset({7}) if id % 3 == 0 else frozenset(),
            sampling=sampling,
        )
        for id in range(count)
    ]


def bench_of(
    drafters: Drafters, lookahead: int, executor: Executor | None = None, pages: int = 0
) -> Bench:
    sizes = Sizes(requests=3, rows=32, length=128, pages=pages)
    return make_bench(
        MODEL, [make() for make in drafters], sizes, executor=executor, lookahead=lookahead
    )


def nobody_is_left(bench: Bench) -> bool:
    decoders = [bench.llm, *(decoder for decoder, _ in bench.ssms)]
    return not any(decoder.slots.requests for decoder in decoders)


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    made = EXECUTORS[request.param]()
    yield made
    made.close()


@pytest.mark.parametrize("drafters", DRAFTERS.values(), ids=DRAFTERS)
@pytest.mark.parametrize(
    "sampling", [GREEDY, SamplingParams(temperature=1.0, seed=3)], ids=["greedy", "coupled"]
)
def test_writes_the_same_texts(
    drafters: Drafters, sampling: SamplingParams, executor: Executor
) -> None:
    expected = bench_of([], 0).write(some_requests(0, sampling))
    for lookahead in (1, 2):
        bench = bench_of(drafters, lookahead, executor)
        requests = some_requests(0, sampling)
        assert bench.write(requests) == expected
        assert all(request.finish_reason for request in requests)
        assert nobody_is_left(bench)


def serve(seed: int, executor: Executor) -> int:
    """Serve requests that come and go in pools that are too small; return the preemptions."""
    rng = random.Random(seed)
    bench = bench_of(DRAFTERS["two SSMs and n-grams"], 1, executor, pages=6)
    requests, cancelled, submitted = some_requests(seed), set(), 0
    events: dict[int, list[int]] = {request.id: [] for request in requests}
    while submitted < len(requests) or not bench.engine.is_idle:
        if submitted < len(requests) and rng.random() < 0.8:
            bench.engine.submit(requests[submitted])
            submitted += 1
        if rng.random() < 0.03:
            request = requests[rng.randrange(submitted)] if submitted else requests[0]
            bench.engine.cancel(request.id)
            if not request.finish_reason and submitted:
                cancelled.add(request.id)
        for event in bench.engine.step():
            assert event.request.id not in cancelled
            events[event.request.id] += event.tokens
            assert events[event.request.id] == event.request.output, "what was read, and no more"
    for request in requests:
        right = bench_of([], 0).write([request.anew()])[0]
        assert request.output == right[: len(request.output)]
        assert request.finish_reason or request.id in cancelled
    assert nobody_is_left(bench)
    return bench.engine.stats.num_preempted


def test_the_same_with_preemptions_and_arrivals_and_cancellations(executor: Executor) -> None:
    assert sum(serve(seed, executor) for seed in range(2)) > 0


def test_kv_are_those_of_the_texts(executor: Executor) -> None:
    bench = bench_of(DRAFTERS["two SSMs and n-grams"], 1, executor)
    requests = some_requests(1, count=3)
    for request in requests:
        bench.engine.submit(request)
    for _ in range(6):
        bench.engine.step()
    bench.engine.runtime.fence()  # one more has run than was read
    served = bench.engine._serving.requests
    assert served
    models = [(decoder, draft.model) for decoder, draft in bench.ssms]
    for decoder, model in [(bench.llm, MODEL), *models]:
        for id in decoder.slots.requests:
            assert audit_kv(decoder, model, id, served[id].tokens) < 1e-4


def test_the_next_iteration_is_issued_before_one_was_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_go_on, right = threading.Event(), pipeline.take

    @task(desk=RW)
    def take(desk: Any, serving: Any, round: Any, trees: Any, found: Any) -> Any:
        assert may_go_on.wait(30), "the host waits for an iteration before it issues the next"
        return right(desk, serving, round, trees, found)

    monkeypatch.setattr(pipeline, "take", take)
    executor = EXECUTORS["threads"]()
    bench = bench_of(DRAFTERS["an SSM"], 2, executor)
    (request,) = some_requests(2, count=1)
    bench.engine.submit(request)
    ahead = bench.engine._pipeline
    assert ahead is not None
    for issued in range(3):
        assert ahead.num_in_flight == issued
        ahead.issue()
    may_go_on.set()
    for _ in bench.engine.run():
        pass
    executor.close()
    assert request.output == bench_of([], 0).write(some_requests(2, count=1))[0]


@pytest.mark.parametrize("lookahead", [0, 1])
def test_ssms_draw_at_the_same_time(monkeypatch: pytest.MonkeyPatch, lookahead: int) -> None:
    """Each level of one is computed while a level of the other is: they meet."""
    meeting = threading.Barrier(2)
    if lookahead:
        right = pipeline.expand

        @task(logits=R, pure=True)
        def expand(logits: torch.Tensor, level: Any, vocabulary: Any) -> Any:
            meeting.wait(30)
            return right(logits, level, vocabulary)

        monkeypatch.setattr(pipeline, "expand", expand)
    else:

        @task(logits=R, tokens=WD, log_probs=WD)
        def top_k(logits: torch.Tensor, tokens: torch.Tensor, log_probs: torch.Tensor) -> None:
            meeting.wait(30)
            sample.top_k(logits, tokens, log_probs)

        monkeypatch.setattr(ssm, "top_k", top_k)
    executor = EXECUTORS["threads"]()
    bench = bench_of([lambda: SSMS[0], lambda: SSMS[1]], lookahead, executor)
    (request,) = some_requests(2, count=1)
    bench.write([request])
    executor.close()
    assert not meeting.broken
    assert request.output == plain_greedy(MODEL, request.prompt, len(request.output))


class Faulty(NGramSpeculator):
    """Raises now and then, in one of its methods."""

    def __init__(self, where: str, every: int) -> None:
        super().__init__(6)
        self._where, self._every, self._num_calls = where, every, 0

    def _called(self, where: str) -> None:
        self._num_calls += where == self._where
        if where == self._where and self._num_calls % self._every == 0:
            raise ZeroDivisionError("a speculator's own error")

    def draft(self, contexts: Sequence[Context]) -> list[TokenTree]:
        self._called("draft")
        return super().draft(contexts)

    def accept(self, tokens: Mapping[int, Sequence[int]]) -> None:
        self._called("accept")
        super().accept(tokens)

    def release(self, request: int) -> None:
        super().release(request)
        self._called("release")


def serve_on(bench: Bench, requests: Sequence[Request]) -> int:
    """Serve requests whatever happens; what events tell must be the texts. Returns the failures."""
    for request in requests:
        bench.engine.submit(request)
    told: dict[int, list[int]] = {request.id: [] for request in requests}
    num_failed = 0
    while not bench.engine.is_idle:
        try:
            for event in bench.engine.step():
                told[event.request.id] += event.tokens
        except (PoisonedError, ZeroDivisionError, KeyboardInterrupt):
            num_failed += 1
            assert num_failed < 100, "it does not go on"
    assert [request.output for request in requests] == list(told.values())
    assert all(request.finish_reason for request in requests)
    return num_failed


@pytest.mark.parametrize("lookahead", [0, 1, 2])
@pytest.mark.parametrize(
    ("where", "every"), [("draft", 5), ("draft", 2), ("accept", 4), ("release", 3)]
)
def test_goes_on_behind_a_speculator_that_raises(
    executor: Executor, where: str, every: int, lookahead: int
) -> None:
    bench = bench_of([lambda: SSMS[0], lambda: Faulty(where, every)], lookahead, executor)
    requests = some_requests(4, count=5)
    assert serve_on(bench, requests) > 0
    assert [r.output for r in requests] == bench_of([], 0).write(some_requests(4, count=5))
    assert nobody_is_left(bench)


@pytest.mark.parametrize("lookahead", [0, 1])
def test_goes_on_behind_an_interrupt_amid_a_pass(
    monkeypatch: pytest.MonkeyPatch, lookahead: int
) -> None:
    """K/V, and what attention looks at, were then written in part."""
    right, num_calls = torch.Tensor.index_copy_, 0

    def index_copy(self: torch.Tensor, *args: Any) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        if num_calls % 41 == 0:
            raise KeyboardInterrupt
        return right(self, *args)

    monkeypatch.setattr(torch.Tensor, "index_copy_", index_copy)
    bench = bench_of([lambda: SSMS[0]], lookahead)
    requests = some_requests(4, count=3)
    assert serve_on(bench, requests) > 2
    monkeypatch.undo()
    assert [r.output for r in requests] == bench_of([], 0).write(some_requests(4, count=3))


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_a_number_that_is_used_again_is_another_request(lookahead: int) -> None:
    bench = bench_of([lambda: SSMS[0]], lookahead)
    first = Request(id=7, prompt=[1, 2, 3], max_new_tokens=30)
    bench.engine.submit(first)
    for _ in range(3):
        bench.engine.step()
    bench.engine.cancel(7)
    second = Request(id=7, prompt=[9, 8], max_new_tokens=12)
    assert bench.write([second]) == [plain_greedy(MODEL, [9, 8], 12)]


@pytest.mark.parametrize("lookahead", [0, 1])
def test_goes_on_from_what_was_written_before(lookahead: int) -> None:
    right = plain_greedy(MODEL, [1, 2, 3], 14)
    request = Request(id=0, prompt=[1, 2, 3], max_new_tokens=14)
    request.take(right[:5])
    assert bench_of([lambda: SSMS[0]], lookahead).write([request]) == [right]


@pytest.mark.parametrize("lookahead", [0, 1])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_guess_behind_which_nothing_is_allowed_is_a_leaf(
    lookahead: int, temperature: float
) -> None:
    """An SSM may say nothing at all behind a token that the LLM never takes."""

    def write(drafters: Drafters, ahead: int, never: int | None = None) -> list[list[int]]:
        banned = () if never is None else tuple((never, token) for token in range(40))
        sampling = SamplingParams(temperature=temperature, seed=1, bad_words=banned)
        requests = [Request(id=n, prompt=[n], max_new_tokens=9, sampling=sampling) for n in (1, 2)]
        return bench_of(drafters, ahead).write(requests)

    expected = write([], 0)
    never = min({*range(3, 40)}.difference(*expected))
    wide = Draft(noisy_copy(MODEL, 1, 0.02), (40, 1))
    assert write([lambda: wide], lookahead, never) == expected
