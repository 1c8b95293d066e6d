"""A program computes what its graph says: every step reads the values that it should.

The check replays programs on a memory that holds names instead of numbers.
"""

from __future__ import annotations

import random

import pytest
import torch
from tiny_models import tiny_config

from specinfer.models.batch import BatchLimits
from specinfer.models.compiler import Operand, Program, Step, Value, compile_graph
from specinfer.models.definition import definition_for
from specinfer.models.errors import GraphError
from specinfer.models.graph import Graph, SymbolicTensor
from specinfer.models.model import temporaries
from specinfer.runtime.temporaries import plan_temporaries


class Spoiled(AssertionError):
    """A step that reads something else than its operator was given."""


def replay(graph: Graph, program: Program) -> None:
    """Follow a program step by step; a value holds the name of the result written to it."""
    memory: dict[str, str] = {}
    steps = iter(enumerate(program.steps))
    layer = 0
    for node in graph.nodes:
        tasks = node.operator.lower(frozenset(node.weights))
        given = dict(zip(node.operator.inputs, node.inputs, strict=True))
        for task in tasks:
            at, step = next(steps)
            assert step.task is task
            arguments = dict(step.arguments)
            assert tuple(arguments) == task.parameters
            out = arguments.get("out")
            for name, tensor in given.items():
                if name in arguments:
                    _check_input(graph, arguments[name], tensor, memory)
                    if arguments[name] == out:
                        raise Spoiled(f"{step} writes what it reads")
            for name, weight in node.weights.items():
                assert arguments.get(name) in (None, Operand("weight", weight))
            for name, value in node.attributes.items():
                assert arguments.get(name, value) == value
            assert arguments.get("kv") in (None, Operand("kv", str(layer)))
            if out is not None:
                made = program.values[out.name]
                assert (made.rows, made.width) == node.out.shape
                assert made.first <= at <= made.last
                memory[out.name] = node.out.name
        layer += node.operator.name == "attention"
    assert next(steps, None) is None
    assert program.num_layers == layer
    if memory[program.output.name] != graph.output.name:
        raise Spoiled("the logits are gone")


def _check_input(
    graph: Graph, operand: Operand, tensor: SymbolicTensor, memory: dict[str, str]
) -> None:
    if tensor in graph.inputs:
        assert operand == Operand("input", tensor.name)
    elif (found := memory.get(operand.name)) != tensor.name:
        raise Spoiled(f"{tensor.name} is wanted, and {operand} holds {found}")


def random_graph(generator: random.Random, names: str = "t") -> Graph:
    """Operators over results made before, recent ones more often; some are never used."""
    graph = Graph("random")
    made = [graph.op("embedding", graph.tokens, weight="e", vocabulary=9, features=16, out=names)]
    angles = graph.op("rotary_angles", graph.positions, head_size=8, out=f"{names}a")

    def pick(features: int | None = None) -> SymbolicTensor:
        while True:
            tensor = made[-1 - min(int(generator.expovariate(0.4)), len(made) - 1)]
            if features in (None, tensor.shape[1]):
                return tensor

    def add(operator: str, *inputs: SymbolicTensor, **given: object) -> None:
        made.append(graph.op(operator, *inputs, out=f"{names}{len(made)}", **given))

    add("linear", pick(16), weight="w0", features=8)
    for n in range(generator.randint(1, 40)):
        match generator.choice(["linear", "linear", "add", "silu_mul", "relu", "rotary", "mix"]):
            case "linear":
                bias = generator.choice([None, f"b{n}"])
                features = generator.choice([8, 16])
                add("linear", pick(), weight=f"w{n + 1}", bias=bias, features=features)
            case ("add" | "silu_mul") as operator:
                x = pick()
                add(operator, x, pick(int(x.shape[1])))
            case "relu":
                add("relu", pick())
            case "rotary":
                add("rotary", pick(), angles, head_size=8)
            case "mix":
                add("attention", pick(16), pick(8), pick(8), head_size=8, scale=0.5)
    add("attention", pick(16), pick(8), pick(8), head_size=8, scale=0.5)
    add("select_rows", pick(), graph.logit_rows)
    return graph


@pytest.mark.parametrize("seed", range(100))
def test_every_step_reads_what_its_operator_was_given(seed: int) -> None:
    graph = random_graph(random.Random(seed))
    replay(graph, compile_graph(graph))


@pytest.mark.parametrize("seed", range(50))
def test_a_value_lives_from_its_first_step_to_its_last(seed: int) -> None:
    graph = random_graph(random.Random(seed))
    program = compile_graph(graph)
    used: dict[object, list[int]] = {}
    for at, step in enumerate(program.steps):
        for _, operand in step.arguments:
            if isinstance(operand, Operand) and operand.kind == "value":
                used.setdefault(operand.name, []).append(at)
    assert max(used[program.output.name]) == len(program.steps) - 1  # read behind the last one
    used[program.output.name].append(len(program.steps))
    for name, value in program.values.items():
        assert value.first == min(used[name])
        assert max(used[name]) <= value.last


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_models_of_the_zoo_need_the_memory_of_one_layer(kind: str) -> None:
    sizes = []
    for layers in (1, 2, 9):
        config = tiny_config(kind, layers=layers)
        graph = definition_for(config).build(config)
        program = compile_graph(graph)
        replay(graph, program)
        assert program.num_layers == layers
        assert (program.kv_heads, program.head_size) == (2, 4)
        plan = plan_temporaries(temporaries(program, BatchLimits(), torch.float32))
        sizes.append(plan.num_bytes)
        assert plan.num_bytes == plan.lower_bound
    assert sizes[1] == sizes[2]


