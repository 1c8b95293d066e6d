"""Iterations are counted by who conducts them, with what kept them off the lanes."""

from __future__ import annotations

import pytest
from tiny_models import Draft, Sizes, make_bench, noisy_copy, tiny_model

from specinfer.scheduler.lanes.reasons import ENDS, FEW_ROWS, PROMPTS
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.speculators.ngram import NGramSpeculator

MODEL = tiny_model(4)
SSM = Draft(noisy_copy(MODEL, 1, 0.02), (2, 1))
SIZES = Sizes(requests=2, rows=64, length=128)
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, seed=1)


@pytest.mark.parametrize(
    ("draft", "sampling", "reasons"),
    [
        (SSM, GREEDY, {PROMPTS, ENDS}),
        (Draft(SSM.model, (2, 1), nodes=2), GREEDY, {"speculator ssm"}),
    ],
)
def test_what_keeps_an_iteration_off_the_lanes(
    draft: Draft, sampling: SamplingParams, reasons: set[str]
) -> None:
    bench = make_bench(MODEL, [draft], SIZES, lookahead=1, lanes=True)
    eos = frozenset({-1})
    requests = [Request(id=i, prompt=[1, 2, i], max_new_tokens=30, eos_ids=eos) for i in (0, 1)]
    for request in requests:
        request.sampling = sampling
    bench.write(requests)
    stats = bench.engine.stats
    assert set(stats.by_host) <= reasons
    assert stats.num_by_lanes + stats.by_host.total() == stats.num_passes
    assert (stats.num_by_lanes > 5) == ("speculator ssm" not in reasons)


def test_the_host_conducts_in_silence_where_no_lanes_were_asked_for() -> None:
    bench = make_bench(MODEL, [SSM], SIZES)
    bench.write([Request(id=0, prompt=[1], max_new_tokens=9, eos_ids=frozenset({-1}))])
    assert not bench.engine.stats.by_host


def test_sampling_is_named_unless_lanes_do_it() -> None:
    bench = make_bench(MODEL, [SSM], SIZES, lookahead=1, lanes=True)
    request = Request(id=0, prompt=[1], max_new_tokens=9, eos_ids=frozenset({-1}))
    request.sampling = SAMPLED
    bench.write([request])
    assert set(bench.engine.stats.by_host) <= {PROMPTS, ENDS, "sampling"}
    assert bench.engine.stats.num_by_lanes or bench.engine.stats.by_host["sampling"]


def test_too_few_rows_to_catch_up_with_deep_trees_are_named() -> None:
    ngrams = NGramSpeculator(max_nodes=16)
    chain = Draft(SSM.model, (1, 1))
    bench = make_bench(MODEL, [chain, ngrams], Sizes(rows=12), lookahead=1, lanes=True)
    bench.write([Request(id=0, prompt=[1], max_new_tokens=9, eos_ids=frozenset({-1}))])
    assert set(bench.engine.stats.by_host) == {FEW_ROWS}
    assert not bench.engine.stats.num_by_lanes
