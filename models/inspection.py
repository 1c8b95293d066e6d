"""What a model computes, found without reading its weights.

Operators come from its graph. Launches and dependences come from a decode step that is really
issued, to an executor that only records.
"""

from __future__ import annotations

from collections.abc import Hashable

import networkx as nx
import numpy as np
import torch

from specinfer.models.batch import BatchLimits, TokenBatch
from specinfer.models.compiler import Program
from specinfer.models.graph import Graph, Node
from specinfer.models.model import Model, weight_regions
from specinfer.ops.attention import PAGE_SLOTS
from specinfer.runtime.context import Runtime
from specinfer.runtime.executor.record import RecordingExecutor


def operator_graph(graph: Graph) -> nx.DiGraph:
    """Inputs and operators, named by the tensors they make, with an edge for each use.

    Nodes have a ``label``; those of operators are the line that ``str(node)`` is.
    """
    drawn = nx.DiGraph()
    for tensor in graph.inputs:
        drawn.add_node(tensor.name, label=str(tensor))
    for node in graph.nodes:
        drawn.add_node(node.out.name, label=str(node))
        drawn.add_edges_from((tensor.name, node.out.name) for tensor in node.inputs)
    return drawn


def node_kind(node: Node) -> Hashable:
    """What the same operator of two layers shares: all but the names."""
    return (
        node.operator.name,
        tuple(tensor.shape for tensor in (*node.inputs, node.out)),
        tuple(node.weights),
        tuple(sorted(node.attributes.items())),
    )


def record_step(program: Program, dtype: torch.dtype = torch.float32) -> nx.DiGraph:
    """Issue a decode step of one row and keep its launches.

    Returns:
        The graph of :class:`specinfer.runtime.executor.record.RecordingExecutor`.
    """
    executor = RecordingExecutor()
    runtime = Runtime(executor)
    weights = {
        name: torch.empty(shape, dtype=dtype, device="meta")
        for name, shape in program.weights.items()
    }
    limits = BatchLimits(rows=1, requests=1, context=PAGE_SLOTS, nodes=1, logit_rows=1)
    regions = weight_regions(runtime, weights)
    Model(runtime, program, regions, limits, 2 * PAGE_SLOTS, dtype).forward(one_row())
    return executor.graph


def one_row() -> TokenBatch:
    """The first token of a request."""
    return TokenBatch(
        tokens=np.zeros(1, np.int64),
        positions=np.zeros(1, np.int64),
        request=np.zeros(1, np.int64),
        slots=np.full(1, PAGE_SLOTS),
        prefix_len=np.zeros(1, np.int64),
        pages=np.ones((1, 1), np.int64),
        tree_slots=np.full((1, 1), PAGE_SLOTS),
        num_nodes=np.ones(1, np.int64),
        chain_len=np.ones(1, np.int64),
        ancestors=np.zeros((1, 1), np.int64),
        logit_rows=np.zeros(1, np.int64),
    )
