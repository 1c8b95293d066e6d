from __future__ import annotations

from collections.abc import Callable

import pytest

from specinfer.models.errors import GraphError
from specinfer.models.graph import Graph, SymbolicTensor
from specinfer.ops.registry import OPERATORS


@pytest.fixture
def graph() -> Graph:
    """One operator: x = embedding of 7 tokens in 4 features."""
    graph = Graph("tiny")
    graph.op("embedding", graph.tokens, weight="embed", vocabulary=7, features=4, out="x")
    return graph


def test_a_graph_takes_the_inputs_of_a_batch() -> None:
    graph = Graph("tiny")
    assert [str(tensor) for tensor in graph.inputs] == [
        "tokens: (rows)",
        "positions: (rows)",
        "logit_rows: (logit_rows)",
    ]
    assert (graph.tokens, graph.positions, graph.logit_rows) == graph.inputs
    assert {tensor.dtype for tensor in graph.inputs} == {"int64"}


def test_an_operator_makes_a_tensor_and_declares_its_weights(graph: Graph) -> None:
    y = graph.op("linear", graph.tensor("x"), weight="up", bias="up.bias", features=8)
    assert y == SymbolicTensor("linear_1", ("rows", 8), "float") == graph.output
    assert graph.weights == {"embed": (7, 4), "up": (8, 4), "up.bias": (8,)}
    told = "linear_1: (rows, 8) = linear(x, weight=up, bias=up.bias, features=8)"
    assert str(graph.nodes[-1]) == told


def test_an_optional_weight_may_be_left_out(graph: Graph) -> None:
    x = graph.tensor("x")
    graph.op("linear", x, weight="up", bias=None, features=8)
    graph.op("linear", x, weight="down", features=8)
    assert [dict(node.weights) for node in graph.nodes[1:]] == [
        {"weight": "up"},
        {"weight": "down"},
    ]
    assert graph.nodes[1].operator.lower(frozenset({"weight"})) != OPERATORS["linear"].tasks


def test_attributes_left_out_have_their_defaults(graph: Graph) -> None:
    graph.op("rotary_angles", graph.positions, head_size=4)
    graph.op("gelu", graph.tensor("x"))
    assert dict(graph.nodes[1].attributes) == {"head_size": 4, "theta": 10000.0}
    assert dict(graph.nodes[2].attributes) == {"approximate": "none"}


def test_a_weight_may_be_used_twice(graph: Graph) -> None:
    graph.op("linear", graph.tensor("x"), weight="embed", features=7)
    assert graph.weights == {"embed": (7, 4)}


def test_tensors_are_found_by_name(graph: Graph) -> None:
    assert graph.tensor("x").shape == ("rows", 4)
    assert graph.tensor("tokens") is graph.tokens


Refused = dict[str, tuple[Callable[[Graph], object], str]]
REFUSED: Refused = {
    "unknown operator": (
        lambda g: g.op("conv", g.tensor("x")),
        r"tiny: conv_1 = conv: unknown operator; known: add, attention, embedding",
    ),
    "weight missing": (
        lambda g: g.op("linear", g.tensor("x"), features=8, out="y"),
        r"tiny: y = linear: weight 'weight' is missing",
    ),
    "required weight left out": (
        lambda g: g.op("linear", g.tensor("x"), weight=None, features=8, out="y"),
        r"tiny: y = linear: weight 'weight' is missing",
    ),
    "attribute missing": (
        lambda g: g.op("linear", g.tensor("x"), weight="up", out="y"),
        r"tiny: y = linear: attribute features is missing",
    ),
    "attribute unknown": (
        lambda g: g.op("relu", g.tensor("x"), slope=0.1, out="y"),
        r"tiny: y = relu: unknown attribute slope; known: ",
    ),
    "attribute of another kind": (
        lambda g: g.op("rms_norm", g.tensor("x"), weight="w", eps="1e-5", out="y"),
        r"tiny: y = rms_norm: .*'str' and 'int'",
    ),
    "weight of no size": (
        lambda g: g.op("linear", g.tensor("x"), weight="up", features="many", out="y"),
        r"tiny: y = linear: weight up is \('many', 4\), expected numbers",
    ),
    "too few inputs": (
        lambda g: g.op("add", g.tensor("x"), out="y"),
        r"tiny: y = add: given 1 inputs, expected x, y",
    ),
    "shapes that differ": (
        lambda g: g.op(
            "add", g.tensor("x"), g.op("linear", g.tensor("x"), weight="w", features=3), out="y"
        ),
        r"tiny: y = add: x is \('rows', 4\) and y is \('rows', 3\), expected the same shape",
    ),
    "shape that does not fit": (
        lambda g: g.op("linear", g.tokens, weight="up", features=8, out="y"),
        r"tiny: y = linear: x is \('rows',\), expected \(rows, features\)",
    ),
    "name taken": (
        lambda g: g.op("relu", g.tensor("x"), out="x"),
        r"tiny: x = relu: there is a tensor 'x' already",
    ),
    "name of an input": (
        lambda g: g.op("relu", g.tensor("x"), out="tokens"),
        r"tiny: tokens = relu: there is a tensor 'tokens' already",
    ),
    "weight of another shape": (
        lambda g: g.op("linear", g.tensor("x"), weight="embed", features=9, out="y"),
        r"tiny: y = linear: weight embed is \(9, 4\) here, but \(7, 4\) before",
    ),
    "tensor of another graph": (
        lambda g: g.op("relu", SymbolicTensor("z", ("rows", 4)), out="y"),
        r"tiny: y = relu: z: \(rows, 4\) is no tensor of this graph",
    ),
    "tensor not made": (lambda g: g.tensor("y"), r"tiny: no tensor 'y' has been made yet"),
    "empty graph": (lambda _: Graph("empty").output, r"empty: an empty graph has no output"),
}


@pytest.mark.parametrize(("use", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses(graph: Graph, use: Callable[[Graph], object], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        use(graph)


def test_a_refused_operator_leaves_the_graph_as_it_was(graph: Graph) -> None:
    with pytest.raises(GraphError):
        graph.op("linear", graph.tensor("x"), weight="up", features=8, out="x")
    assert len(graph.nodes) == 1
    assert graph.weights == {"embed": (7, 4)}
