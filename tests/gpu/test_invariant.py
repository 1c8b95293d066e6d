"""Invariant numerics on a card: a token's bits are those of plain decoding, whatever is guessed."""

from __future__ import annotations

import pytest
import torch
from row_bits import random_pair
from tiny_models import Draft, Sizes, make_bench, noisy_copy, tiny_config, tiny_model

from specinfer.ops.attention import tree_attention
from specinfer.runtime.context import Runtime
from specinfer.runtime.memory import Memory
from specinfer.scheduler.request import Request

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")

CLOSE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
def test_attention_of_a_node_has_the_bits_of_decoding(dtype: torch.dtype) -> None:
    variant = tree_attention.variants["cuda-invariant"].function
    reference = tree_attention.variants["invariant"].function
    for seed in range(80):
        in_tree, alone = random_pair(variant, seed, dtype, "cuda")
        assert torch.equal(in_tree, alone)
        expected, _ = random_pair(reference, seed, dtype)
        torch.testing.assert_close(in_tree.cpu(), expected, rtol=CLOSE[dtype], atol=CLOSE[dtype])


@pytest.mark.parametrize("lanes", [False, True])
def test_what_is_guessed_changes_no_bit(lanes: bool) -> None:
    from specinfer.runtime.executor.cuda import CudaExecutor

    config = tiny_config("qwen2", hidden=256, inner=128, heads=4, vocabulary=256, layers=3)
    model = tiny_model(3, config, dtype=torch.bfloat16)
    drafts = [
        Draft(noisy_copy(model, 1, 0.02), (2, 2, 1)),
        Draft(noisy_copy(model, 2, 0.05), (3, 2, 1, 1)),
    ]
    prompts = [[1 + i % 7, 2 * i % 40, 3, i % 5] * (1 + i % 6) for i in range(40)]

    def write(drafts: list[Draft], requests: int) -> list[list[int]]:
        runtime = Runtime(
            CudaExecutor(),
            ("cuda-invariant", "cuda", "cpu"),
            memories=[Memory("cpu", device="cuda")],
        )
        sizes = Sizes(requests=requests, rows=30 * requests, length=160)
        bench = make_bench(model, drafts, sizes, runtime=runtime, lookahead=int(lanes), lanes=lanes)
        texts = bench.write(
            [
                Request(id=id, prompt=prompt, max_new_tokens=100, eos_ids=frozenset({-1}))
                for id, prompt in enumerate(prompts)
            ]
        )
        runtime.close()
        return texts

    plain = write([], 1)
    assert write(drafts, 1) == plain
    assert write(drafts, 4) == plain
