"""The ladder is as good as the best rung, whatever that is, and finds it again when it changes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np
import pytest
from numpy.typing import NDArray

from specinfer.scheduler.lanes.ladder import Climb, Ladder
from specinfer.scheduler.lanes.rungs import Rung, rungs_of
from specinfer.scheduler.step_cost import StepCost

GPU = StepCost((1, 4, 8, 16, 64, 128, 4096), (5.1, 5.3, 5.5, 6.0, 6.4, 6.9, 60.0))
"""Milliseconds of a step by its rows: few rows wait for memory, many for arithmetic."""
STEEP = StepCost((1, 64, 4096), (5.0, 10.0, 320.0))
TREES = rungs_of(Rung(((3, 2, 2, 1, 1, 1),), 6))
NGRAMS = rungs_of(Rung((16,), 16))
BOTH = rungs_of(Rung(((2, 2, 1, 1), 16), 8))


class World:
    """Iterations whose times and acceptance are made up.

    Args:
        rungs: that may be drawn.
        lanes: texts, all of which go on.
        cost: of steps of the LLM.
        ranks: for each drafter, how likely the LLM's token is of each rank.
        level: what an SSM's level takes, of an LLM's step.
        seed: of chance.
    """

    def __init__(
        self,
        rungs: Sequence[Rung],
        lanes: int,
        cost: StepCost,
        ranks: Sequence[Sequence[float]],
        level: float = 0.06,
        seed: int = 1,
    ) -> None:
        self.rungs = rungs
        self.lanes = lanes
        self._cost = cost
        self._level = level * cost.time(lanes)
        self.random = np.random.default_rng(seed)
        self.runs = [0] * len(rungs)
        self.accept(ranks)

    def accept(self, ranks: Sequence[Sequence[float]]) -> None:
        """From now on the LLM's tokens have these ranks."""
        depth = max(rung.depth for rung in self.rungs)
        reached = [np.zeros((4000, len(self.rungs)), np.int64)]
        for number, likely in enumerate(ranks):
            bounds = np.cumsum(likely)
            found = np.searchsorted(bounds, self.random.random((4000, depth)), side="right")
            found[found == len(likely)] = 999
            for rung, one in enumerate(self.rungs):
                share = one.shares[number]
                widths = (1,) * min(share, one.deepest) if isinstance(share, int) else share
                right = found[:, : len(widths)] < np.array(widths, np.int64)
                reached.append(np.zeros_like(reached[0]))
                reached[-1][:, rung] = np.cumprod(right, axis=1).sum(axis=1)
        self._reached: NDArray[np.int64] = np.max(reached, axis=0)

    @property
    def times(self) -> list[float]:
        """Of iterations by rung, without noise."""
        rows = [self.lanes * (1 + rung.nodes) for rung in self.rungs]
        levels = [self._level * rung.levels for rung in self.rungs]
        return [self._cost.time(n) + drawing for n, drawing in zip(rows, levels, strict=True)]

    @property
    def tokens(self) -> list[float]:
        """Of a text in an iteration by rung, on the average."""
        return [1 + float(gain) for gain in self._reached.mean(axis=0)]

    @property
    def rates(self) -> list[float]:
        """Tokens of a text in a unit of time, by rung that is fixed."""
        return [n / time for n, time in zip(self.tokens, self.times, strict=True)]

    def gains(self, rung: int) -> list[int]:
        """Of all rungs up to this one, over all texts."""
        drawn = self.random.integers(len(self._reached), size=self.lanes)
        return [int(gain) for gain in self._reached[drawn, : rung + 1].sum(axis=0)]

    def catching_up(self, lacking: int) -> float:
        """What it takes that SSMs which lack so much may draw."""
        return self._level * (lacking > 2) * ceil(lacking / 64)


@dataclass
class Climbed:
    """What a ladder has done.

    Attributes:
        drawn: rungs, one behind the other.
        seconds: without noise, and without what recording takes, which happens once.
        tokens: of a text, as many as are expected.
    """

    drawn: list[int] = field(default_factory=list)
    seconds: float = 0.0
    tokens: float = 0.0

    @property
    def rate(self) -> float:
        """Tokens in a unit of time."""
        return self.tokens / self.seconds


