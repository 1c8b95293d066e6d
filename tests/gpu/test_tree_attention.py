"""On a GPU too, every row attends to its own token path."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from unit.ops.apply import run_variant
from unit.ops.test_attention import heads_of, make_step, random_case

from specinfer.ops.attention import (
    WORK_SIZE,
    plan_attention,
    scratch_bytes,
    tree_attention,
    write_kv,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")

NAN = float("nan")
NEAR = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def on_gpu(given: Any, dtype: torch.dtype) -> Any:
    """The same on the GPU, numbers in another type."""
    if isinstance(given, SimpleNamespace):
        return SimpleNamespace(**{name: on_gpu(x, dtype) for name, x in vars(given).items()})
    return given.to("cuda", dtype if given.is_floating_point() else None)


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("seed", range(40))
def test_every_row_attends_to_its_own_token_path(seed: int, dtype: torch.dtype) -> None:
    generator = random.Random(seed)
    kv_heads = generator.choice([1, 2, 3])
    num_heads = kv_heads * generator.choice([1, 2, 3, 6, 7])
    size = generator.choice([64, 96, 128, 256])
    scale = generator.uniform(0.5, 1) * size**-0.5
    cases = [random_case(generator) for _ in range(generator.randint(1, 4))]
    step = make_step(cases, num_heads, kv_heads, size, scale, seed)
    rows, requests, pages, tree, ancestors, kv, q, k, v, slots = (
        on_gpu(given, dtype)
        for given in (
            step.rows,
            step.requests,
            step.pages,
            step.tree,
            step.ancestors,
            step.kv,
            step.q,
            step.k,
            step.v,
            step.slots,
        )
    )
    num_keys = pages.shape[1] * 16 + tree.shape[1]
    keys = torch.full((len(pages), num_keys), 3, dtype=torch.int32, device="cuda")
    seen = torch.full((len(q), -(-tree.shape[1] // 64)), -1, device="cuda")
    extents = torch.full((len(pages), 4), -7, device="cuda")
    work = torch.zeros(WORK_SIZE, dtype=torch.int32, device="cuda")
    heads = heads_of(q, kv)
    size = scratch_bytes(heads, "cuda")
    scratch = torch.full((kv_heads, size), 255, dtype=torch.uint8, device="cuda")
    run_variant(
        plan_attention,
        "cuda",
        rows,
        requests,
        pages,
        tree,
        ancestors,
        keys,
        seen,
        extents,
        work,
        heads,
    )
    run_variant(write_kv, "cuda", k, v, slots, kv)
    out = torch.full_like(q, NAN)
    run_variant(tree_attention, "cuda", q, kv, keys, seen, extents, work, scratch, out, scale)
    near = NEAR[dtype]
    torch.testing.assert_close(out.double().cpu(), step.right, atol=near, rtol=near)
