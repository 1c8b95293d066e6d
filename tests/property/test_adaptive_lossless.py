"""Trees whose size anything may decide: texts and the SSM's K/V are right all the same.

The times that the policy is told are made up, and other ones at every agreement, so that drafters
are asked for much, for little and not at all, and trees are cut in all ways. The oracle is
incremental decoding.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from tiny_models import Draft, Sizes, audit_kv, make_bench, noisy_copy, tiny_model

from specinfer.scheduler.adaptive import AdaptiveTrees, Times
from specinfer.scheduler.engine import Engine
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.speculation import UNLIMITED, Speculation
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.step_cost import StepCost

MODEL = tiny_model(4)
CLOSE = noisy_copy(MODEL, 1, 0.01)
SIZES = Sizes(requests=3, rows=24, length=112)
TOKENS = 48


def requests(seed: int, *, is_sampled: bool) -> list[Request]:
    """Some that say nothing of speculation, and some that limit it."""
    generator = random.Random(seed)
    found = []
    for number in range(6):
        temperature = generator.choice([0.7, 1.0]) if is_sampled else 0.0
        limits = [UNLIMITED, Speculation(False), Speculation(True, 3, 2), Speculation(True, 0, 1)]
        found.append(
            Request(
                id=number,
                prompt=[generator.randrange(12) for _ in range(generator.randint(1, 30))],
                max_new_tokens=generator.choice([2, TOKENS, TOKENS]),
                sampling=SamplingParams(temperature=temperature, seed=number),
                speculation=generator.choice([UNLIMITED, *limits]),
            )
        )
    return found


def any_times(generator: random.Random, drafters: int) -> Times:
    """What a machine might have measured, or nothing."""

    def curve() -> StepCost:
        scale = generator.choice([0.001, 0.1, 1.0])
        return StepCost((1, 8, 64), (scale, scale * generator.choice([1, 8]), scale * 64))

    if generator.random() < 0.1:
        return Times(None, [{}] * drafters, [None] * drafters)
    slope = generator.choice([0.0, 0.02, 0.3, 1.0])
    verify = StepCost((1, 64), (1.0, 1 + 63 * slope))
    return Times(verify, [{2: curve()} for _ in range(drafters)], [None] * drafters)


def adapt(engine: Engine, seed: int, every: int = 8) -> None:
    """Have the policy draw an engine's trees, by times that change all the while."""
    generator = random.Random(seed)
    speculators: Sequence[Speculator] = engine._speculators
    policy = AdaptiveTrees(
        speculators,
        StepCost((1, 64), (1.0, 2.0)),
        SIZES.rows,
        lambda _: any_times(generator, len(speculators)),
    )
    begin = policy._begin_step

    def more_often() -> None:
        if policy._step % every == 0:
            policy._next_agreement = 0
        begin()

    policy._begin_step = more_often  # type: ignore[method-assign]
    engine._drafting = policy


@pytest.mark.parametrize("verifier", ["greedy", "coupled"])
def test_the_text_is_that_of_incremental_decoding(verifier: str) -> None:
    sizes = {size for seed in range(6) for size in sizes_of(seed, is_sampled=verifier != "greedy")}
    assert len(sizes) > 8, "too few trees were tried"


def sizes_of(seed: int, *, is_sampled: bool) -> set[int]:
    """Write texts and find them right; return the sizes of the trees that were verified."""
    plain = make_bench(MODEL, [], SIZES).write(requests(seed, is_sampled=is_sampled))
    drafts = [Draft(CLOSE, (2, 2, 1, 1)), Draft(noisy_copy(MODEL, 2, 0.05), (1, 3, 1), nodes=4)]
    bench = make_bench(MODEL, [*drafts, NGramSpeculator(min_match=1)], SIZES)
    adapt(bench.engine, seed)
    asked = {request.id: request for request in requests(seed, is_sampled=is_sampled)}
    for request in asked.values():
        bench.engine.submit(request)
    sizes = set()
    while not bench.engine.is_idle:
        for event in bench.engine.step():
            if event.tree is not None:
                allowed = event.request.speculation
                sizes.add(size := len(event.tree) - 1)
                assert max(event.tree.depths) <= allowed.depth(99)
                assert not allowed.max_nodes or size <= allowed.max_nodes
        for decoder, draft in bench.ssms:
            for id in decoder.slots.requests:
                assert audit_kv(decoder, draft.model, id, asked[id].tokens) < 1e-4
    assert [request.output for request in asked.values()] == plain
    return sizes


@pytest.mark.parametrize(
    ("verifier", "draws"), [("mss", "iid"), ("mss_without_replacement", "without_replacement")]
)
def test_draws_that_are_verified_by_a_ratio_are_never_picked_from(
    verifier: str, draws: str
) -> None:
    """Each tree that is verified holds, of each node's draws by a drafter, the first ones."""
    bench = make_bench(
        MODEL,
        [Draft(CLOSE, (2, 2, 1), draws=draws), Draft(CLOSE, (3, 1))],
        SIZES,
        verifier=verifier,
    )
    adapt(bench.engine, 1)
    for request in requests(1, is_sampled=True):
        bench.engine.submit(request)
    while not bench.engine.is_idle:
        for event in bench.engine.step():
            if event.tree is None:
                continue
            for node in range(len(event.tree)):
                orders: dict[int, list[int]] = {}
                for child in event.tree.children(node):
                    for proposal in event.tree.proposals[child]:
                        orders.setdefault(proposal.drafter, []).append(proposal.order)
                assert all(sorted(o) == [*range(len(o))] for o in orders.values())