def climb(world: World, ladder: Ladder, iterations: int = 2000, ahead: int = 1) -> Climbed:
    """Iterations as a stretch issues and reads them."""
    done = Climbed()
    issued = deque[tuple[int, bool, float]]()
    times, tokens = world.times, world.tokens
    last, lacking = -1, 1
    ladder.begin()
    for at in range(iterations):
        while len(issued) <= ahead:
            rung = ladder.next(world.lanes, iterations - at)
            draws = world.rungs[rung].levels > 0
            before = world.catching_up(lacking) if draws else 0.0
            issued.append((rung, rung == last and not before, before))
            last, lacking = rung, 1 if draws else lacking + ceil(tokens[rung])
        rung, is_steady, before = issued.popleft()
        seconds = times[rung] + before
        done.drawn.append(rung)
        done.seconds += seconds
        done.tokens += tokens[rung]
        noise = 1 + 0.03 * world.random.random() + 4 * (world.random.random() < 0.01)
        world.runs[rung] += 1
        is_first = world.runs[rung] <= 3  # it is recorded, captured, and replayed
        ladder.took(
            Climb(
                lanes=world.lanes,
                rung=rung,
                gains=world.gains(rung),
                texts=world.lanes,
                seconds=seconds * noise * (100 if is_first else 1),
                is_steady=is_steady,
            )
        )
    return done


RANKS = {
    "never": [0.0],
    "seldom": [0.05],
    "now and then": [0.35, 0.1],
    "often": [0.7, 0.1, 0.05],
    "nearly always": [0.92, 0.03],
}


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("lanes", [1, 4, 16, 64])
@pytest.mark.parametrize("cost", [GPU, STEEP], ids=["flat", "steep"])
@pytest.mark.parametrize("rungs", [TREES, NGRAMS, BOTH], ids=["SSM", "n-grams", "both"])
def test_it_is_as_good_as_the_best_rung(
    rungs: Sequence[Rung], cost: StepCost, lanes: int, ranks: str
) -> None:
    drafters = [RANKS[ranks], [0.3]][: len(rungs[0].shares)]
    world = World(rungs, lanes, cost, drafters)
    rates = world.rates
    done = climb(world, Ladder(rungs, cost))
    assert done.rate >= 0.97 * rates[0]
    assert done.rate >= 0.97 * max(rates)


@pytest.mark.parametrize("lanes", [1, 16])
def test_it_follows_a_text_that_changes(lanes: int) -> None:
    """To the best rung and back, each time in less than 400 iterations."""
    world = World(TREES, lanes, GPU, [RANKS["never"]])
    ladder = Ladder(TREES, GPU)
    for ranks in ("never", "often", "never", "nearly always", "now and then"):
        world.accept([RANKS[ranks]])
        climb(world, ladder, 400)
        assert climb(world, ladder, 1000).rate >= 0.97 * max(world.rates), ranks


def test_it_knows_what_other_numbers_of_lanes_have_taught() -> None:
    ladder = Ladder(TREES, GPU)
    climb(World(TREES, 4, GPU, [RANKS["often"]]), ladder)
    world = World(TREES, 5, GPU, [RANKS["often"]])
    assert climb(world, ladder, 100).rate >= 0.97 * max(world.rates)


def test_at_the_end_of_texts_nothing_is_recorded_anew() -> None:
    ladder = Ladder(TREES, GPU)
    world = World(TREES, 1, GPU, [RANKS["often"]])
    known = {*climb(world, ladder, 40).drawn}
    assert len(known) < len(TREES)
    for _ in range(50):
        assert {*climb(world, ladder, 31).drawn} <= known
    assert len({*climb(world, ladder, 2000).drawn}) > len(known)


def test_a_curve_that_is_wrong_does_not_mislead_it_for_long() -> None:
    """It was told that nodes cost nothing, and they do."""
    for ranks in RANKS.values():
        world = World(TREES, 16, STEEP, [ranks])
        ladder = Ladder(TREES, StepCost((1,), (1.0,)))
        climb(world, ladder, 500)
        assert climb(world, ladder).rate >= 0.95 * max(world.rates)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("lanes", [1, 16])
def test_short_texts_are_as_good_one_behind_the_other(lanes: int, ranks: str) -> None:
    world, ladder = World(TREES, lanes, GPU, [RANKS[ranks]]), Ladder(TREES, GPU)
    for _ in range(6):
        climb(world, ladder, 80)
    done = [climb(world, ladder, 80) for _ in range(20)]
    rate = sum(one.tokens for one in done) / sum(one.seconds for one in done)
    assert rate >= 0.97 * world.rates[0]
    assert rate >= 0.96 * max(world.rates)
