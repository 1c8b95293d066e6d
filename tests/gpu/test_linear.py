"""Products of few rows against their definition in float64, and their bits against each other."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from specinfer.ops.kernels import linear_cuda

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")

SHAPES = [(16, 64), (8, 128), (24, 320), (1152, 896), (2048, 1536), (4096, 4096), (1000, 11008)]
"""Features, and what is summed over."""
TOLERANCE = {torch.bfloat16: 2**-7, torch.float16: 2**-9}
WORD = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
Product = Callable[[Tensor, Tensor, Tensor | None, Tensor, bool], None]


def few(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, is_gated: bool) -> None:
    assert linear_cuda.fits(x, weight, out)
    linear_cuda.few_linear(x, weight, bias, out, is_gated=is_gated)


def streamed(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, is_gated: bool) -> None:
    if not linear_cuda.fits_streamed(x, weight, out):
        pytest.skip("needs the tensor cores of an H100")
    linear_cuda.streamed_linear(x, weight, bias, out, is_gated=is_gated)


PRODUCTS = [(few, (1, 2, 7, 8)), (streamed, (1, 9, 16, 31, 48, 64, 90, 128, 300))]
"""Kernels, and rows that they take."""


def _random(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cuda").to(dtype)


def _poisoned(rows: int, features: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A matrix within another one that is wider: what is written, and all."""
    whole = torch.full((rows + 1, features + 8), float("nan"), device="cuda", dtype=dtype)
    return whole[:rows, :features], whole


def _check(out: Tensor, whole: Tensor, expected: Tensor, tolerance: float) -> None:
    scale = expected.abs().mean()
    error = (out.double() - expected).abs() / (expected.abs() + scale)
    assert error.max() <= tolerance  # NaN fails
    rows, features = out.shape
    assert whole[rows:].isnan().all()
    assert whole[:, features:].isnan().all()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=WORD.get)
@pytest.mark.parametrize(("features", "inner"), SHAPES)
@pytest.mark.parametrize(("product", "counts"), PRODUCTS, ids=("few", "streamed"))
def test_a_product_is_that_of_float64(
    product: Product, counts: tuple[int, ...], features: int, inner: int, dtype: torch.dtype
) -> None:
    for rows in counts:
        x = _random(rows, inner + 8, dtype=dtype, seed=rows)[:, :inner]
        weight = _random(features, inner, dtype=dtype, seed=features)
        bias = _random(features, dtype=dtype, seed=3) if rows % 2 else None
        out, whole = _poisoned(rows, features, dtype)
        product(x, weight, bias, out, False)
        expected = x.double() @ weight.double().t()
        if bias is not None:
            expected += bias.double()
        _check(out, whole, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=WORD.get)
@pytest.mark.parametrize(("features", "inner"), SHAPES)
@pytest.mark.parametrize(("product", "counts"), PRODUCTS, ids=("few", "streamed"))
def test_a_gate_is_that_of_float64(
    product: Product, counts: tuple[int, ...], features: int, inner: int, dtype: torch.dtype
) -> None:
    for rows in counts:
        x = _random(rows, inner, dtype=dtype, seed=rows)
        weight = _random(2 * features, inner, dtype=dtype, seed=5) * inner**-0.5
        out, whole = _poisoned(rows, features, dtype)
        product(x, weight, None, out, True)
        gate, up = ((x.double() @ w.double().t()) for w in weight.chunk(2))
        # Both are rounded before they meet, and may be rounded to the other neighbour.
        _check(out, whole, torch.nn.functional.silu(gate) * up, 2 * TOLERANCE[dtype])


@pytest.mark.parametrize("is_gated", [False, True], ids=("product", "gate"))
@pytest.mark.parametrize(("product", "counts"), PRODUCTS, ids=("few", "streamed"))
def test_bits_of_a_row_do_not_depend_on_the_others(
    product: Product, counts: tuple[int, ...], is_gated: bool
) -> None:
    generator = random.Random(1)
    for features, inner in SHAPES:
        weight = _random((1 + is_gated) * features, inner, dtype=torch.bfloat16, seed=7)
        x = _random(301, inner, dtype=torch.bfloat16, seed=9)
        outs = []
        for rows in counts:
            order = generator.sample(range(300), rows)
            order[generator.randrange(rows)] = 300
            out, _ = _poisoned(rows, features, torch.bfloat16)
            product(x[order], weight, None, out, is_gated)
            outs.append(out[order.index(300)].clone())
        assert not outs[0].isnan().any()
        assert all(torch.equal(out, outs[0]) for out in outs[1:])
