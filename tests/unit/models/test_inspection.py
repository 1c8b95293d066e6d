from __future__ import annotations

import networkx as nx
import pytest
from tiny_models import tiny_config

from specinfer.models.compiler import Program, compile_graph
from specinfer.models.definition import definition_for
from specinfer.models.graph import Graph
from specinfer.models.inspection import node_kind, operator_graph, record_step
from specinfer.runtime.inspection import find_repeated, fold, launch_kind, launch_record

LAYERS = 4


@pytest.fixture(scope="module")
def graph() -> Graph:
    config = tiny_config(layers=LAYERS)
    return definition_for(config).build(config)


@pytest.fixture(scope="module")
def program(graph: Graph) -> Program:
    return compile_graph(graph)


@pytest.fixture(scope="module")
def tasks(program: Program) -> nx.DiGraph:
    return record_step(program)


def test_operator_graph_has_an_edge_for_each_use(graph: Graph) -> None:
    drawn = operator_graph(graph)
    assert nx.is_directed_acyclic_graph(drawn)
    assert len(drawn) == len(graph.nodes) + len(graph.inputs)
    for node in graph.nodes:
        assert set(drawn.predecessors(node.out.name)) == {tensor.name for tensor in node.inputs}
        assert drawn.nodes[node.out.name]["label"] == str(node)
    assert nx.descendants(drawn, "tokens") >= {graph.output.name}


def test_a_recorded_step_is_the_program(program: Program, tasks: nx.DiGraph) -> None:
    names = [tasks.nodes[id]["launch"].task.name for id in tasks]
    assert names[:2] == ["load_batch", "plan_attention"]
    assert names[2:] == [step.task.name for step in program.steps]
    assert nx.is_directed_acyclic_graph(tasks)


def test_what_a_launch_reads_was_written_before_it(tasks: nx.DiGraph) -> None:
    writer: dict[tuple[int, str], int] = {}
    for id in tasks:
        launch = tasks.nodes[id]["launch"]
        data = [r for r in launch.requirements if r.key[0] != "arena"]  # not the bytes below them
        for requirement in data:
            if requirement.privilege.reads and requirement.key in writer:
                assert writer[requirement.key] in nx.ancestors(tasks, id)
        for requirement in data:
            if requirement.privilege.writes:
                writer[requirement.key] = id


def test_layers_repeat(graph: Graph, tasks: nx.DiGraph) -> None:
    for kinds in (
        [node_kind(node) for node in graph.nodes],
        [launch_kind(tasks.nodes[id]["launch"]) for id in tasks],
    ):
        repeated = find_repeated(kinds)
        assert repeated is not None
        assert repeated.count == LAYERS


def test_a_layer_of_another_shape_is_not_alike() -> None:
    graph = Graph("tiny")
    x = graph.op("embedding", graph.tokens, weight="embed", vocabulary=7, features=4)
    for i, features in enumerate((8, 8, 4, 8)):
        x = graph.op("linear", x, weight=f"layers.{i}", features=features)
    assert find_repeated([node_kind(node) for node in graph.nodes]) is None


def test_folding_keeps_what_the_rest_waits_for() -> None:
    graph = nx.DiGraph([("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")])
    folded = fold(graph, ["b", "c"], "middle")
    assert set(folded.edges) == {("a", "middle"), ("middle", "d"), ("a", "d")}


def test_launch_records_are_plain_values(tasks: nx.DiGraph) -> None:
    record = launch_record(tasks, 2)
    assert record["task"] == "embedding"
    assert record["waits_for"] == [0]
    assert record["arguments"]["weight"] == "R model.embed_tokens.weight"
