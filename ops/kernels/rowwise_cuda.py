"""The small operators on a CUDA card: what lies between matrix products and attention.

Each function is one launch, without memory of its own and without a wait, so that a CUDA graph can
hold it. Numbers are float32, float16 or bfloat16, and rounded where the torch references round
them; sums are float32. Rows may lie a stride apart, as slices of a wider matrix do. Where all rows
begin at 16 bytes and hold whole packs of 16 bytes, these are read and written at once; otherwise
number by number. A row's result does not depend on the others.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from specinfer.ops.kernels.cuda import TYPES, launch

PACK_BYTES = 16
"""What a thread reads or writes by one access."""

BLOCK = 256
"""Threads of a block, where any number will do."""

WARP, MAX_BLOCK = 32, 1024
"""Threads that run together, and the most that a block may have."""

_COMMIT_BLOCKS = 8
"""At most so many blocks copy the accepted K/V of one layer; each copies what the others leave."""

Arguments = tuple[Tensor | np.generic, ...]

_WORDS = {16: "uint4", 4: "unsigned int", 2: "unsigned short"}


def rms_norm(x: Tensor, weight: Tensor, out: Tensor, eps: float) -> None:
    """See :func:`specinfer.ops.norm.rms_norm`."""
    rows, features = x.shape
    width = _width(features, x, weight, out)
    name = f"rms_norm<{TYPES[x.dtype]}, {width}, false>"
    strides = _strides(x, x, out, out)
    arguments: Arguments = (x, x, weight, out, out, np.int32(features), *strides, np.float32(eps))
    _each_row("norm.cu", name, rows, -(-features // width), arguments)


def add_rms_norm(
    x: Tensor, y: Tensor, weight: Tensor, total: Tensor, out: Tensor, eps: float
) -> None:
    """``total = x + y``, rounded, and ``out`` its norm; ``total`` may be ``x`` or ``y``."""
    rows, features = x.shape
    width = _width(features, x, y, weight, total, out)
    name = f"rms_norm<{TYPES[x.dtype]}, {width}, true>"
    strides = _strides(x, y, total, out)
    arguments: Arguments = (x, y, weight, total, out, np.int32(features), *strides, np.float32(eps))
    _each_row("norm.cu", name, rows, -(-features // width), arguments)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, eps: float) -> None:
    """See :func:`specinfer.ops.norm.layer_norm`."""
    rows, features = x.shape
    width = _width(features, x, weight, bias, out)
    name = f"layer_norm<{TYPES[x.dtype]}, {width}>"
    arguments: Arguments = (
        x,
        weight,
        bias,
        out,
        np.int32(features),
        *_strides(x, out),
        np.float32(eps),
    )
    _each_row("norm.cu", name, rows, -(-features // width), arguments)


def add(x: Tensor, y: Tensor, out: Tensor) -> None:
    """See :func:`specinfer.ops.elementwise.add`."""
    _elementwise("pairs", "Add", x, y, out)


def silu_mul(x: Tensor, y: Tensor, out: Tensor) -> None:
    """See :func:`specinfer.ops.elementwise.silu_mul`."""
    _elementwise("pairs", "SiluMul", x, y, out)


def gelu(x: Tensor, out: Tensor, approximate: str) -> None:
    """See :func:`specinfer.ops.elementwise.gelu`."""
    _elementwise("each", {"none": "Gelu", "tanh": "GeluTanh"}[approximate], x, out)


def relu(x: Tensor, out: Tensor) -> None:
    """See :func:`specinfer.ops.elementwise.relu`."""
    _elementwise("each", "Relu", x, out)


def _elementwise(kernel: str, function: str, *tensors: Tensor) -> None:
    rows, features = tensors[0].shape
    width = _width(features, *tensors)
    packs = features // width
    name = f"{kernel}<{TYPES[tensors[0].dtype]}, {width}, {function}>"
    arguments: Arguments = (*tensors, np.int32(rows), np.int32(packs), *_strides(*tensors))
    _each_thread("elementwise.cu", name, rows * packs, arguments)


def rotary_angles(positions: Tensor, out: Tensor, head_size: int, theta: float) -> None:
    """See :func:`specinfer.ops.rotary.rotary_angles`."""
    rows, half = len(positions), head_size // 2
    name = f"angles<{TYPES[out.dtype]}>"
    arguments: Arguments = (
        positions,
        out,
        np.int32(rows),
        np.int32(half),
        np.float32(theta),
        *_strides(out),
    )
    _each_thread("rotary.cu", name, rows * half, arguments)


def rotary(x: Tensor, angles: Tensor, out: Tensor, head_size: int) -> None:
    """See :func:`specinfer.ops.rotary.rotary`."""
    rows, features = x.shape
    half = head_size // 2
    width = _width(half, x, angles, out)
    counts = map(np.int32, (rows, features // head_size, 0, half))  # no keys, no values
    tensors = (x, x, x, angles, angles, out, out, out)
    strides = _strides(x, x, x, angles, out, out)
    threads = rows * features // (2 * width)
    name = f"turn<{TYPES[x.dtype]}, {width}>"
    _each_thread("rotary.cu", name, threads, (*tensors, *counts, *strides))


def rotary_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    angles: Tensor,
    slots: Tensor,
    pool_k: Tensor,
    pool_v: Tensor,
    out: Tensor,
    head_size: int,
) -> None:
    """Turn queries to ``out``, and keys to their slots of a pool; copy values to theirs.

    Args:
        q: (rows, heads x head_size).
        k: (rows, kv_heads x head_size).
        v: as ``k``.
        angles: (rows, 2 head_size), see :func:`specinfer.ops.rotary.rotary_angles`.
        slots: (rows,) int64.
        pool_k: (slots, kv_heads, head_size), a layer's keys.
        pool_v: as ``pool_k``, a layer's values.
        out: as ``q``, written.
        head_size: features of a head.
    """
    rows, half = len(q), head_size // 2
    heads, kv_heads = q.shape[1] // head_size, k.shape[1] // head_size
    width = _width(half, q, k, v, angles, pool_k, pool_v, out)
    counts = map(np.int32, (rows, heads, kv_heads, half))
    tensors = (q, k, v, angles, slots, out, pool_k, pool_v)
    strides = _strides(q, k, v, angles, out, pool_k)
    threads = rows * (heads + 2 * kv_heads) * (half // width)
    name = f"turn<{TYPES[q.dtype]}, {width}>"
    _each_thread("rotary.cu", name, threads, (*tensors, *counts, *strides))


def embedding(tokens: Tensor, weight: Tensor, out: Tensor) -> None:
    """See :func:`specinfer.ops.embedding.embedding`."""
    select_rows(weight, tokens, out)


def select_rows(x: Tensor, rows: Tensor, out: Tensor) -> None:
    """See :func:`specinfer.ops.embedding.select_rows`."""
    count, features = out.shape
    width = _width(features, x, out)
    words = features // width
    name = f"gather<{_WORDS[width * x.itemsize]}>"
    arguments: Arguments = (
        x,
        rows,
        out,
        np.int32(count),
        np.int32(words),
        *_strides(x, out, width=width),
    )
    _each_thread("rows.cu", name, count * words, arguments)


def write_kv(k: Tensor, v: Tensor, slots: Tensor, pool_k: Tensor, pool_v: Tensor) -> None:
    """Store each row's key and value in its slot.

    Args:
        k: (rows, kv_heads x head_size).
        v: as ``k``.
        slots: (rows,) int64.
        pool_k: (slots, kv_heads, head_size), a layer's keys.
        pool_v: as ``pool_k``, a layer's values.
    """
    count, features = k.shape
    width = _width(features, k, v, pool_k, pool_v)
    words = features // width
    name = f"write_kv<{_WORDS[width * k.itemsize]}>"
    strides = _strides(k, v, pool_k, width=width)
    arguments: Arguments = (k, v, slots, pool_k, pool_v, np.int32(count), np.int32(words), *strides)
    _each_thread("rows.cu", name, count * words, arguments)


def commit_kv(pool_k: Tensor, pool_v: Tensor, moves: Tensor, count: Tensor | None = None) -> None:
    """Copy accepted K/V of all layers; how many may be known to the card only.

    Args:
        pool_k: (layers, slots, kv_heads, head_size).
        pool_v: as ``pool_k``.
        moves: (2, capacity) int64: from slot, to slot. No target is a source of another move.
        count: (1,) int64: so many leading moves are done; None: all.
    """
    layers, _, kv_heads, head_size = pool_k.shape
    features, capacity = kv_heads * head_size, moves.shape[1]
    width = _width(features, pool_k, pool_v)
    words = features // width
    blocks = min(-(-capacity * words // BLOCK), _COMMIT_BLOCKS)
    if blocks and layers:
        name = f"commit_kv<{_WORDS[width * pool_k.itemsize]}>"
        counts = map(np.int32, (capacity, words))
        strides = (*_strides(moves), *_strides(pool_k, pool_k[0], width=width))
        known = np.uint64(0) if count is None else count
        arguments: Arguments = (pool_k, pool_v, moves, known, *counts, *strides)
        launch("rows.cu", name, (blocks, 2 * layers), BLOCK, arguments)


def _width(extent: int, *tensors: Tensor) -> int:
    """Numbers of a pack: 16 bytes, if these divide all rows and their parts; else one.

    Args:
        extent: numbers of a part of a row that is walked through by packs.
        tensors: of one type.
    """
    width = PACK_BYTES // tensors[0].itemsize
    fits = extent % width == 0 and all(
        t.data_ptr() % PACK_BYTES == 0 and all(stride % width == 0 for stride in t.stride()[:-1])
        for t in tensors
    )
    return width if fits else 1


def _strides(*tensors: Tensor, width: int = 1) -> tuple[np.int64, ...]:
    """How far their rows lie apart, in packs of ``width`` numbers."""
    return tuple(np.int64(tensor.stride(0) // width) for tensor in tensors)


def _each_row(file: str, name: str, rows: int, packs: int, arguments: Arguments) -> None:
    """Launch a block for each row: whole warps, a thread for each pack if there may be so many."""
    if rows:
        launch(file, name, (rows,), min(MAX_BLOCK, -(-packs // WARP) * WARP), arguments)


def _each_thread(file: str, name: str, threads: int, arguments: Arguments) -> None:
    """Launch so many threads, and those that fill the last block."""
    if threads:
        launch(file, name, (-(-threads // BLOCK),), BLOCK, arguments)
