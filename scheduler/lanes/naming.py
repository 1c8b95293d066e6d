"""The task that gives tokens their numbers in another vocabulary."""

from __future__ import annotations

from torch import Tensor

from specinfer.ops.kernels.numba_cuda import launch, threads_for
from specinfer.runtime.privilege import RW, R
from specinfer.runtime.task import task


@task(tokens=RW, names=R, pure=True)
def rename(tokens: Tensor, names: Tensor) -> None:
    """Look up all tokens of a table.

    Args:
        tokens: (rows,) or (rows, columns) int64, at least 0; each becomes what stands at it.
        names: (numbers,) int64; its last entry is that of all tokens behind it, too.
    """
    tokens.copy_(names[tokens.clamp(max=len(names) - 1)])


@rename.variant("cuda")
def _rename_on_gpu(tokens: Tensor, names: Tensor) -> None:
    from specinfer.scheduler.lanes import naming_kernels as kernels

    table = tokens if tokens.dim() == 2 else tokens[:, None]
    threads = threads_for(table.numel())
    launch(kernels.rename, -(-table.numel() // threads), threads, [table, names])
