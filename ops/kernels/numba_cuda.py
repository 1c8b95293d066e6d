"""Launches kernels that Numba compiles for a GPU, on torch's current stream.

A module of kernels begins with ``from numba import cuda`` and decorates them with ``cuda.jit``.
Import it where a kernel is launched, and not before: without a GPU nobody needs ``numba.cuda``.
Numba compiles a kernel when it is first launched with arrays of these layouts; a launch of a
compiled one only issues work, so a CUDA graph may capture it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

WARP = 32
MOST_THREADS = 256
"""Threads of a block, where nobody needs more."""


def threads_for(work: int, most: int = MOST_THREADS) -> int:
    """Threads of a block that share so many pieces of work: whole warps.

    >>> [threads_for(work) for work in (0, 5, 33, 5000)]
    [32, 32, 64, 256]
    """
    return min(most, max(1, -(-work // WARP)) * WARP)


def launch(
    kernel: Any,
    blocks: int,
    threads: int,
    arguments: Sequence[Tensor | int],
    *,
    shared_bytes: int = 0,
) -> None:
    """Launch a kernel.

    Args:
        kernel: decorated with ``cuda.jit``.
        blocks: of the grid; 0: nothing is launched.
        threads: of a block.
        arguments: tensors, passed as arrays with their strides, and integers. Tensors of the host
            are for Numba's simulator.
        shared_bytes: dynamic shared memory of a block.
    """
    if blocks == 0:
        return
    is_on_gpu = any(isinstance(given, Tensor) and given.is_cuda for given in arguments)
    stream = _stream(torch.cuda.current_stream().cuda_stream) if is_on_gpu else 0
    listed = [_for_numba(given) for given in arguments]
    with warnings.catch_warnings():
        # Numba finds few blocks slow. There is not more to do, and each launch has a use.
        warnings.filterwarnings("ignore", ".*Grid size .* under-utilization")
        configured = kernel[blocks, threads, stream, shared_bytes]
    configured(*listed)


def _for_numba(given: Tensor | int) -> Any:
    return given.numpy() if isinstance(given, Tensor) and not given.is_cuda else given


@cache
def _stream(address: int) -> Any:
    from numba import cuda

    return cuda.external_stream(address)
