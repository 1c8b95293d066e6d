"""Rows of a table, by number: token embeddings, and the choice of rows that go on."""

from __future__ import annotations

import torch
from torch import Tensor

from specinfer.ops.kernels import rowwise_cuda
from specinfer.ops.operator import Operator, Shape, Signature, expect
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.task import task


def _infer_embedding(tokens: Shape, *, vocabulary: int, features: int) -> Signature:
    expect(len(tokens) == 1, f"tokens are {tokens}, expected (rows,)")
    return Signature((tokens[0], features), {"weight": (vocabulary, features)})


@task(
    tokens=R,
    weight=R,
    out=WD,
    pure=True,
    axes={"tokens": ("rows",), "weight": (None, "features"), "out": ("rows", "features")},
)
def embedding(tokens: Tensor, weight: Tensor, out: Tensor) -> None:
    """``out[i] = weight[tokens[i]]``; tokens (rows,) int64, weight (vocabulary, features)."""
    torch.index_select(weight, 0, tokens, out=out)


def _infer_select(x: Shape, rows: Shape) -> Signature:
    expect(len(x) == 2, f"x is {x}, expected (rows, features)")
    expect(len(rows) == 1, f"rows are {rows}, expected (selected,)")
    return Signature((rows[0], x[1]))


@task(
    x=R,
    rows=R,
    out=WD,
    pure=True,
    axes={"x": (None, "features"), "rows": ("selected",), "out": ("selected", "features")},
)
def select_rows(x: Tensor, rows: Tensor, out: Tensor) -> None:
    """``out[i] = x[rows[i]]``: later operators pay only for the rows whose logits are wanted."""
    torch.index_select(x, 0, rows, out=out)


embedding.variant("cuda")(rowwise_cuda.embedding)
select_rows.variant("cuda")(rowwise_cuda.select_rows)

EMBEDDING = Operator("embedding", _infer_embedding, (embedding,), weights=("weight",))
SELECT_ROWS = Operator("select_rows", _infer_select, (select_rows,))
