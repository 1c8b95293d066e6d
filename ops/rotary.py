"""Rotary position embedding: each pair of features turns by an angle that grows with position.

Source: Su et al., "RoFormer" (2021), section 3.2; the halves of a head are paired, as LLaMA does.
The angles are looked up once a step and used by every layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specinfer.ops.kernels import cpu, rowwise_cuda
from specinfer.ops.operator import Operator, Shape, Signature, expect
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.task import task


def _infer_angles(positions: Shape, *, head_size: int, theta: float = 10000.0) -> Signature:
    expect(len(positions) == 1, f"positions are {positions}, expected (rows,)")
    expect(head_size % 2 == 0, f"head_size is {head_size}, expected even")
    expect(theta > 0, f"theta is {theta}, expected above 0")
    return Signature((positions[0], 2 * head_size))


@task(positions=R, out=WD, pure=True, axes={"positions": ("rows",), "out": ("rows", None)})
def rotary_angles(positions: Tensor, out: Tensor, head_size: int, theta: float) -> None:
    """Cosine and signed sine of every angle.

    Args:
        positions: (rows,) int64, depth of the token in its request.
        out: (rows, 2 head_size): cosines of both halves, then sines, the first half negated, so
            that ``rotated = x * cos + swapped(x) * sin``, where swapped exchanges the halves.
        head_size: features of a head.
        theta: base of the frequencies.
    """
    exponents = torch.arange(0, head_size, 2, device=out.device, dtype=torch.float32) / head_size
    angles = positions[:, None].float() * (1.0 / theta**exponents)
    cos, sin = angles.cos(), angles.sin()
    torch.cat((cos, cos, -sin, sin), dim=1, out=out)


rotary_angles.variant("cuda")(rowwise_cuda.rotary_angles)


def _infer_rotary(x: Shape, angles: Shape, *, head_size: int) -> Signature:
    expect(
        len(x) == 2 and isinstance(x[1], int) and x[1] % head_size == 0,
        f"x is {x}, expected (rows, heads x {head_size})",
    )
    expect(
        angles == (x[0], 2 * head_size), f"angles are {angles}, expected ({x[0]}, {2 * head_size})"
    )
    return Signature(x)


@task(
    x=R,
    angles=R,
    out=WD,
    pure=True,
    axes={
        "x": ("rows", "heads*head_size"),
        "angles": ("rows", None),
        "out": ("rows", "heads*head_size"),
    },
)
def rotary(x: Tensor, angles: Tensor, out: Tensor, head_size: int) -> None:
    """Turn every head of ``x`` (rows, heads x head_size) by the row's ``angles``."""
    heads = (x.shape[0], -1, head_size)
    cos, sin = angles.view(-1, 2, 1, head_size).unbind(1)
    turned = out.view(heads)
    torch.mul(torch.roll(x.view(heads), head_size // 2, -1), sin, out=turned)
    turned.addcmul_(x.view(heads), cos)


rotary.variant("numba", view=Tensor.numpy)(cpu.rotary)
rotary.variant("cuda")(rowwise_cuda.rotary)

ROTARY_ANGLES = Operator("rotary_angles", _infer_angles, (rotary_angles,))
ROTARY = Operator("rotary", _infer_rotary, (rotary,))
