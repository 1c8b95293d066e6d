from __future__ import annotations

import pytest
import torch
from unit.ops.apply import apply

from specinfer.ops.linear import LINEAR
from specinfer.ops.operator import ShapeError


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 16, 17, 64, 100])
@pytest.mark.parametrize("has_bias", [False, True])
def test_is_torchs(rows: int, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 24, generator=generator)
    weights = {"weight": torch.randn(40, 24, generator=generator)}
    if has_bias:
        weights["bias"] = torch.randn(40, generator=generator)
    right = torch.nn.functional.linear(
        x.double(), weights["weight"].double(), weights["bias"].double() if has_bias else None
    )
    found = apply(LINEAR, x, weights=weights, features=40)
    torch.testing.assert_close(found.double(), right, atol=1e-5, rtol=1e-5)


def test_computes_in_the_type_of_its_input() -> None:
    x, weight = torch.randn(3, 8).double(), torch.randn(5, 8).double()
    found = apply(LINEAR, x, weights={"weight": weight}, features=5)
    torch.testing.assert_close(found, x @ weight.T, atol=1e-12, rtol=1e-12)


def test_says_the_shapes_of_its_weights() -> None:
    signature = LINEAR.signature((("rows", 24),), {"features": 40})
    assert signature.out == ("rows", 40)
    assert signature.weights == {"weight": (40, 24), "bias": (40,)}


@pytest.mark.parametrize("x", [("rows",), ("rows", "features"), ("rows", 2, 3)])
def test_refuses_what_is_no_matrix(x: tuple[int | str, ...]) -> None:
    with pytest.raises(ShapeError, match=r"x is \(.*\), expected \(rows, features\)"):
        LINEAR.signature((x,), {"features": 40})
