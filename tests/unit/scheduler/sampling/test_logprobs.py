"""Log-probabilities of single rows."""

from __future__ import annotations

import math

import pytest
import torch

from specinfer.scheduler.sampling.logprobs import top_logprobs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_those_of_the_log_softmax(dtype: torch.dtype) -> None:
    row = torch.randn(50, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = row.double().log_softmax(0)
    found = top_logprobs(row, 7, 5)
    assert found.token == 7
    assert found.logprob == pytest.approx(expected[7].item())
    ranked, tokens = expected.sort(descending=True)
    assert [token for token, _ in found.top] == tokens[:5].tolist()
    assert [value for _, value in found.top] == pytest.approx(ranked[:5].tolist())


def test_of_equal_tokens_the_first_stands_first() -> None:
    found = top_logprobs(torch.zeros(3), 2, 9)
    assert [token for token, _ in found.top] == [0, 1, 2]
    assert [value for _, value in found.top] == pytest.approx([-math.log(3)] * 3)
