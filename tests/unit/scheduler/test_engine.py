from __future__ import annotations

import pytest
import torch
from tiny_models import Bench, Draft, Sizes, make_bench, noisy_copy, plain_greedy, tiny_model

from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.scheduler.engine import Event
from specinfer.scheduler.errors import RequestError
from specinfer.scheduler.kv_pages import num_pages
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.ngram import NGramSpeculator

MODEL = tiny_model(4)
SIZES = Sizes(requests=2, rows=16, length=64)


@pytest.fixture(params=["incremental", "SSM", "SSM and n-gram"])
def bench(request: pytest.FixtureRequest) -> Bench:
    ssm = Draft(noisy_copy(MODEL, 1, 0.02), (2, 1, 1))
    drafts: dict[str, list[Draft | Speculator]] = {
        "incremental": [],
        "SSM": [ssm],
        "SSM and n-gram": [ssm, NGramSpeculator()],
    }
    return make_bench(MODEL, drafts[request.param], SIZES)


def make_request(id: int, prompt: list[int], max_new_tokens: int = 8, eos: int = -1) -> Request:
    return Request(id=id, prompt=prompt, max_new_tokens=max_new_tokens, eos_ids=frozenset({eos}))


def everything_is_free(bench: Bench) -> bool:
    decoders = [bench.llm, *(decoder for decoder, _ in bench.ssms)]
    pages = SIZES.requests * (num_pages(SIZES.length) + 1)
    return all(not d.slots.requests and d.slots.num_available == pages for d in decoders)


def test_requests_join_and_leave_between_iterations(bench: Bench) -> None:
    first = make_request(0, [1, 2, 3], 20)
    bench.engine.submit(first)
    events = bench.engine.step()
    assert [(e.request.id, len(e.tokens), e.tree) for e in events] == [(0, 1, None)]
    bench.engine.step()
    late = make_request(1, [4, 5], 3)
    bench.engine.submit(late)
    events = bench.engine.step()
    assert {event.request.id for event in events} == {0, 1}
    for _ in bench.engine.run():
        pass
    assert first.output == plain_greedy(MODEL, [1, 2, 3], 20)
    assert late.output == plain_greedy(MODEL, [4, 5], 3)
    again = make_request(2, [4, 5], 3)
    assert bench.write([again]) == [late.output]
    assert everything_is_free(bench)


@pytest.mark.parametrize("processors", [("cpu",), ("numba", "cpu")], ids=["torch", "numba"])
def test_threads_write_what_a_serial_run_writes(processors: tuple[str, ...]) -> None:
    executor = ThreadedExecutor(3, lambda: torch.set_num_threads(1))
    ssms = [Draft(noisy_copy(MODEL, n, 0.02), (2, 1, 1)) for n in (1, 2)]
    bench = make_bench(MODEL, [*ssms, NGramSpeculator()], SIZES, processors, executor)
    requests = [make_request(n, [n + 1] * (7 * n + 1), 20) for n in range(4)]
    outputs = bench.write(requests)
    executor.close()
    assert outputs == [plain_greedy(MODEL, r.prompt, 20) for r in requests]


def test_requests_wait_in_order_while_slots_are_out(bench: Bench) -> None:
    requests = [make_request(n, [n + 1] * (3 * n + 1), 6) for n in range(5)]
    for request in requests:
        bench.engine.submit(request)
    order: list[int] = []
    while not bench.engine.is_idle:
        events = bench.engine.step()
        assert len(events) <= SIZES.requests
        assert set(bench.llm.slots.requests) <= {event.request.id for event in events}
        order += [e.request.id for e in events if e.request.id not in order]
    assert order == [0, 1, 2, 3, 4]
    assert [r.output for r in requests] == [plain_greedy(MODEL, r.prompt, 6) for r in requests]
    assert everything_is_free(bench)


def test_a_long_request_that_waits_for_pages_is_not_overtaken() -> None:
    bench = make_bench(MODEL, [], Sizes(requests=3, rows=16, length=32))
    bench.llm.slots.reserve(99, 112)  # somebody else's: two pages are left
    requests = [make_request(0, [1], 3), make_request(1, [2] * 20, 12), make_request(2, [3], 3)]
    for request in requests:
        bench.engine.submit(request)
    ended = [e.request.id for e in bench.engine.run() if e.request.finish_reason]
    assert ended == [0, 1, 2]


def test_prompts_are_computed_in_chunks_beside_trees(bench: Bench) -> None:
    long = make_request(0, [n % 7 for n in range(50)], 4)
    short = make_request(1, [1, 2], 14)
    bench.engine.submit(short)
    bench.engine.step()
    bench.engine.submit(long)
    together = 0
    for _ in range(3):
        events = bench.engine.step()
        kinds = {event.request.id: event.tree is None for event in events}
        together += kinds == {0: True, 1: False}
    assert together >= 2
    for _ in bench.engine.run():
        pass
    assert long.output == plain_greedy(MODEL, long.prompt, 4)
    assert short.output == plain_greedy(MODEL, [1, 2], 14)
    assert bench.engine.stats.num_prompt_tokens == 52


