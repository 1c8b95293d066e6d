"""On a GPU, too, the kernels of lanes do what their references do, in a CUDA graph or not."""

from __future__ import annotations

import random

import pytest
import torch
from lane_cases import Comparison, Sizes, compare, random_cases

from specinfer.scheduler.lanes.racing import choices_of, race
from specinfer.scheduler.sampling.params import SamplingParams

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")

SIZES = {
    "one": Sizes(lanes=1, nodes=1, context=20),
    "small": Sizes(lanes=5, nodes=20, context=80, chain=9),
    "words": Sizes(lanes=3, nodes=130, context=300, vocabulary=3),
    "large": Sizes(lanes=64, nodes=256, context=2048, chain=17, vocabulary=40),
}


@pytest.mark.parametrize("sizes", SIZES)
def test_kernels_do_what_their_references_do(sizes: str) -> None:
    compare(range(4 if sizes == "large" else 10), SIZES[sizes], "cuda")


PARAMS = [
    SamplingParams(temperature=1.0, seed=(1 << 64) - 1),
    SamplingParams(temperature=0.7, top_p=0.9, seed=5),
    SamplingParams(),
    SamplingParams(temperature=1.5, top_k=40, seed=6),
    SamplingParams(temperature=0.9, min_p=0.01, seed=7),
    SamplingParams(temperature=1.2, top_k=500, top_p=0.8, min_p=0.001, seed=8),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("vocabulary", [5, 1001, 32000, 128256])
@pytest.mark.parametrize("is_named", [False, True])
def test_races_end_as_their_reference_says(
    dtype: torch.dtype, vocabulary: int, is_named: bool
) -> None:
    """But for clocks too close to tell apart in float32: of those there are few."""
    generator = torch.Generator().manual_seed(vocabulary)
    each, k = 8, 3
    rows = each * len(PARAMS)
    logits = (3 * torch.randn(rows, vocabulary, generator=generator)).to(dtype)
    logits[1] = -torch.inf  # a row without a law
    logits[each] = torch.nan
    positions = torch.randint(0, 5000, (rows,), generator=generator)
    names = torch.arange(vocabulary * is_named) * 2 + 1
    choices = torch.from_numpy(choices_of(PARAMS))
    right, found = torch.full((rows, k), -5), torch.full((rows, 1 + k), -5, device="cuda")
    race(logits, choices, positions, names, right, 1)
    given = [tensor.cuda() for tensor in (logits, choices, positions, names)]
    race.variants["cuda"].function(*given, found[:, 1:], 1)
    assert (found[:, 0] == -5).all()
    has_law = torch.arange(rows) % each > 1
    differ = (found[:, 1:].cpu() != right).any(1) & has_law
    assert differ.sum() <= 1
    assert int(found[:, 1:].min()) >= 0
    assert int(found.max()) <= vocabulary * (1 + is_named)
    alone = torch.full((rows,), -5, device="cuda")
    race.variants["cuda"].function(*given, alone, 1)
    assert torch.equal(alone, found[:, 1])


@pytest.mark.parametrize("sizes", ["small", "large"])
def test_a_graph_may_capture_all_of_them(sizes: str) -> None:
    comparisons = [
        Comparison(case, "cuda", "cuda", border=0)
        for case in random_cases(random.Random(7), SIZES[sizes])
    ]
    compare([7], SIZES[sizes], "cuda")  # with what is compiled here, nothing is in the capture
    compare([8], SIZES[sizes], "cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for comparison in comparisons:
            comparison.run_other()
    for comparison in comparisons:
        comparison.run_reference()
        assert comparison.differences(), "a capture computes nothing"
    graph.replay()
    torch.cuda.synchronize()
    for comparison in comparisons:
        assert not comparison.differences()
