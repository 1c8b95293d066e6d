"""Small float32 operators of a CPU step, each compiled by Numba to one call.

Between two matrix products a decoding step runs dozens of operators on a few kilobytes; as torch
calls their dispatch costs more than their work. Compiled once, kept in Numba's cache on disk.

Sums may be reordered; NaN and infinity keep their meaning.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

_FLAGS: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},
}


@njit(**_FLAGS)
def rms_norm(x, weight, out, eps):  # type: ignore[no-untyped-def]
    """See :func:`specinfer.ops.norm.rms_norm`."""
    rows, features = x.shape
    for row in range(rows):
        total = np.float32(0)
        for i in range(features):
            total += x[row, i] * x[row, i]
        scale = np.float32(1 / math.sqrt(total / features + eps))
        for i in range(features):
            out[row, i] = x[row, i] * scale * weight[i]


@njit(**_FLAGS)
def rotary(x, angles, out, head_size):  # type: ignore[no-untyped-def]
    """See :func:`specinfer.ops.rotary.rotary`."""
    rows, features = x.shape
    size = head_size
    half = size // 2
    for row in range(rows):
        for head in range(0, features, size):
            for i in range(half):
                low, high = x[row, head + i], x[row, head + half + i]
                cos, sin = angles[row, i], angles[row, size + half + i]
                out[row, head + i] = low * cos - high * sin
                out[row, head + half + i] = high * cos + low * sin


@njit(**_FLAGS)
def write_kv(k, v, slots, k_pool, v_pool):  # type: ignore[no-untyped-def]
    """See :func:`specinfer.ops.attention.write_kv`; pools (1, slots, kv_heads, size)."""
    rows = slots.shape[0]
    _, _, heads, size = k_pool.shape
    for row in range(rows):
        for head in range(heads):
            for i in range(size):
                k_pool[0, slots[row], head, i] = k[row, head * size + i]
                v_pool[0, slots[row], head, i] = v[row, head * size + i]


@njit(**_FLAGS)
def tree_attention(q, k_pool, v_pool, keys, seen, extents, out, scale):  # type: ignore[no-untyped-def]
    """See :func:`specinfer.ops.attention.tree_attention`; K/V are read where they lie."""
    _, _, kv_heads, size = k_pool.shape
    group = q.shape[1] // (kv_heads * size)
    for r in range(extents.shape[0]):
        start, stop, num_keys = extents[r, 0], extents[r, 1], extents[r, 2]
        first_asked = num_keys - extents[r, 3]
        if num_keys == 0:  # padding of a step in which nobody computes anything
            out[start:stop] = 0
            continue
        weights = np.empty((stop - start, group, num_keys), np.float32)
        for kv_head in range(kv_heads):
            first = kv_head * group
            for j in range(num_keys):
                key = k_pool[0, keys[r, j], kv_head]
                node = j - first_asked
                for row in range(start, stop):
                    if node >= 0 and not seen[row, node >> 6] >> (node & 63) & 1:
                        weights[row - start, :, j] = -np.inf
                        continue
                    for g in range(group):
                        at = (first + g) * size
                        total = np.float32(0)
                        for i in range(size):
                            total += q[row, at + i] * key[i]
                        weights[row - start, g, j] = total * scale
            for row in range(start, stop):
                for g in range(group):
                    _softmax(weights[row - start, g])
                    for i in range(size):
                        out[row, (first + g) * size + i] = 0
            for j in range(num_keys):
                value = v_pool[0, keys[r, j], kv_head]
                for row in range(start, stop):
                    for g in range(group):
                        weight = weights[row - start, g, j]
                        if weight > 0:
                            at = (first + g) * size
                            for i in range(size):
                                out[row, at + i] += weight * value[i]


@njit(**_FLAGS)
def _softmax(x):  # type: ignore[no-untyped-def]
    most = x[0]
    for i in range(x.shape[0]):
        most = max(most, x[i])
    total = np.float32(0)
    for i in range(x.shape[0]):
        x[i] = math.exp(x[i] - most)
        total += x[i]
    scale = np.float32(1) / total
    for i in range(x.shape[0]):
        x[i] *= scale
