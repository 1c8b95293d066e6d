"""Tensor parallelism: which launches of a model are divided over ranks, as rules for a mapper.

No operator and no model knows of ranks. It is enough to say where a division begins: the
projections to queries, keys and values by whole K/V heads, the projections to a gated or activated
layer by features, and the vocabulary. Everything behind them follows its data: rotation, attention,
activations; the projection back sums over the ranks (Megatron-LM: Shoeybi et al., 2019, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from specinfer.models.graph import Graph, Node
from specinfer.ops.attention import ATTENTION
from specinfer.ops.elementwise import GELU, RELU, SILU_MUL
from specinfer.ops.linear import LINEAR

ACTIVATIONS = (SILU_MUL, GELU, RELU)
AXIS = "tensor"
"""The mesh axis that models are divided over."""


def tensor_rules(graph: Graph, prefix: str) -> list[dict[str, Any]]:
    """Rules of a mapper's YAML for one model.

    Args:
        graph: of the model.
        prefix: in front of the names of its weights' regions.

    >>> graph = Graph("tiny")
    >>> x = graph.op("embedding", graph.tokens, weight="embed", vocabulary=7, features=4)
    >>> x = graph.op("gelu", graph.op("linear", x, weight="up", features=8))
    >>> x = graph.op("linear", x, weight="down", features=4)
    >>> x = graph.op("linear", x, weight="embed", features=7)
    >>> [rule["region"] for rule in tensor_rules(graph, "llm.")]
    ['llm.up', 'llm.embed']
    """
    makers = {node.out.name: node for node in graph.nodes}
    rules: dict[str, dict[str, Any]] = {}
    for node in graph.nodes:
        if node.operator is ATTENTION:
            heads = int(node.inputs[1].shape[1]) // node.attributes["head_size"]
            for weight in _projections(node, makers):
                rules[weight] = {"units": heads}
        elif node.operator in ACTIVATIONS:
            for weight in _projections(node, makers):
                rules.setdefault(weight, {})
    last = makers[graph.output.name]
    if last.operator is LINEAR:
        rules.setdefault(last.weights["weight"], {})
    return [
        {"task": "linear*", "region": f"{prefix}{weight}", "divide": "features", "over": AXIS}
        | rule
        for weight, rule in rules.items()
    ]


def _projections(node: Node, makers: dict[str, Node]) -> Iterator[str]:
    """The weights of the products that a node's inputs come from."""
    for tensor in node.inputs:
        maker = makers.get(tensor.name)
        if maker is None:
            continue
        if maker.operator is LINEAR:
            yield maker.weights["weight"]
        else:
            yield from _projections(maker, makers)
