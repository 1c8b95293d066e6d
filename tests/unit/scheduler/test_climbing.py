"""Over lanes trees may be of any size from iteration to iteration; texts are the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from lane_drafts import DRAFTS, GOOD, MODEL, PROMPTS, SIZES
from tiny_models import (
    Bench,
    Draft,
    audit_kv,
    make_bench,
    plain_greedy,
)

from specinfer.scheduler import engine
from specinfer.scheduler.kv_pages import num_pages
from specinfer.scheduler.lanes.ladder import Climb, Ladder
from specinfer.scheduler.lanes.rungs import Rung
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.step_cost import StepCost

SAMPLED = [
    SamplingParams(temperature=0.8, seed=7),
    SamplingParams(temperature=1.3, top_p=0.7, seed=(1 << 64) - 1),
    SamplingParams(),
    SamplingParams(temperature=0.6, top_k=2, seed=0),
    SamplingParams(temperature=1.0, min_p=0.2),
    SamplingParams(temperature=2.0, top_k=9, top_p=0.9, min_p=0.05, seed=3),
]


class AnyRung:
    """A ladder that takes chances, and likes to stay."""

    def __init__(self, rungs: Sequence[Rung], seed: int) -> None:
        self.rungs = rungs
        self.told: list[Climb] = []
        self.asked: list[int] = []
        self._generator = random.Random(seed)

    def begin(self) -> None:
        """Nothing is in flight."""
        del self.asked[len(self.told) :]

    def next(self, lanes: int, left: int) -> int:
        """Any of them."""
        assert lanes > 0
        assert left > 0
        if not self.asked or self._generator.random() < 0.4:
            self.asked.append(self._generator.randrange(len(self.rungs)))
        else:
            self.asked.append(self.asked[-1])
        return self.asked[-1]

    def took(self, climb: Climb) -> None:
        """Take it down."""
        assert self.asked[len(self.told)] == climb.rung
        self.told.append(climb)


def adaptive_bench(drafts: Sequence[Draft | Speculator], ahead: int = 1) -> Bench:
    """An engine over lanes whose trees are adaptive."""
    cost = StepCost((1, 64), (1.0, 2.0))
    return make_bench(MODEL, drafts, SIZES, lookahead=ahead, lanes=True, cost=cost)


@pytest.fixture
def chance(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[AnyRung]]:
    """Engines that are made from now on have such ladders, which are put into a list."""

    def use(seed: int) -> list[AnyRung]:
        made: list[AnyRung] = []

        def make(rungs: Sequence[Rung], cost: StepCost) -> AnyRung:
            made.append(AnyRung(rungs, seed))
            return made[-1]

        monkeypatch.setattr(engine, "Ladder", make)
        return made

    return use


def requests(params: Sequence[SamplingParams] = ()) -> list[Request]:
    made = []
    for id, prompt in enumerate(PROMPTS):
        one = Request(id=id, prompt=prompt, max_new_tokens=40, eos_ids=frozenset({-1}))
        if params:
            one.sampling = params[id]
        made.append(one)
    return made


def assert_free(bench: Bench) -> None:
    for decoder in [bench.llm, *(decoder for decoder, _ in bench.ssms)]:
        assert not decoder.slots.requests
        assert decoder.slots.num_available == SIZES.requests * (num_pages(SIZES.length) + 1)


@pytest.mark.parametrize("ahead", [1, 2])
@pytest.mark.parametrize("drafts", DRAFTS)
def test_writes_what_the_oracle_writes(
    drafts: str, ahead: int, chance: Callable[[int], list[AnyRung]]
) -> None:
    ladders = chance(ahead)
    bench = adaptive_bench(DRAFTS[drafts], ahead)
    for _ in range(3):
        assert bench.write(requests()) == [plain_greedy(MODEL, prompt, 40) for prompt in PROMPTS]
    (ladder,) = ladders
    assert {climb.rung for climb in ladder.told} == {*range(len(ladder.rungs))}
    assert bench.engine.stats.num_by_lanes == len(ladder.told) > 60
    nodes = {ladder.rungs[climb.rung].nodes for climb in ladder.told}
    assert bench.engine.stats.by_nodes.keys() == nodes
    assert_free(bench)


@pytest.mark.parametrize("drafts", DRAFTS)
def test_samples_what_decoding_samples(drafts: str, chance: Callable[[int], list[AnyRung]]) -> None:
    (ladders, bench) = chance(5), adaptive_bench(DRAFTS[drafts])
    texts = [bench.write(requests(SAMPLED)) for _ in range(2)]
    plain = adaptive_bench([]).write(requests(SAMPLED))
    assert texts == [plain, plain]
    assert len(ladders[0].told) > 40


@pytest.mark.parametrize("drafts", ["an SSM", "two SSMs", "three"])
@pytest.mark.parametrize("seed", range(3))
def test_ssms_have_what_the_host_thinks_they_have(
    drafts: str, seed: int, chance: Callable[[int], list[AnyRung]]
) -> None:
    """Whenever a stretch ends, the K/V of every SSM are those of the text."""
    chance(seed)
    bench = adaptive_bench(DRAFTS[drafts], 1 + seed % 2)
    generator = random.Random(seed)
    lags = []
    for id in range(12):
        prompt = [generator.randrange(40) for _ in range(generator.randint(1, 30))]
        count = generator.randint(10, 60)
        one = Request(id=id, prompt=prompt, max_new_tokens=count, eos_ids=frozenset({-1}))
        bench.engine.submit(one)
        for _ in range(generator.randint(1, 20)):
            bench.engine.step()
            for decoder, draft in bench.ssms:
                for held in decoder.slots.requests:
                    text = bench.engine._requests[held]
                    tokens = [*text.prompt, *text.output]
                    lags.append(len(tokens) - decoder.slots.length(held))
                    if draft.known is None:
                        assert audit_kv(decoder, draft.model, held, tokens) < 1e-4
    for _ in bench.engine.run():
        pass
    assert_free(bench)
    assert max(lags) > 8


def test_a_drafting_that_is_adaptive_has_a_ladder_and_others_have_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []

    def make(rungs: Sequence[Rung], cost: StepCost) -> Ladder:
        made.append(Ladder(rungs, cost))
        return made[-1]

    monkeypatch.setattr(engine, "Ladder", make)
    bench = adaptive_bench([GOOD])
    assert bench.write(requests()) == [plain_greedy(MODEL, prompt, 40) for prompt in PROMPTS]
    assert len(made) == 1
    fixed = make_bench(MODEL, [GOOD], SIZES, lookahead=1, lanes=True)
    fixed.write(requests())
    assert len(made) == 1
    assert fixed.engine.stats.by_nodes.keys() == {6}
