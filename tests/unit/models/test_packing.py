from __future__ import annotations

import pytest
import torch

from specinfer.models.compiler import compile_graph
from specinfer.models.graph import Graph
from specinfer.models.packing import factors, pack_weights
from specinfer.ops.kernels.packed import can_pack

needs_bfloat16 = pytest.mark.skipif(
    not can_pack(torch.bfloat16), reason="this CPU has no bfloat16 products"
)


def tied_model() -> Graph:
    """An embedding that is the output matrix as well, and a product and a norm between."""
    graph = Graph("tied")
    x = graph.op("embedding", graph.tokens, weight="embed", vocabulary=16, features=8)
    q = graph.op("linear", x, weight="q", bias="q.bias", features=8)
    x = graph.op("attention", q, q, x, head_size=8, scale=1.0)
    x = graph.op("rms_norm", x, weight="norm", eps=1e-5)
    graph.op("linear", x, weight="embed", features=16)
    return graph


def packed(dtype: torch.dtype) -> set[str]:
    program = compile_graph(tied_model())
    weights = {name: torch.randn(shape).to(dtype) for name, shape in program.weights.items()}
    found = pack_weights(program, weights)
    assert {name: tuple(w.shape) for name, w in found.items()} == program.weights
    return {name for name, weight in found.items() if weight.is_mkldnn}


@needs_bfloat16
def test_packs_what_only_products_read() -> None:
    assert packed(torch.bfloat16) == {"q"}


def test_float32_stays_as_it_is() -> None:
    assert packed(torch.float32) == set()


def test_knows_the_matrices_of_products_in_program_order() -> None:
    assert factors(compile_graph(tied_model())) == ["q", "embed"]
