"""A GPU that runs full is told with what holds it and what to lower; the GPU is a fake."""

from __future__ import annotations

import pytest
import torch
from fake_gpu import put_fake_gpu

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import ConfigError
from specinfer.runtime.executor.gpu_memory import out_of_memory
from specinfer.runtime.memory import Memory
from specinfer.scheduler.gpu_full import explained

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    put_fake_gpu(monkeypatch)
    memory = Memory("gpu")
    memory.hold("model.norm.weight", 40 << 30)
    memory.hold("llama.kv", 20 << 30)
    return Runtime(memories=[Memory("cpu"), memory])


@pytest.mark.parametrize("is_told", [False, True])
def test_what_holds_the_memory_is_told_with_what_to_lower(
    runtime: Runtime, *, is_told: bool
) -> None:
    message = (
        r"^gpu: an array asks for 2\.50 GiB, but 2\.0 GiB of 80\.0 GiB are free; .*; weights "
        r"40\.0 GiB, K/V pools 20\.0 GiB, graphs and what tasks take 10\.0 GiB; expected a smaller "
        r"batch\.max_requests, "
    )
    error = out_of_memory("an array", FULL) if is_told else FULL
    with pytest.raises(ConfigError, match=message), explained(runtime, "gpu"):
        raise error


def test_other_errors_and_runtimes_are_left_alone(runtime: Runtime) -> None:
    with pytest.raises(KeyError), explained(runtime, "gpu"):
        raise KeyError
    with pytest.raises(torch.OutOfMemoryError), explained(Runtime(), "gpu"):
        raise FULL
