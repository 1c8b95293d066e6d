from __future__ import annotations

import random

import pytest
import torch

from specinfer.scheduler.step_cost import FREE, MEASURED_ROWS, StepCost, measure_step_cost

STEEP = StepCost((1, 2, 4, 8), (1.0, 2.0, 4.0, 8.0))


def test_takes_every_node_where_rows_are_free() -> None:
    assert FREE.best_size([0.9, 0.5, 0.01], requests=3) == 3


def test_takes_no_node_where_each_costs_a_step() -> None:
    assert STEEP.best_size([0.9, 0.8, 0.7], requests=1) == 0


def test_a_step_that_is_dear_only_at_first_is_worth_a_long_guess_or_none() -> None:
    cost = StepCost((1, 2, 16), (1.0, 1.8, 2.0))
    assert cost.best_size([0.9] * 15, requests=1) == 15
    assert cost.best_size([0.3, 0.1, 0.05], requests=1) == 0


def test_more_requests_make_a_node_dearer() -> None:
    cost = StepCost((1, 8, 16), (1.0, 1.1, 4.0))
    sizes = [cost.best_size([0.8, 0.6, 0.4, 0.3], requests) for requests in (1, 2, 4, 8)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


@pytest.mark.parametrize("seed", range(20))
def test_no_other_size_yields_more_tokens_in_the_time(seed: int) -> None:
    generator = random.Random(seed)
    cost = StepCost((1, 3, 9), tuple(sorted(generator.uniform(1, 4) for _ in range(3))))
    likely = sorted((generator.random() for _ in range(8)), reverse=True)
    requests = generator.randint(1, 4)

    def rate(size: int) -> float:
        return (1 + sum(likely[:size])) / cost(requests * (1 + size))

    assert rate(cost.best_size(likely, requests)) == max(map(rate, range(9)))


def test_a_measured_curve_never_falls() -> None:
    cost = measure_step_cost([torch.randn(32, 16), torch.randn(16, 32)], repeats=1)
    assert cost.rows == MEASURED_ROWS
    assert list(cost.times) == sorted(cost.times)
    assert cost(1) == 1
