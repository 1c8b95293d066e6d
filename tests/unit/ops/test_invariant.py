"""Variants whose bits depend on nothing else in the step, against those that are fast."""

from __future__ import annotations

import pytest
import torch
from row_bits import random_pair

from specinfer.ops.attention import tree_attention
from specinfer.ops.linear import linear, linear_bias

BFLOAT16 = torch.bfloat16


def test_attention_of_a_node_has_the_bits_of_decoding() -> None:
    variant = tree_attention.variants["invariant"].function
    differ = 0
    for seed in range(60):
        in_tree, alone = random_pair(variant, seed, BFLOAT16)
        assert torch.equal(in_tree, alone)
        fast, _ = random_pair(tree_attention.variants["cpu"].function, seed, BFLOAT16)
        torch.testing.assert_close(in_tree, fast, rtol=2e-2, atol=2e-2)
        differ += not torch.equal(in_tree, fast)
    assert differ > 10, "the fast one would do, so nothing is shown"


@pytest.mark.parametrize("rows", [1, 3, 16, 50])
def test_a_product_has_the_bits_of_its_row_alone(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    x, weight, bias = (
        torch.randn(shape, generator=generator).to(BFLOAT16)
        for shape in ((rows, 200), (72, 200), (72,))
    )
    out, one = torch.full((rows, 72), torch.nan, dtype=BFLOAT16), torch.empty(1, 72, dtype=BFLOAT16)
    linear_bias.variants["invariant"].function(x, weight, bias, out)
    torch.testing.assert_close(out, x @ weight.t() + bias, rtol=2e-2, atol=0.3)
    for row in range(rows):
        linear_bias.variants["invariant"].function(x[row : row + 1], weight, bias, one)
        assert torch.equal(out[row], one[0])
    linear.variants["invariant"].function(x, weight, out)
    for row in range(rows):
        linear.variants["invariant"].function(x[row : row + 1], weight, one)
        assert torch.equal(out[row], one[0])
