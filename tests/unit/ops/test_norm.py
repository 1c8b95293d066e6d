from __future__ import annotations

import pytest
import torch
from unit.ops.apply import apply

from specinfer.ops.norm import LAYER_NORM, RMS_NORM
from specinfer.ops.operator import Operator, ShapeError


def _values(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 24, generator=generator) * torch.logspace(-3, 2, rows)[:, None]
    weight, bias = torch.randn(2, 24, generator=generator)
    return x, weight, bias


@pytest.mark.parametrize("rows", [1, 2, 17, 100])
@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_rms_norm_is_torchs(rows: int, eps: float) -> None:
    x, weight, _ = _values(rows)
    right = torch.nn.functional.rms_norm(x.double(), (24,), weight.double(), eps)
    found = apply(RMS_NORM, x, weights={"weight": weight}, eps=eps)
    torch.testing.assert_close(found.double(), right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 17, 100])
@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_layer_norm_is_torchs(rows: int, eps: float) -> None:
    x, weight, bias = _values(rows)
    right = torch.nn.functional.layer_norm(x.double(), (24,), weight.double(), bias.double(), eps)
    found = apply(LAYER_NORM, x, weights={"weight": weight, "bias": bias}, eps=eps)
    torch.testing.assert_close(found.double(), right, atol=1e-5, rtol=1e-5)


def test_rms_norm_of_bfloat16_is_rounded_before_the_weight_as_in_training() -> None:
    x, weight, _ = (values.bfloat16() for values in _values(9))
    wide = x.double()
    unit = (wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt()).bfloat16()
    found = apply(RMS_NORM, x, weights={"weight": weight}, eps=1e-5)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, unit * weight, atol=0, rtol=2**-7)
    assert (found == unit * weight).double().mean() > 0.99


@pytest.mark.parametrize("operator", [RMS_NORM, LAYER_NORM], ids=lambda operator: operator.name)
def test_refuses_what_is_no_matrix_and_an_eps_of_zero(operator: Operator) -> None:
    with pytest.raises(ShapeError, match=r"x is \('rows',\), expected \(rows, features\)"):
        operator.signature((("rows",),), {"eps": 1e-5})
    with pytest.raises(ShapeError, match=r"eps is 0\.0, expected above 0"):
        operator.signature((("rows", 8),), {"eps": 0.0})
    with pytest.raises(ShapeError, match=r"attribute eps is missing"):
        operator.signature((("rows", 8),), {})
