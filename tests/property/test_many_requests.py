"""A thousand short requests through the engine: all answered, none lost or doubled, all returned.

They come over time and end in every way there is: by length, by a token, by a stop string, or
cancelled while they wait or run. The pools are too small for those that run at once.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tiny_models import Bench, Draft, Sizes, make_bench, noisy_copy, tiny_config, tiny_model

from specinfer.models.tokenizer import TextStream
from specinfer.scheduler.batcher import Batcher
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import GREEDY, SamplingParams
from specinfer.scheduler.serving import Serving, Taken
from specinfer.scheduler.speculation import Speculation
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.stopping import StopText

VOCABULARY = 20
MODEL = tiny_model(
    5, tiny_config(vocabulary=VOCABULARY, hidden=16, inner=16, layers=1, heads=2, kv_heads=1)
)
SSM = Draft(noisy_copy(MODEL, 1, 0.05), (2, 1))
SIZES = Sizes(requests=6, rows=48, length=64, pages=5)


class Letters:
    """A tokenizer of which each token is a letter."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return "".join(chr(ord("a") + id) for id in ids)


def a_request(id: int, rng: random.Random) -> Request:
    stop = [rng.choice("abcdefghijklmnopqrst") + rng.choice("abcdefghijklmnopqrst")]
    stop.append(rng.choice("abcdefghijklmnopqrst"))
    return Request(
        id=id,
        prompt=[3] * rng.choice([0, 0, 0, 16])
        + [rng.randrange(20) for _ in range(rng.randint(1, 9))],
        max_new_tokens=rng.choice([1, 3, 30, 36]),
        eos_ids=frozenset({rng.randrange(20)}) if rng.random() < 0.3 else frozenset(),
        stop_ids=frozenset({rng.randrange(20)}) if rng.random() < 0.2 else frozenset(),
        text=StopText(TextStream(Letters()), stop) if rng.random() < 0.3 else None,  # type: ignore[arg-type]
        sampling=rng.choice([GREEDY, SamplingParams(temperature=1.2, top_p=0.9, seed=id)]),
        speculation=rng.choice([Speculation(), Speculation(max_nodes=2), Speculation(False)]),
    )


def a_bench(lookahead: int) -> Bench:
    return make_bench(MODEL, [SSM, NGramSpeculator(4)], SIZES, lookahead=lookahead)


def serve(count: int, seed: int, lookahead: int) -> Counter[str]:
    """Serve so many requests; return what happened, and how often."""
    rng, bench, seen = random.Random(seed), a_bench(lookahead), Counter[str]()
    requests = [a_request(id, rng) for id in range(count)]
    told: list[list[int]] = [[] for _ in requests]
    state: dict[int, str] = {}
    submitted = num_idle = 0
    while submitted < count or not bench.engine.is_idle:
        for request in requests[submitted : submitted + rng.choice([0, 0, 0, 1, 2, 5])]:
            bench.engine.submit(request)
            state[request.id] = "waits"
            submitted += 1
        wanted = rng.choice(["waits", "runs"])
        if rng.random() < 0.15 and (live := [id for id, s in state.items() if s == wanted]):
            id = rng.choice(live)
            bench.engine.cancel(id)
            seen[f"cancelled while it {state[id]}"] += 1
            state[id] = "ended"
        events = bench.engine.step()
        assert len({event.request.id for event in events}) == len(events), "one event each"
        for event in events:
            request = event.request
            assert state[request.id] != "ended", f"request {request.id} ended before"
            assert request is requests[request.id]
            state[request.id] = "runs"
            told[request.id] += event.tokens
            if request.finish_reason:
                seen[request.finish_reason] += 1
                state[request.id] = "ended"
        num_idle = 0 if events else num_idle + 1
        assert num_idle < 30 or submitted < count, "nothing happens"
    assert set(state.values()) == {"ended"}, "all are answered"
    assert len(state) == count
    seen["preempted"] = bench.engine.stats.num_preempted
    seen["found"] = bench.engine.stats.num_cached_tokens
    for decoder in [bench.llm, *(decoder for decoder, _ in bench.ssms)]:
        assert not decoder.slots.requests, "all slots are returned"
        assert decoder.slots.num_available == SIZES.pages
    alone = make_bench(MODEL, [], Sizes(requests=1, rows=48, length=64))
    for request in requests[:: 3 if count > 200 else 1]:
        assert told[request.id] == request.output
        (text,) = alone.write([request.anew()])
        assert request.output == text[: len(request.output)], f"request {request.id}"
        assert not request.finish_reason or request.output == text
    return seen


@pytest.mark.parametrize("lookahead", [0, 1])
def test_a_thousand_short_requests(lookahead: int) -> None:
    count = 1000 if lookahead == 0 else 300
    seen = serve(count, 1, lookahead)
    assert min(seen[reason] for reason in ("eos", "stop", "length")) > 5, seen
    assert seen["preempted"] > count / 100, seen
    assert min(seen[f"cancelled while it {s}"] for s in ("waits", "runs")) > 5, seen
    assert seen["found"] > 100, seen


# Planted bugs


def pages_not_returned(patch: pytest.MonkeyPatch) -> None:
    right = Batcher._give_back

    def give_back(self: Batcher, text: object) -> None:
        if text.id % 10:  # type: ignore[attr-defined]
            right(self, text)  # type: ignore[arg-type]

    patch.setattr(Batcher, "_give_back", give_back)


def a_token_is_lost_when_preempted(patch: pytest.MonkeyPatch) -> None:
    right = Batcher._preempt

    def preempt(self: Batcher) -> int:
        text = self._running[-1]
        if text.has_output:
            text.tokens.pop()
        return right(self)

    patch.setattr(Batcher, "_preempt", preempt)


def cancelled_requests_go_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Serving, "cancel", lambda self, id: None)


def an_end_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    right = Serving._outcomes

    def outcomes(self: Serving) -> object:
        return {id: o for id, o in right(self).items() if not o.has_ended or id % 7}

    patch.setattr(Serving, "_outcomes", outcomes)


def events_come_twice(patch: pytest.MonkeyPatch) -> None:
    right = Serving.take

    def take(self: Serving, *args: object) -> list[Taken]:
        taken = right(self, *args)  # type: ignore[arg-type]
        return [*taken, *taken[:1]] if taken and taken[0].request % 9 == 0 else taken

    patch.setattr(Serving, "take", take)


def a_stop_string_is_missed_at_the_end_of_an_accepted_run(patch: pytest.MonkeyPatch) -> None:
    right = Request.take

    def take(self: Request, tokens: Sequence[int], logprobs: object = ()) -> list[int]:
        if len(tokens) > 1 and self.text is not None:
            self._stopping = replace(self._stopping, text=None)
        return right(self, tokens)

    patch.setattr(Request, "take", take)


BUGS = [
    pages_not_returned,
    a_token_is_lost_when_preempted,
    cancelled_requests_go_on,
    an_end_is_forgotten,
    events_come_twice,
    a_stop_string_is_missed_at_the_end_of_an_accepted_run,
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_finds(bug: object, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)  # type: ignore[operator]
    with pytest.raises((AssertionError, KeyError, IndexError)):
        serve(200, 2, 0)
