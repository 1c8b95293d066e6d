"""A runtime whose only memory is a GPU's."""

from __future__ import annotations

from specinfer.runtime.context import Runtime
from specinfer.runtime.memory import Memory


def gpu_runtime() -> Runtime:
    """One GPU; what it has no variant for is torch's."""
    # Only with a card: the executor wants one.
    from specinfer.runtime.executor.cuda import CudaExecutor

    return Runtime(CudaExecutor(), ("cuda", "cpu"), memories=[Memory("cpu", device="cuda")])
