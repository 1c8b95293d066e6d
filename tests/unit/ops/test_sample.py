from __future__ import annotations

import pytest
import torch

from specinfer.ops.sample import top_k

LOGITS = 3 * torch.randn(6, 11, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("k", [1, 3, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_top_k_are_the_likeliest_with_their_log_probabilities(k: int, dtype: torch.dtype) -> None:
    logits = LOGITS.to(dtype)
    # As an SSM gives them: a part of wider memory.
    tokens, log_probs = torch.full((8, 12), -1)[:6, :k], torch.full((8, 12), torch.nan)[:6, :k]
    top_k(logits, tokens, log_probs)
    right = logits.double() - logits.double().exp().sum(-1, keepdim=True).log()
    torch.testing.assert_close(log_probs.double(), right.gather(-1, tokens), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        log_probs.double(), right.sort(-1, descending=True).values[:, :k], atol=1e-5, rtol=1e-5
    )
    assert all(len(set(row)) == k for row in tokens.tolist())
