"""The small CUDA kernels against their definitions, over rows of any width that lie any way."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from unit.ops.apply import run_variant

from specinfer.ops import elementwise, rotary
from specinfer.ops.attention import move_kv, write_kv
from specinfer.ops.fused import gated_linear, rotary_write
from specinfer.ops.kernels import rowwise_cuda as cuda

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")

TYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = ((1, 1), (3, 24), (5, 100), (1, 4096), (33, 576), (7, 1536), (2, 20000), (700, 64))
LAYOUTS = {"whole": (0, 0), "slice": (32, 64), "odd": (1, 3)}
"""Columns before a matrix in a wider one, and columns in addition."""

by_type = pytest.mark.parametrize("dtype", TYPES, ids=str)
by_layout = pytest.mark.parametrize("layout", LAYOUTS)


def numbers(rows: int, features: int, dtype: torch.dtype, layout: str = "whole") -> Tensor:
    """(rows, features) random numbers between columns of NaN."""
    matrix = poison(rows, features, dtype, layout)
    return matrix.copy_(torch.randn(rows, features, device="cuda") * 2)


def poison(rows: int, features: int, dtype: torch.dtype, layout: str = "whole") -> Tensor:
    """(rows, features) of NaN, in a wider matrix of NaN."""
    before, more = LAYOUTS[layout]
    wide = torch.full((rows + 1, features + more), torch.nan, dtype=dtype, device="cuda")
    return wide[:rows, before : before + features]


def columns(matrix: Tensor, *widths: int) -> list[Tensor]:
    """Slices of these widths, one beside the other."""
    stops = accumulate(widths)
    return [matrix[:, stop - width : stop] for width, stop in zip(widths, stops, strict=True)]


def nothing_else_written(matrix: Tensor) -> bool:
    """Whether what lies around a matrix made by :func:`poison` is as it was."""
    wide = matrix._base
    assert wide is not None
    return int(wide.isnan().logical_not().sum()) == matrix.numel()


def assert_rounded(found: Tensor, right: Tensor, dtype: torch.dtype, equal: float) -> None:
    """Within the last digits of what is right, and ``equal`` of the numbers the very same."""
    digits = {torch.float32: 1e-6, torch.float16: 2**-9, torch.bfloat16: 2**-6}[dtype]
    torch.testing.assert_close(found.double(), right.double(), rtol=4 * digits, atol=digits)
    if dtype != torch.float32:
        assert (found == right).double().mean() >= equal


@by_type
@by_layout
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(dtype: torch.dtype, layout: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(shape[1])
    x, weight = numbers(*shape, dtype, layout), numbers(1, shape[1], dtype)[0]
    out = poison(*shape, dtype, layout)
    cuda.rms_norm(x, weight, out, 1e-5)
    wide = x.double()
    unit = (wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt()).to(dtype)
    assert_rounded(out, unit * weight, dtype, 0.99)
    assert nothing_else_written(out)
    for row in (0, shape[0] - 1):  # as if there were no other rows
        alone = poison(1, shape[1], dtype, layout)
        cuda.rms_norm(x[row : row + 1], weight, alone, 1e-5)
        assert torch.equal(alone[0], out[row])


@by_type
@by_layout
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("over", ["neither", "x", "y"])
def test_add_rms_norm_is_a_sum_and_its_norm(
    dtype: torch.dtype, layout: str, shape: tuple[int, int], over: str
) -> None:
    torch.manual_seed(shape[1])
    x, y, weight = numbers(*shape, dtype, layout), numbers(*shape, dtype), numbers(*shape, dtype)[0]
    total, sums, right, out = (poison(*shape, dtype) for _ in range(4))
    elementwise.add(x, y, sums)
    cuda.rms_norm(sums, weight, right, 1e-5)
    total = {"neither": total, "x": x, "y": y}[over]
    cuda.add_rms_norm(x, y, weight, total, out, 1e-5)
    assert torch.equal(total, sums)
    if layout != "odd":  # read by the same packs, so added up in the same order
        assert torch.equal(out, right)
    assert_rounded(out, right, dtype, 0.99)
    assert nothing_else_written(total)
    assert nothing_else_written(out)


@by_type
@by_layout
@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm(dtype: torch.dtype, layout: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(shape[1])
    x, out = numbers(*shape, dtype, layout).add_(3), poison(*shape, dtype, layout)
    weight, bias = numbers(1, shape[1], dtype)[0], numbers(1, shape[1], dtype)[0]
    cuda.layer_norm(x, weight, bias, out, 1e-5)
    right = torch.nn.functional.layer_norm(
        x.double(), weight.shape, weight.double(), bias.double(), 1e-5
    )
    digits = {torch.float32: 1e-5, torch.float16: 2**-9, torch.bfloat16: 2**-7}[dtype]
    torch.testing.assert_close(out.double(), right, rtol=digits, atol=digits)
    assert nothing_else_written(out)


@by_type
@by_layout
@pytest.mark.parametrize("shape", SHAPES)
def test_functions_of_each_element(dtype: torch.dtype, layout: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(shape[1])
    x, y = numbers(*shape, dtype, layout).mul_(3), numbers(*shape, dtype, layout)
    x[0, 0] = torch.inf
    cases: list[tuple[Callable[[Tensor], None], Callable[[Tensor], None]]] = [
        (lambda out: cuda.add(x, y, out), lambda out: elementwise.add(x, y, out)),
        (lambda out: cuda.silu_mul(x, y, out), lambda out: elementwise.silu_mul(x, y, out)),
        (lambda out: cuda.relu(x, out), lambda out: elementwise.relu(x, out)),
        (lambda out: cuda.gelu(x, out, "none"), lambda out: elementwise.gelu(x, out, "none")),
        (lambda out: cuda.gelu(x, out, "tanh"), lambda out: elementwise.gelu(x, out, "tanh")),
    ]
    for run, reference in cases:
        out, right = poison(*shape, dtype, layout), poison(*shape, dtype)
        run(out)
        reference(right)
        assert_rounded(out, right, dtype, 0.999)
        assert nothing_else_written(out)


def test_relu_of_nan_is_nan() -> None:
    x, out = torch.full((1, 8), torch.nan, device="cuda"), torch.zeros(1, 8, device="cuda")
    cuda.relu(x, out)
    assert out.isnan().all()


@by_type
@pytest.mark.parametrize(("size", "theta"), [(2, 10000.0), (10, 500.0), (64, 1e6), (128, 5e5)])
def test_rotary_angles(dtype: torch.dtype, size: int, theta: float) -> None:
    positions = torch.tensor([0, 1, 2, 17, 100, 2047, 131071, 5, 5])
    right = torch.empty(len(positions), 2 * size)
    rotary.rotary_angles(positions, right, size, theta)
    out = poison(len(positions), 2 * size, dtype)
    cuda.rotary_angles(positions.cuda(), out, size, theta)
    assert nothing_else_written(out)
    near, far = positions < 3000, positions >= 3000
    digits = {torch.float32: 0.0, torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype]
    # An angle of float32 has an error of 6e-8 of itself.
    found = out.cpu().float()
    torch.testing.assert_close(found[near], right[near], atol=digits + 4e-4, rtol=0)
    torch.testing.assert_close(found[far], right[far], atol=digits + 2e-2, rtol=0)
    torch.testing.assert_close(found[:3], right[:3], atol=digits + 1e-6, rtol=0)


def table(rows: int, size: int, dtype: torch.dtype, layout: str) -> Tensor:
    """Angles of random positions."""
    out = poison(rows, 2 * size, dtype, layout)
    cuda.rotary_angles(torch.randint(0, 4000, (rows,), device="cuda"), out, size, 10000.0)
    return out


HEADS = ((1, 1, 2), (6, 2, 4), (9, 3, 64), (4, 4, 80), (3, 1, 10), (28, 4, 128))


@by_type
@by_layout
@pytest.mark.parametrize(("heads", "kv_heads", "size"), HEADS)
def test_rotary(dtype: torch.dtype, layout: str, heads: int, kv_heads: int, size: int) -> None:
    torch.manual_seed(size)
    for rows in (1, 5, 130):
        x, angles = numbers(rows, heads * size, dtype, layout), table(rows, size, dtype, layout)
        out, right = poison(rows, heads * size, dtype, layout), poison(rows, heads * size, dtype)
        cuda.rotary(x, angles, out, size)
        rotary.rotary(x, angles.contiguous(), right, size)
        assert_rounded(out, right, dtype, 1)
        assert nothing_else_written(out)


@by_type
@by_layout
@pytest.mark.parametrize(("heads", "kv_heads", "size"), HEADS)
def test_keys_and_values_go_to_their_slots(
    dtype: torch.dtype, layout: str, heads: int, kv_heads: int, size: int
) -> None:
    torch.manual_seed(size)
    for rows in (1, 5, 130):
        qkv = numbers(rows, (heads + 2 * kv_heads) * size, dtype, layout)
        q, k, v = columns(qkv, heads * size, kv_heads * size, kv_heads * size)
        angles = table(rows, size, dtype, layout)
        slots = torch.randperm(3 * rows, device="cuda")[:rows]
        pools = torch.full((3, 3 * rows, kv_heads, size), torch.nan, dtype=dtype, device="cuda")
        right = pools.clone()
        out, turned = (poison(rows, heads * size, dtype) for _ in range(2))
        key = poison(rows, kv_heads * size, dtype)
        kv = SimpleNamespace(k=pools[0:1], v=pools[2:3])
        run_variant(rotary_write, "cuda", q, k, v, angles, slots, kv, out, size)
        cuda.rotary(q, angles, turned, size)
        cuda.rotary(k, angles, key, size)
        right[0, slots] = key.view(rows, kv_heads, size)
        right[2, slots] = v.reshape(rows, kv_heads, size)
        assert torch.equal(out, turned)
        assert nothing_else_written(out)
        torch.testing.assert_close(pools, right, rtol=0, atol=0, equal_nan=True)
        pools.fill_(torch.nan)
        right[0, slots] = k.reshape(rows, kv_heads, size)
        run_variant(write_kv, "cuda", k, v, slots, kv)
        torch.testing.assert_close(pools, right, rtol=0, atol=0, equal_nan=True)


@by_type
@by_layout
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_a_table(dtype: torch.dtype, layout: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(shape[1])
    x = numbers(*shape, dtype, layout)
    for count in (1, 9, 257):
        chosen = torch.randint(0, shape[0], (count,), device="cuda")
        selected, embedded = (poison(count, shape[1], dtype, layout) for _ in range(2))
        cuda.select_rows(x, chosen, selected)
        cuda.embedding(chosen, x, embedded)
        for out in (selected, embedded):
            assert torch.equal(out, x[chosen])
            assert nothing_else_written(out)


@by_type
@pytest.mark.parametrize(("layers", "kv_heads", "size"), [(1, 1, 2), (5, 2, 10), (32, 8, 128)])
def test_accepted_rows_of_all_layers_are_copied(
    dtype: torch.dtype, layers: int, kv_heads: int, size: int
) -> None:
    torch.manual_seed(layers)
    slots, capacity = 400, 150
    pools = torch.randn(2, layers, slots, kv_heads, size, device="cuda").to(dtype)
    moves = 1 + torch.randperm(slots - 1, device="cuda")[: 2 * capacity].view(2, capacity)
    for count in (0, 1, 7, capacity):
        right = pools.clone()
        right[:, :, moves[1, :count]] = right[:, :, moves[0, :count]]
        cuda.commit_kv(pools[0], pools[1], moves, torch.tensor([count], device="cuda"))
        assert torch.equal(pools, right)
    some = moves[:, 20:90].clone()
    some[:, 50:] = 0  # not used
    right[:, :, some[1]] = right[:, :, some[0]]
    moves[:, 20:90] = some
    run_variant(move_kv, "cuda", SimpleNamespace(k=pools[0], v=pools[1]), moves[:, 20:90])
    assert torch.equal(pools, right)


@by_type
def test_a_gate_and_what_it_lets_through(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = numbers(5, 96, dtype), numbers(2 * 40, 96, dtype)
    out, right = poison(5, 40, dtype, "slice"), poison(5, 40, dtype)
    run_variant(gated_linear, "cuda", x, weight, out)
    gated_linear(x, weight, right)
    assert_rounded(out, right, dtype, 0.999)
    assert nothing_else_written(out)


def test_no_rows_are_no_launch() -> None:
    x, weight = torch.empty(0, 16, device="cuda"), torch.ones(16, device="cuda")
    none = torch.empty(0, dtype=torch.int64, device="cuda")
    pool = torch.empty(0, 2, 8, device="cuda")
    cuda.rms_norm(x, weight, x, 1e-5)
    cuda.add(x, x, x)
    cuda.rotary(x, x, x, 8)
    cuda.select_rows(x, none, x)
    cuda.write_kv(x, x, none, pool, pool)


def test_a_cuda_graph_holds_all_of_them() -> None:
    torch.manual_seed(0)
    rows, heads, kv_heads, size, dtype = 6, 4, 2, 64, torch.bfloat16
    hidden = heads * size
    embed, qkv = numbers(50, hidden, dtype), numbers(rows, hidden + 2 * kv_heads * size, dtype)
    weight, bias = numbers(2, hidden, dtype)
    tokens, positions, chosen = torch.randint(0, rows, (3, rows), device="cuda")
    slots = torch.arange(rows, device="cuda") + 3
    pools = torch.zeros(2, 2, 20, kv_heads, size, dtype=dtype, device="cuda")
    moves = torch.tensor([[3, 4, 5], [10, 11, 12]], device="cuda")
    count = torch.tensor([2], device="cuda")
    x, h, total, mixed, act, last, turned = made = [poison(rows, hidden, dtype) for _ in range(7)]
    q, k, v = columns(qkv, hidden, kv_heads * size, kv_heads * size)
    angles = poison(rows, 2 * size, dtype)

    def step() -> None:
        cuda.embedding(tokens, embed, x)
        cuda.rotary_angles(positions, angles, size, 10000.0)
        cuda.rms_norm(x, weight, h, 1e-5)
        cuda.rotary_write(q, k, v, angles, slots, pools[0, 0], pools[1, 0], turned, size)
        cuda.rotary(q, angles, act, size)
        cuda.write_kv(k, v, slots, pools[0, 1], pools[1, 1])
        cuda.add_rms_norm(h, turned, weight, total, mixed, 1e-5)
        cuda.silu_mul(mixed, act, act)
        cuda.layer_norm(act, weight, bias, h, 1e-5)
        cuda.gelu(h, act, "tanh")
        cuda.relu(act, act)
        cuda.add(act, total, mixed)
        cuda.select_rows(mixed, chosen, last)
        cuda.commit_kv(pools[0], pools[1], moves, count)

    assert_replays(step, (*made, angles, pools))


def assert_replays(step: Callable[[], None], written: tuple[Tensor, ...]) -> None:
    """A graph of some launches writes, bit by bit, what the launches write."""
    step()
    right = [tensor.clone() for tensor in written]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for tensor in written:
        tensor.fill_(0 if tensor.ndim > 2 else torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    for found, expected in zip(written, right, strict=True):
        assert torch.equal(found, expected)
