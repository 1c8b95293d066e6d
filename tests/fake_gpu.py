"""A GPU that is not there: the few calls of ``torch.cuda`` that the executor makes, recorded.

What is "issued" to it runs at once, on the host. Capturing keeps nothing: a replay only says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from specinfer.runtime.executor import cuda

GiB = 1 << 30


class FakeGpu:
    """What was asked of the GPU.

    Attributes:
        log: calls, in order.
        free: bytes that it says are free.
        reserved: bytes that it says torch has.
        fails_at_end: raised when a capture ends.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.free, self.total, self.reserved = 2 * GiB, 80 * GiB, 70 * GiB
        self.fails_at_end: Exception | None = None

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def graph(self) -> Any:
        gpu = self

        class Graph:
            def capture_begin(self, pool: object) -> None:
                gpu.log.append("begin")

            def capture_end(self) -> None:
                gpu.log.append("end")
                if gpu.fails_at_end is not None:
                    raise gpu.fails_at_end

            def replay(self) -> None:
                gpu.log.append("replay")

        return Graph()


def put_fake_gpu(patches: pytest.MonkeyPatch) -> FakeGpu:
    """Have ``CudaExecutor`` find a GPU."""
    gpu = FakeGpu()

    @contextmanager
    def stream(_: object) -> Iterator[None]:
        yield

    patches.setattr(cuda, "check_gpu", lambda device: None)
    patches.setattr(torch.cuda, "set_device", lambda device: None)
    patches.setattr(torch.cuda, "Stream", lambda device: gpu)
    patches.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    patches.setattr(torch.cuda, "stream", stream)
    patches.setattr(torch.cuda, "CUDAGraph", gpu.graph)
    patches.setattr(torch.cuda, "mem_get_info", lambda device=None: (gpu.free, gpu.total))
    patches.setattr(torch.cuda, "memory_reserved", lambda device=None: gpu.reserved)
    return gpu
