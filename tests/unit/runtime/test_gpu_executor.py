"""What the executor of a GPU says when there is no memory left; the GPU is a fake."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_gpu import FakeGpu, put_fake_gpu

from specinfer.runtime import call
from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import PoisonedError
from specinfer.runtime.executor.cuda import CudaExecutor
from specinfer.runtime.executor.gpu_memory import GpuMemoryError, GpuUse
from specinfer.runtime.privilege import RW
from specinfer.runtime.region import Region
from specinfer.runtime.task import task

FULL = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 80.00 GiB"
SAID = (
    r"asks for 2\.50 GiB, but 2\.0 GiB of 80\.0 GiB are free; 70\.0 GiB are held here, 8\.0 GiB by "
    r"CUDA and other programs$"
)


class Greedy:
    """Raises what it was told to, once it was."""

    error: Exception | None = None


@task(x=RW)
def step(x: Any) -> None:
    x += 1
    if Greedy.error is not None:
        raise Greedy.error


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    monkeypatch.setattr(Greedy, "error", None)
    monkeypatch.setattr(call, "is_on_gpu", lambda array: True)
    return put_fake_gpu(monkeypatch)


def region(runtime: Runtime) -> Region:
    return runtime.region("x", (4,), {"value": torch.int64}, {"value": torch.zeros(4).long()})


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("error", [torch.OutOfMemoryError(FULL), MemoryError(FULL)])
def test_a_task_that_finds_no_memory_is_told_with_who_has_it(error: Exception) -> None:
    runtime = Runtime(CudaExecutor())
    x = region(runtime)
    Greedy.error = error
    with pytest.raises(GpuMemoryError, match=r"^gpu: step\(x=RW x\) " + SAID) as raised:
        runtime.launch(step, x=x.part())
    assert raised.value.use == GpuUse(80 << 30, 2 << 30, 70 << 30)
    assert raised.value.__cause__ is error
    Greedy.error = None
    with pytest.raises(PoisonedError, match="Tried to allocate"):
        runtime.launch(step, x=x.part())


@pytest.mark.usefixtures("gpu")
def test_other_errors_are_what_they_were() -> None:
    runtime = Runtime(CudaExecutor())
    x = region(runtime)
    Greedy.error = ArithmeticError("out of numbers")
    with pytest.raises(ArithmeticError):
        runtime.launch(step, x=x.part())


def test_a_capture_that_finds_no_memory_is_no_fault_of_the_task(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(CudaExecutor())
    x = region(runtime)
    trace = runtime.trace("body", lambda: runtime.launch(step, x=x.part()))
    trace()

    def graph() -> Any:  # the second run itself has gone well by then
        Greedy.error = torch.OutOfMemoryError(FULL)
        return gpu.graph()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", graph)
    with pytest.raises(GpuMemoryError, match=r"^gpu: step\(x=RW x\), captured, " + SAID):
        trace()


def test_a_graph_that_finds_no_memory(gpu: FakeGpu) -> None:
    runtime = Runtime(CudaExecutor())
    x = region(runtime)
    trace = runtime.trace("body", lambda: runtime.launch(step, x=x.part()))
    trace()
    gpu.fails_at_end = RuntimeError("CUDA error: out of memory")
    message = r"^gpu: a CUDA graph of 1 operations from step\(x=RW x\) on asks for memory, but 2\.0"
    with pytest.raises(GpuMemoryError, match=message):
        trace()


def test_a_verified_trace_is_one_graph_that_is_replayed(gpu: FakeGpu) -> None:
    runtime = Runtime(CudaExecutor())
    x = region(runtime)
    trace = runtime.trace("body", lambda: runtime.launch(step, x=x.part()))
    for _ in range(3):
        trace()
    assert gpu.log == ["synchronize", "begin", "end", "replay"]
