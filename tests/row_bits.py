"""A row of attention twice: as a node of a tree, and decoded alone behind the same text."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

Variant = Callable[..., None]


def random_pair(
    variant: Variant, seed: int, dtype: torch.dtype, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """What a variant of ``tree_attention`` gives for the row, in the tree and alone."""
    of = random.Random(seed)
    kv_heads, group, size = of.choice([1, 2, 4]), of.choice([1, 2, 6]), of.choice([32, 64, 96, 128])
    prefix, nodes = of.randrange(200), of.randrange(1, 150)
    generator = torch.Generator().manual_seed(seed)
    slots = torch.randperm(512, generator=generator)[: prefix + nodes]
    shape = (1, 512, kv_heads, size)
    k, v = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(2))
    rows = of.randrange(1, 40)
    q = torch.randn(rows, kv_heads * group * size, generator=generator).to(device, dtype)
    sees = torch.rand(rows, nodes, generator=generator) < of.random()
    sees[:, 0] = True
    own = of.randrange(rows)

    def run(query: Tensor, keys: Tensor, seen: Tensor, extents: list[int]) -> Tensor:
        out = torch.full_like(query, torch.nan)
        bits = torch.zeros(len(seen), 64 * (seen.shape[1] // 64 + 1), dtype=torch.int64)
        bits[:, : seen.shape[1]] = seen
        words = (bits.view(len(seen), -1, 64) << torch.arange(64)).sum(-1)
        arguments: dict[str, Any] = {
            "q": query,
            "kv": SimpleNamespace(k=k, v=v),
            "keys": keys[None].to(device, torch.int32),
            "seen": words.to(device),
            "extents": torch.tensor([extents], device=device),
            "work": torch.zeros(4, dtype=torch.int32, device=device),
            "scratch": torch.zeros(kv_heads, 1, dtype=torch.uint8, device=device),
            "out": out,
            "scale": size**-0.5,
        }
        variant(**arguments)
        return out

    in_tree = run(q, slots, sees, [0, rows, prefix + nodes, nodes])[own]
    text = torch.cat([slots[:prefix], slots[prefix:][sees[own]]])
    alone = run(q[own : own + 1], text, torch.ones(1, 1), [0, 1, len(text), 0])[0]
    return in_tree, alone
