"""Sends small arrays of the host to tables on a GPU, all in one transfer and one launch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specinfer.ops.kernels.cuda import launch

SEGMENT = 8
"""Numbers that describe a table, see ``tables.cu``."""
THREADS = 128
MOST_BLOCKS = 64
"""For one table."""


def fill_tables(
    tables: Sequence[Tensor], arrays: Sequence[NDArray[np.int64]], fillers: Sequence[int]
) -> None:
    """Copy arrays to the beginnings of tables; the rest of each table gets its filler.

    Args:
        tables: int64 on the GPU, of one or two dimensions, columns one behind another.
        arrays: as many, of the same dimensions, none larger than its table.
        fillers: one for each table.
    """
    header = np.empty((len(tables), SEGMENT), np.int64)
    offset = header.size
    for segment, table, array, filler in zip(header, tables, arrays, fillers, strict=True):
        rows, columns = _matrix(table.shape)
        stride = table.stride(0) if table.dim() == 2 else 1
        segment[:] = (
            table.data_ptr(), rows, columns, stride, offset, *_matrix(array.shape), filler
        )  # fmt: skip
        offset += array.size
    # Both from caches of torch's, which give memory out again only when the stream is done with it.
    block = torch.empty(offset, dtype=torch.int64, pin_memory=True)
    np.concatenate([header.ravel(), *(array.ravel() for array in arrays)], out=block.numpy())
    sent = block.to(tables[0].device, non_blocking=True)
    largest = max(table.numel() for table in tables)
    blocks = min(-(-largest // THREADS), MOST_BLOCKS)
    launch("tables.cu", "fill_tables", (len(tables), blocks), THREADS, [sent])


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns; a vector is a column."""
    rows, *columns = shape
    return rows, (columns[0] if columns else 1)
