from __future__ import annotations

import math

import pytest
import torch
from unit.ops.apply import apply

from specinfer.ops.elementwise import ADD, GELU, RELU, SILU_MUL
from specinfer.ops.embedding import EMBEDDING, SELECT_ROWS
from specinfer.ops.operator import Operator, ShapeError
from specinfer.ops.registry import OPERATORS

X, Y = 3 * torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
WIDE = X.double()


def test_add() -> None:
    assert torch.equal(apply(ADD, X, Y), X + Y)


def test_silu_mul_is_x_times_its_sigmoid_times_y() -> None:
    right = WIDE / (1 + torch.exp(-WIDE)) * Y.double()
    torch.testing.assert_close(apply(SILU_MUL, X, Y).double(), right, atol=1e-5, rtol=1e-5)


def test_gelu_is_x_times_the_normal_distribution() -> None:
    right = WIDE * (1 + torch.erf(WIDE / math.sqrt(2))) / 2
    torch.testing.assert_close(apply(GELU, X).double(), right, atol=1e-5, rtol=1e-5)


def test_gelu_by_tanh() -> None:
    inner = math.sqrt(2 / math.pi) * (WIDE + 0.044715 * WIDE**3)
    right = WIDE * (1 + torch.tanh(inner)) / 2
    found = apply(GELU, X, approximate="tanh")
    torch.testing.assert_close(found.double(), right, atol=1e-5, rtol=1e-5)


def test_relu() -> None:
    assert torch.equal(apply(RELU, X), X * (X > 0))


def test_embedding_is_a_row_of_the_table_for_each_token() -> None:
    table, tokens = torch.randn(7, 4), torch.tensor([6, 0, 0, 3])
    found = apply(EMBEDDING, tokens, weights={"weight": table}, vocabulary=7, features=4)
    assert torch.equal(found, torch.stack([table[6], table[0], table[0], table[3]]))


@pytest.mark.parametrize("rows", [[], [4], [3, 3, 0]])
def test_select_rows(rows: list[int]) -> None:
    found = apply(SELECT_ROWS, X, torch.tensor(rows, dtype=torch.int64))
    assert found.tolist() == [X[row].tolist() for row in rows]


@pytest.mark.parametrize("operator", [ADD, SILU_MUL], ids=lambda operator: operator.name)
def test_refuses_two_shapes(operator: Operator) -> None:
    message = r"x is \('rows', 8\) and y is \('rows', 9\), expected the same shape"
    with pytest.raises(ShapeError, match=message):
        operator.signature((("rows", 8), ("rows", 9)), {})


def test_gelu_refuses_an_unknown_approximation() -> None:
    with pytest.raises(ShapeError, match="approximate is 'erf': none or tanh"):
        GELU.signature((("rows", 8),), {"approximate": "erf"})


def test_embedding_refuses_tokens_that_are_no_vector() -> None:
    with pytest.raises(ShapeError, match=r"tokens are \('rows', 8\), expected \(rows,\)"):
        EMBEDDING.signature((("rows", 8),), {"vocabulary": 7, "features": 4})


def test_select_rows_refuses() -> None:
    with pytest.raises(ShapeError, match=r"x is \('rows',\), expected \(rows, features\)"):
        SELECT_ROWS.signature((("rows",), ("logit_rows",)), {})
    with pytest.raises(ShapeError, match=r"rows are \('rows', 8\), expected \(selected,\)"):
        SELECT_ROWS.signature((("rows", 8), ("rows", 8)), {})


def test_every_operator_refuses_a_wrong_number_of_inputs() -> None:
    for operator in OPERATORS.values():
        with pytest.raises(ShapeError, match=rf"given 9 inputs, expected {operator.inputs[0]}"):
            operator.signature((("rows", 8),) * 9, {})
