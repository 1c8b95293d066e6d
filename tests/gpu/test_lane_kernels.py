"""On a GPU, too, the kernels of lanes do what their references do, in a CUDA graph or not."""

from __future__ import annotations

import random

import pytest
import torch
from lane_cases import Comparison, Sizes, compare, random_cases

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
