"""Laws of the batcher: all are answered once, exactly and in time, whatever comes when.

:mod:`batcher_laws` holds them at every iteration; here it is decided what comes.
"""

from __future__ import annotations

import random

import pytest
from batcher_laws import (
    World,
    fewer,
    random_budgets,
    random_prompt,
    random_speculation,
    simulate,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from specinfer.scheduler.errors import RequestError


class Batching(RuleBasedStateMachine):
    """Requests come, are cancelled, and iterate, in any order."""

    @initialize(seed=st.integers(0, 1 << 16), pages=st.lists(st.integers(4, 12), min_size=1))
    def start(self, seed: int, pages: list[int]) -> None:
        self.rng = random.Random(seed)
        self.world = World(random_budgets(self.rng), pages[:3], self.rng.randint)

    @rule(new=st.integers(1, 50))
    def submit(self, new: int) -> None:
        prompt = random_prompt(self.rng.randint, 48)
        most = self.world.pools[0].num_pages * 16
        if len(prompt) + new - 1 > most:
            with pytest.raises(RequestError, match="whole K/V pool"):
                self.world.submit(prompt, new)
            self.world.num_submitted -= 1
        else:
            self.world.submit(prompt, new, random_speculation(self.rng.randint))

    @precondition(lambda self: self.world.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.world.cancel(data.draw(st.sampled_from(sorted(self.world.live))))

    @precondition(lambda self: self.world.in_flight is None)
    @rule()
    def begin(self) -> None:
        self.world.begin()

    @precondition(lambda self: self.world.in_flight is None)
    @rule()
    def begin_with_less(self) -> None:
        world = self.world
        world.begin(fewer(world.usual, self.rng.randint, len(world.running)))

    @precondition(lambda self: self.world.in_flight is not None)
    @rule()
    def finish(self) -> None:
        self.world.finish()

    @precondition(lambda self: self.world.in_flight is not None)
    @rule()
    def break_off(self) -> None:
        self.world.break_off()

    @precondition(lambda self: self.world.in_flight is None)
    @rule(times=st.integers(2, 9))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.world.step()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.drain()


TestBatching = Batching.TestCase
TestBatching.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_thousand_requests_are_answered_once_each() -> None:
    worlds = [simulate(seed, 170) for seed in range(6)]
    assert sum(world.num_ended for world in worlds) >= 1000
    for name in ("num_preempted", "num_found", "num_accepted", "num_drafts", "num_limited"):
        assert sum(getattr(world, name) for world in worlds) > 100, f"{name}: too little is tested"
