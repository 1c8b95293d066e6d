"""The small operators that Numba compiles agree with their torch references."""

from __future__ import annotations

import pytest
import torch
from unit.ops.apply import run_variant

from specinfer.ops.attention import tree_attention, write_kv
from specinfer.ops.kernels.packed import can_pack, pack
from specinfer.ops.linear import linear, linear_bias
from specinfer.ops.norm import rms_norm
from specinfer.ops.registry import OPERATORS
from specinfer.ops.rotary import rotary

COMPARED = (rms_norm, rotary, write_kv, tree_attention)


@pytest.mark.parametrize("seed", range(10))
def test_rms_norm(seed: int) -> None:
    torch.manual_seed(seed)
    rows, features = int(torch.randint(1, 9, ())), int(torch.randint(1, 300, ()))
    x, weight = torch.randn(rows, features), torch.randn(features)
    right, out = torch.full((2, rows, features), torch.nan)
    rms_norm(x, weight, right, 1e-5)
    run_variant(rms_norm, "numba", x, weight, out, 1e-5)
    torch.testing.assert_close(out, right, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_rotary(seed: int) -> None:
    torch.manual_seed(seed)
    rows, heads = int(torch.randint(1, 9, ())), int(torch.randint(1, 5, ()))
    size = 2 * int(torch.randint(1, 40, ()))
    x, angles = torch.randn(rows, heads * size), torch.randn(rows, 2 * size)
    # As rotary_angles writes them: the halves of a head share their angles.
    angles[:, size // 2 : size] = angles[:, : size // 2]
    angles[:, size : size + size // 2] = -angles[:, size + size // 2 :]
    right, out = torch.full((2, rows, heads * size), torch.nan)
    rotary(x, angles, right, size)
    run_variant(rotary, "numba", x, angles, out, size)
    torch.testing.assert_close(out, right, atol=1e-6, rtol=1e-5)


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this CPU has no bfloat16 products")
@pytest.mark.parametrize("rows", [1, 2, 7, 16, 33])
def test_products_with_packed_weights(rows: int) -> None:
    torch.manual_seed(rows)
    x, weight, bias = (torch.randn(s).bfloat16() for s in ((rows, 40), (24, 40), (24,)))
    right, out = torch.full((2, rows, 24), torch.nan, dtype=torch.bfloat16)
    linear(x, weight, right)
    run_variant(linear, "packed", x, pack(weight), out)
    torch.testing.assert_close(out, right, atol=2e-2, rtol=2e-2)
    linear_bias(x, weight, bias, right)
    run_variant(linear_bias, "packed", x, pack(weight), bias, out)
    torch.testing.assert_close(out, right, atol=2e-2, rtol=2e-2)


def test_every_compiled_variant_is_compared_with_its_reference() -> None:
    """Attention and K/V writes are in test_attention, against the definition itself."""
    tasks = [task for op in OPERATORS.values() for task in (*op.tasks, *op.without)]
    assert {task.name for task in tasks if "numba" in task.variants} == {
        task.name for task in COMPARED
    }
