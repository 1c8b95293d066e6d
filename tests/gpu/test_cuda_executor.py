"""Programs on a GPU mean what they mean on the host; traces become graphs."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from gpu.gpu_runtime import gpu_runtime
from torch import Tensor

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import TraceError
from specinfer.runtime.privilege import RW, WD, R
from specinfer.runtime.region import Region
from specinfer.runtime.task import task

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")

SIZE = 64


@task(x=RW)
def scale(x: Tensor, by: int) -> None:
    x.mul_(by).remainder_(1009)


@task(x=R, y=RW)
def add_to(x: Tensor, y: Tensor) -> None:
    y.add_(x)


@task(x=R, y=WD)
def reverse(x: Tensor, y: Tensor) -> None:
    y.copy_(x.flip(0))


@task(x=R)
def total(x: Tensor) -> int:
    return int(x.sum())


@task(x=RW)
def waits(x: Tensor) -> None:
    if int(x[0]) >= 0:
        x.add_(1)


def program(runtime: Runtime, seed: int) -> list[list[int]]:
    """Run a random body of launches again and again; return what was given, and the end."""
    generator = random.Random(seed)
    regions = [runtime.region(f"r{i}", (SIZE,), {"value": torch.int64}) for i in range(3)]
    for i, region in enumerate(regions):
        runtime.launch(fill, x=region.part(), start=i)
    plan = [(generator.randrange(4), *generator.sample(range(3), 2)) for _ in range(12)]

    def body(by: int) -> list[object]:
        found: list[object] = []
        for kind, one, other in plan:
            x, y = regions[one].part(), regions[other].part()
            if kind == 0:
                runtime.launch(scale, x=x, by=by)
            elif kind == 1:
                runtime.launch(add_to, x=x, y=y)
            elif kind == 2:
                runtime.launch(reverse, x=x, y=y)
            else:
                found.append(runtime.launch(total, x=x))
        return found

    trace = runtime.trace("body", body)
    seen = []
    for step in range(8):
        by = step % 2 + 2 if seed % 2 else 3
        seen.append([future.get() for future in trace(by=by)])
    return [*seen, *(runtime.read(region.part()).tolist() for region in regions)]


@task(x=WD)
def fill(x: Tensor, start: int) -> None:
    torch.arange(start, start + SIZE, out=x)


@pytest.mark.parametrize("seed", range(20))
def test_a_program_means_the_same_on_a_gpu(seed: int) -> None:
    with gpu_runtime() as on_gpu, Runtime() as on_host:
        assert program(on_gpu, seed) == program(on_host, seed)
        assert on_gpu.traces[0].stats.replayed == on_host.traces[0].stats.replayed > 0


def region_of(runtime: Runtime) -> Region:
    return runtime.region("x", (SIZE,), {"value": torch.int64})


def test_a_run_of_tasks_is_one_graph() -> None:
    with gpu_runtime() as runtime:
        x = region_of(runtime)

        def body() -> None:
            for _ in range(5):
                runtime.launch(scale, x=x.part(), by=2)
            runtime.launch(total, x=x.part())
            runtime.launch(scale, x=x.part(), by=2)

        trace = runtime.trace("body", body)
        for _ in range(4):
            trace()
        (templates,) = trace._templates.values()
        assert len(templates[0].calls) == 3


def test_a_task_that_waits_cannot_be_captured() -> None:
    with gpu_runtime() as runtime:
        x = region_of(runtime)
        trace = runtime.trace("body", lambda: runtime.launch(waits, x=x.part()))
        trace()
        with pytest.raises(TraceError, match=r"waits\(x=RW x\) cannot be captured"):
            trace()


def test_nobody_waits_for_what_is_issued() -> None:
    with gpu_runtime() as runtime:
        x = runtime.region("x", (1 << 26,), {"value": torch.float32})

        def body() -> None:
            for _ in range(20):
                runtime.launch(scale, x=x.part(), by=3)

        trace = runtime.trace("body", body)
        for _ in range(3):
            trace()
        runtime.fence()
        done: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        trace()
        done.record(runtime._stream.executor._stream)  # type: ignore[attr-defined]
        assert not done.query()
        runtime.fence()
        assert done.query()


@task(x=WD)
def clear(x: Tensor) -> None:
    x.zero_()


@task(x=R)
def tell(x: Tensor) -> int:
    return len(x)


@task(x=RW)
def mark(x: Tensor, event: Any) -> None:
    event.record()


def test_a_value_waits_for_nothing_that_was_issued_before() -> None:
    runtime, size = gpu_runtime(), 1 << 24
    x = runtime.region("x", (size,), {"value": torch.int64}).part()
    runtime.launch(clear, x=x)
    runtime.fence()
    done: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    for _ in range(200):
        runtime.launch(scale, x=x, by=3)
    runtime.launch(mark, x=x, event=done)
    assert runtime.launch(tell, x=x).get() == size
    assert not done.query()
    runtime.fence()
    assert done.query()
    runtime.close()
