"""Rotary embedding against what it is: multiplication with a complex number of length one."""

from __future__ import annotations

import pytest
import torch
from unit.ops.apply import apply

from specinfer.ops.operator import ShapeError
from specinfer.ops.rotary import ROTARY, ROTARY_ANGLES


def _turned(x: torch.Tensor, positions: torch.Tensor, size: int, theta: float) -> torch.Tensor:
    half = size // 2
    heads = x.double().view(len(x), -1, size)
    numbers = torch.complex(heads[..., :half], heads[..., half:])
    angles = torch.outer(positions.double(), theta ** (-torch.arange(half).double() / half))
    numbers = numbers * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat((numbers.real, numbers.imag), -1).view(x.shape)


@pytest.mark.parametrize(("heads", "size"), [(1, 2), (6, 4), (3, 10), (9, 64)])
@pytest.mark.parametrize("theta", [10000.0, 500.0])
def test_turns_pairs_of_features_by_the_position(heads: int, size: int, theta: float) -> None:
    positions = torch.tensor([0, 1, 2, 17, 100, 2047, 5, 5])
    x = torch.randn(len(positions), heads * size, generator=torch.Generator().manual_seed(size))
    angles = apply(ROTARY_ANGLES, positions, head_size=size, theta=theta)
    found = apply(ROTARY, x, angles, head_size=size)
    right = _turned(x, positions, size, theta)
    # The angles are float32: some 2000 radians are good to 1e-4.
    torch.testing.assert_close(found.double(), right, atol=1e-3, rtol=0)
    torch.testing.assert_close(found[:4].double(), right[:4], atol=1e-5, rtol=0)


def test_products_depend_on_the_distance_of_positions_only() -> None:
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    products = []
    for start in (0, 3, 40):
        angles = apply(ROTARY_ANGLES, torch.tensor([start, start + 5]), head_size=8)
        q, k = apply(ROTARY, x, angles, head_size=8)
        products.append(float(q @ k))
    assert products == pytest.approx([products[0]] * 3, abs=1e-4)


@pytest.mark.parametrize(
    ("shape", "given", "message"),
    [
        (("rows", 8), {"head_size": 8}, r"positions are \('rows', 8\), expected \(rows,\)"),
        (("rows",), {"head_size": 7}, r"head_size is 7, expected even"),
        (("rows",), {"head_size": 8, "theta": 0.0}, r"theta is 0.0, expected above 0"),
    ],
)
def test_angles_refuse(shape: tuple[int | str, ...], given: dict[str, float], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        ROTARY_ANGLES.signature((shape,), given)


@pytest.mark.parametrize(
    ("x", "angles", "message"),
    [
        (("rows", 20), ("rows", 16), r"x is \('rows', 20\), expected \(rows, heads x 8\)"),
        (("rows", 16), ("rows", 8), r"angles are \('rows', 8\), expected \(rows, 16\)"),
        (("rows", 16), ("logit_rows", 16), r"angles are .*, expected \(rows, 16\)"),
    ],
)
def test_rotary_refuses(
    x: tuple[int | str, ...], angles: tuple[int | str, ...], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        ROTARY.signature((x, angles), {"head_size": 8})