def numbered(program: Program) -> tuple[list[Step], list[Value], Operand]:
    """A program with numbers in place of the names of values."""
    number = {name: str(n) for n, name in enumerate(program.values)}

    def anonymous(given: object) -> object:
        if isinstance(given, Operand) and given.kind == "value":
            return Operand("value", number[given.name])
        return given

    steps = [
        Step(step.task, tuple((name, anonymous(given)) for name, given in step.arguments))
        for step in program.steps
    ]
    return steps, list(program.values.values()), Operand("value", number[program.output.name])


@pytest.mark.parametrize("seed", range(20))
def test_names_do_not_matter(seed: int) -> None:
    """The same program in every process: what Python's hashes of texts decide may not matter."""
    programs = [
        numbered(compile_graph(random_graph(random.Random(seed), names)))
        for names in ("t", "x", "some", "q")
    ]
    assert all(program == programs[0] for program in programs)


def test_a_graph_built_in_python_gives_the_program_of_the_yaml_definition() -> None:
    config = tiny_config(layers=1, tie_word_embeddings=True)
    graph = Graph("llama")
    x = graph.op(
        "embedding", graph.tokens, weight="model.embed_tokens.weight", vocabulary=40, features=24
    )
    turns = graph.op("rotary_angles", graph.positions, head_size=4)
    name = "model.layers.0"
    h = graph.op("rms_norm", x, weight=f"{name}.input_layernorm.weight", eps=1e-5)
    q, k, v = (
        graph.op("linear", h, weight=f"{name}.self_attn.{part}_proj.weight", features=features)
        for part, features in (("q", 24), ("k", 8), ("v", 8))
    )
    q, k = (graph.op("rotary", part, turns, head_size=4) for part in (q, k))
    h = graph.op("attention", q, k, v, head_size=4, scale=0.5)
    h = graph.op("linear", h, weight=f"{name}.self_attn.o_proj.weight", features=24)
    x = graph.op("add", x, h)
    h = graph.op("rms_norm", x, weight=f"{name}.post_attention_layernorm.weight", eps=1e-5)
    gate, up = (
        graph.op("linear", h, weight=f"{name}.mlp.{part}_proj.weight", features=40)
        for part in ("gate", "up")
    )
    h = graph.op("silu_mul", gate, up)
    h = graph.op("linear", h, weight=f"{name}.mlp.down_proj.weight", features=24)
    x = graph.op("add", x, h)
    x = graph.op("select_rows", x, graph.logit_rows)
    x = graph.op("rms_norm", x, weight="model.norm.weight", eps=1e-5)
    graph.op("linear", x, weight="model.embed_tokens.weight", features=40)
    defined = compile_graph(definition_for(config).build(config))
    assert numbered(compile_graph(graph)) == numbered(defined)


def test_a_program_is_told_step_by_step() -> None:
    told = str(compile_graph(random_graph(random.Random(0)))).splitlines()
    assert told[0] == "embedding(tokens=tokens, weight=e, out=value.t)"
    assert told[-1].startswith("select_rows(x=value.")
    assert any(line.startswith("write_kv(k=value.") and "kv=kv.0" in line for line in told)
    assert any("keys=plan.keys" in line for line in told if line.startswith("tree_attention("))


def test_refuses_a_graph_without_attention() -> None:
    graph = Graph("tiny")
    graph.op("embedding", graph.tokens, weight="e", vocabulary=9, features=4)
    with pytest.raises(GraphError, match=r"tiny: attention layers have .* \[\], expected one"):
        compile_graph(graph)


def test_refuses_attention_layers_that_differ() -> None:
    graph = Graph("tiny")
    x = graph.op("embedding", graph.tokens, weight="e", vocabulary=9, features=16)
    graph.op("attention", x, x, x, head_size=8, scale=1.0)
    graph.op("attention", x, x, x, head_size=4, scale=1.0)
    with pytest.raises(GraphError, match=r"\[\(2, 2, 8\), \(4, 4, 4\)\], expected one for"):
        compile_graph(graph)


def test_refuses_a_result_that_is_no_matrix() -> None:
    graph = Graph("tiny")
    x = graph.op("embedding", graph.tokens, weight="e", vocabulary=9, features=16)
    graph.op("attention", x, x, x, head_size=8, scale=1.0)
    graph.op("relu", graph.tokens, out="flat")
    with pytest.raises(GraphError, match=r"tiny: flat: \(rows\) cannot be stored, expected \(rows"):
        compile_graph(graph)


def test_refuses_an_empty_graph() -> None:
    with pytest.raises(GraphError, match="empty"):
        compile_graph(Graph("empty"))
