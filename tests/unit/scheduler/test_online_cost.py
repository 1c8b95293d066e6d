from __future__ import annotations

import random

import pytest

from specinfer.scheduler.online_cost import SIZES, OnlineCurve
from specinfer.scheduler.probing import LATEST, SHARE, SOONEST, Probing
from specinfer.scheduler.step_cost import StepCost

SHAPE = StepCost((1, 64), (1.0, 4.0))


def test_nothing_is_known_before_the_first_measurement() -> None:
    assert OnlineCurve(SHAPE).curve() is None


def test_one_size_gives_the_scale_of_all() -> None:
    cost = OnlineCurve(SHAPE)
    cost.add(8, 10 * SHAPE.time(8))
    curve = cost.curve()
    assert curve is not None
    assert [curve.time(n) for n in (1, 8, 64)] == pytest.approx([10, 10 * SHAPE.time(8), 40])


def test_each_size_is_what_was_measured() -> None:
    cost, truth = OnlineCurve(SHAPE), StepCost((1, 16, 64), (0.03, 0.04, 0.3))
    generator = random.Random(0)
    for _ in range(400):
        rows = generator.randint(1, 64)
        cost.add(rows, truth.time(rows) * (1 + generator.choice([0, 0.02, 0.04, 1.0])))
    curve = cost.curve()
    assert curve is not None
    for rows in (1, 4, 16, 30, 50, 64):
        assert curve.time(rows) == pytest.approx(truth.time(rows), rel=0.15)


def test_a_slow_first_pass_is_not_believed() -> None:
    cost = OnlineCurve(SHAPE)
    for _ in range(3):
        cost.add(1, 1.0)
    for seconds in (9.0, 5.0, 1.1):  # recorded, then verified, then as it will be
        cost.add(8, seconds)
    curve = cost.curve()
    assert curve is not None
    assert curve.time(8) == pytest.approx(1.1)


def test_it_follows_changes() -> None:
    cost = OnlineCurve(SHAPE)
    for seconds in [1.0] * 50 + [2.0] * 9:
        cost.add(1, seconds)
    curve = cost.curve()
    assert curve is not None
    assert curve.time(1) == pytest.approx(2)


def test_a_curve_never_falls() -> None:
    generator, cost = random.Random(0), OnlineCurve(SHAPE)
    for _ in range(100):
        cost.add(generator.randint(1, 100), generator.random())
    curve = cost.curve()
    assert curve is not None
    times = [curve.time(rows) for rows in range(1, 300)]
    assert times == sorted(times)
    assert list(SIZES) == sorted(set(SIZES))


# Probes


@pytest.mark.parametrize("cost", [0.01, 0.5, 3.0])
def test_probes_that_fail_take_their_share_of_the_time(cost: float) -> None:
    probing, spent = Probing(), 0.0
    for step in range(100_000):
        if probing.is_due(step):
            spent += cost
            probing.took(step, was_right=False, cost=cost)
    assert spent <= SHARE * 100_000 + cost
    assert spent >= min(SHARE * 100_000, cost * 100_000 / (SOONEST + 1)) / 2
    assert cost / LATEST < SHARE


@pytest.mark.parametrize("good", [0.3, 0.9])
def test_probes_that_are_right_and_go_on_are_paid_for_too(good: float) -> None:
    generator, probing, spent = random.Random(0), Probing(), 0.0
    for step in range(100_000):
        if probing.is_due(step):
            cost = 0.3 * probing.more
            spent += cost
            is_right = generator.random() < good and probing.more < 16
            probing.took(step, was_right=is_right, cost=cost)
    assert spent <= SHARE * 100_000 + 16
