from __future__ import annotations

import random

import pytest
import torch
from tiny_models import Sizes, make_bench, make_decoder, plain_greedy, tiny_model

from specinfer.scheduler.assembly import cost_of_steps
from specinfer.scheduler.step_cost import (
    FREE,
    MEASURED_ROWS,
    StepCost,
    measure_step_cost,
    measure_steps,
)

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


def test_steps_are_timed_together_behind_those_that_are_captured() -> None:
    log: list[str] = []
    now = 0.0

    def step(rows: int) -> None:
        nonlocal now
        slow = log.count(str(rows)) < 3  # recorded, captured, replayed for the first time
        log.append(str(rows))
        now += 100.0 if slow else rows

    cost = measure_steps(step, lambda: log.append("."), (2, 8), repeats=4, clock=lambda: now)
    assert log == [*"222", ".", *"2222", ".", *"888", ".", *"8888", "."]
    assert [cost.time(rows) for rows in (1, 2, 3, 8, 20)] == [2, 2, 8, 8, 8]


def test_whole_steps_are_measured_at_the_sizes_that_are_computed() -> None:
    model = tiny_model(4)
    decoder = make_decoder(model, Sizes(requests=3, rows=64), nodes=12)
    free = decoder.slots.num_available
    cost = cost_of_steps(decoder, 12)
    assert cost.rows == (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 39)
    assert list(cost.times) == sorted(cost.times)
    assert decoder.slots.num_available == free
    assert not decoder.slots.requests


def test_a_model_that_was_measured_writes_what_it_would_have() -> None:
    from specinfer.scheduler.request import Request

    model = tiny_model(4)
    bench = make_bench(model, (), Sizes())
    cost_of_steps(bench.llm, 0)
    request = Request(id=0, prompt=[1, 2], max_new_tokens=9, eos_ids=frozenset({-1}))
    assert bench.write([request]) == [plain_greedy(model, [1, 2], 9)]