@pytest.mark.parametrize("prompt_length", [1, 15, 16, 17, 63])
def test_a_text_of_one_token(bench: Bench, prompt_length: int) -> None:
    request = make_request(0, [3] * prompt_length, 1)
    assert bench.write([request]) == [plain_greedy(MODEL, request.prompt, 1)]
    assert request.finish_reason == "length"
    assert bench.engine.stats.num_steps == 0, "the prompt's own pass gives the first token"
    assert everything_is_free(bench)


def test_a_text_that_fills_the_context(bench: Bench) -> None:
    request = make_request(0, [3, 1, 4], 61)
    assert bench.write([request]) == [plain_greedy(MODEL, [3, 1, 4], 61)]


def test_a_text_that_ends_at_once(bench: Bench) -> None:
    (token,) = plain_greedy(MODEL, [3, 1, 4], 1)
    request = make_request(0, [3, 1, 4], 30, eos=token)
    assert bench.write([request]) == [[token]]
    assert request.finish_reason == "eos"
    assert everything_is_free(bench)


def test_events_tell_all_tokens_in_order(bench: Bench) -> None:
    requests = [make_request(0, [1, 2, 3], 17), make_request(1, [5], 9)]
    for request in requests:
        bench.engine.submit(request)
    told: dict[int, list[int]] = {0: [], 1: []}
    events: list[Event] = []
    for event in bench.engine.run():
        told[event.request.id] += event.tokens
        assert told[event.request.id] == event.request.output
        events.append(event)
    verified = [event for event in events if event.tree is not None]
    stats = bench.engine.stats
    assert stats.num_tokens == 26
    assert stats.num_steps == len(verified)
    assert stats.num_step_tokens == 24 == sum(len(event.tokens) for event in verified)
    assert stats.num_nodes == sum(len(event.tree) - 1 for event in verified if event.tree)
    for event in verified:
        assert event.tree is not None
        path = [event.tree.tokens[node] for node in event.accepted]
        assert event.tokens[: len(path)] == path
        assert len(event.tokens) - len(path) in (0, 1)


def test_the_llm_as_its_own_ssm_gets_whole_trees() -> None:
    bench = make_bench(MODEL, [Draft(MODEL, (1, 2, 1))], SIZES)
    request = make_request(0, [1, 2, 3], 41)
    bench.write([request])
    assert bench.engine.stats.tokens_per_step == 4.0


def test_an_idle_engine_has_nothing_to_do(bench: Bench) -> None:
    assert bench.engine.is_idle
    assert list(bench.engine.run()) == []


@pytest.mark.parametrize(
    ("prompt", "max_new_tokens", "message"),
    [
        ([], 3, r"request 7: the prompt has no tokens, expected 1 or more"),
        ([1, -1], 3, r"request 7: token -1, expected 0 to \d+"),
        ([1, 9999], 3, r"request 7: token 9999, expected 0 to \d+"),
        ([1], 0, r"request 7: max_new_tokens is 0, expected at least 1"),
        ([1], -1, r"request 7: max_new_tokens is -1, expected at least 1"),
        ([1] * 60, 5, r"request 7: 60 prompt tokens and 5 new ones, expected at most 64 together"),
        ([1] * 65, 1, r"request 7: 65 prompt tokens and 1 new ones, expected at most 64 together"),
    ],
)
def test_refuses_a_request_that_can_never_be_served(
    bench: Bench, prompt: list[int], max_new_tokens: int, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        bench.engine.submit(make_request(7, prompt, max_new_tokens))
    assert bench.engine.is_idle


def test_refuses_a_number_that_is_in_use(bench: Bench) -> None:
    bench.engine.submit(make_request(7, [1], 3))
    with pytest.raises(RequestError, match="request 7: this number is in use, expected another"):
        bench.engine.submit(make_request(7, [2], 3))
    list(bench.engine.run())
    bench.engine.submit(make_request(7, [2], 3))  # it is free again


def test_a_cancelled_request_leaves_nothing_behind(bench: Bench) -> None:
    requests = [make_request(n, [n + 1], 20) for n in range(4)]  # two run, two wait
    for request in requests:
        bench.engine.submit(request)
    for _ in range(3):
        bench.engine.step()
    bench.engine.cancel(0)
    bench.engine.cancel(3)
    list(bench.engine.run())
    assert [r.finish_reason for r in requests] == [None, "length", "length", None]
    assert [r.output for r in requests[1:3]] == [
        plain_greedy(MODEL, r.prompt, 20) for r in requests[1:3]
    ]
    assert everything_is_free(bench)
