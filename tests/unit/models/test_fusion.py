"""A fused program computes what the program does, in fewer launches."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from tiny_models import kv_memory, random_parents, tiny_config, tiny_model
from torch import Tensor

from specinfer.models.batch import BatchLimits
from specinfer.models.compiler import Operand, Program, compile_graph
from specinfer.models.definition import zoo
from specinfer.models.fusion import fuse, stack_weights
from specinfer.models.graph import Graph, SymbolicTensor
from specinfer.models.model import Model, temporaries, weight_regions
from specinfer.runtime.context import Runtime
from specinfer.runtime.executor import Executor
from specinfer.runtime.executor.serial import SerialExecutor
from specinfer.runtime.executor.shuffled import ShuffledExecutor
from specinfer.runtime.temporaries import plan_temporaries
from specinfer.scheduler.decoder import Decoder, Work
from specinfer.scheduler.kv_pages import KVPages

VOCABULARY = 40
NODES = 6
LENGTH = 30
MODEL_TYPES = sorted(zoo())


def decoder(program: Program, weights: Mapping[str, Tensor], executor: Executor) -> Decoder:
    """A decoder for two requests, in memory that holds NaN."""
    runtime = Runtime(executor)
    limits = BatchLimits(rows=24, requests=2, context=LENGTH, nodes=24, logit_rows=24)
    slots = KVPages(8, 2, NODES)
    regions = weight_regions(runtime, {n: w.clone() for n, w in weights.items()})
    made = Decoder(Model(runtime, program, regions, limits, slots.num_slots), slots)
    for pool in ("k", "v"):
        kv_memory(made, pool).fill_(torch.nan)
    return made


def some_works(seed: int) -> list[list[Work]]:
    """What three steps compute: texts, then trees behind a few more tokens."""
    generator = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [generator.randrange(VOCABULARY) for _ in range(count)]

    steps = [[Work(request=r, chain=tokens(generator.randint(1, 9))) for r in range(2)]]
    for _ in range(2):
        steps.append([])
        for request in range(2):
            nodes = generator.randint(0, NODES)
            parents = random_parents(generator, nodes)
            work = Work(request=request, chain=tokens(1), tokens=tokens(nodes), parents=parents)
            steps[-1].append(work)
    return steps


def results(decoder: Decoder, seed: int) -> list[Tensor]:
    """Logits of some steps, and all K/V behind them."""
    for request in range(2):
        decoder.slots.admit(request, [0] * LENGTH)
    found = []
    for works in some_works(seed):
        logits = decoder.model.runtime.read(decoder.step(works))
        assert isinstance(logits, Tensor)
        found.append(logits.clone())
    return [*found, kv_memory(decoder, "k"), kv_memory(decoder, "v")]


def assert_same(
    program: Program, weights: Mapping[str, Tensor], seed: int = 0, near: float = 1e-5
) -> Program:
    """Fuse a program, and compare what it computes."""
    fused = fuse(program)
    compare(fused, program, weights, seed, near)
    return fused


def compare(
    fused: Program, program: Program, weights: Mapping[str, Tensor], seed: int, near: float
) -> None:
    """Both compute the same, the fused one in order and in another order."""
    right = results(decoder(program, weights, SerialExecutor()), seed)
    for executor in (SerialExecutor(), ShuffledExecutor(seed)):
        found = results(decoder(fused, stack_weights(fused, weights), executor), seed)
        for one, other in zip(found, right, strict=True):
            torch.testing.assert_close(one, other, rtol=near, atol=near, equal_nan=True)
    assert fused.values[fused.output.name].last == len(fused.steps)


def tasks(program: Program) -> list[str]:
    return [step.task.name for step in program.steps]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_fused_model_computes_the_same(model_type: str, tied: bool, seed: int) -> None:
    heads, kv_heads = [(6, 2), (4, 4), (3, 1)][seed]
    config = tiny_config(
        model_type, heads=heads, kv_heads=kv_heads, head_dim=6, tie_word_embeddings=tied
    )
    model = tiny_model(seed, config)
    assert_same(model.program(), model.weights, seed)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_layer_takes_half_as_many_launches(model_type: str) -> None:
    before, after = (
        [
            len(make(tiny_model(0, tiny_config(model_type, layers=n)).program()).steps)
            for n in (2, 3)
        ]
        for make in (lambda program: program, fuse)
    )
    assert before[1] - before[0] == 16
    assert after[1] - after[0] == 8


def test_the_launches_of_a_llama_layer() -> None:
    first, second, third = (
        tasks(fuse(tiny_model(0, tiny_config(layers=n)).program())) for n in (1, 2, 3)
    )
    layer = (
        "linear rotary_write tree_attention linear add_rms_norm gated_linear linear add_rms_norm"
    )
    assert Counter(second) - Counter(first) == Counter(third) - Counter(second)
    assert Counter(second) - Counter(first) == Counter(layer.split())


# Who reads what whom makes, not names


def heads(graph: Graph, x: SymbolicTensor, *, twice: bool = False) -> SymbolicTensor:
    """Attention of two heads, all from one input; ``twice``: the keys are the values as well."""
    angles = graph.op("rotary_angles", graph.positions, head_size=4)
    q, k, v = (graph.op("linear", x, weight=f"w{i}", features=8) for i in range(3))
    q, k = (graph.op("rotary", y, angles, head_size=4) for y in (q, k))
    return graph.op("attention", q, k, k if twice else v, head_size=4, scale=0.5)


def program_of(
    body: Callable[[Graph, SymbolicTensor], SymbolicTensor], **how: bool
) -> tuple[Program, dict[str, Tensor]]:
    """A model of one attention layer, and ``body`` behind it, with random weights."""
    graph = Graph("test")
    x = graph.op("embedding", graph.tokens, weight="embed", vocabulary=VOCABULARY, features=8)
    x = body(graph, heads(graph, x, **how))
    x = graph.op("select_rows", x, graph.logit_rows)
    graph.op("linear", x, weight="out", features=VOCABULARY)
    program = compile_graph(graph)
    generator = torch.Generator().manual_seed(0)
    shapes = program.weights.items()
    return program, {name: torch.randn(shape, generator=generator) / 3 for name, shape in shapes}


def gated(graph: Graph, x: SymbolicTensor) -> tuple[SymbolicTensor, SymbolicTensor]:
    """``up`` is made before the gate."""
    up = graph.op("linear", x, weight="up", features=12)
    return graph.op("linear", x, weight="gate", features=12), up


def test_a_gate_comes_first_in_its_stack_wherever_it_is_made() -> None:
    def body(graph: Graph, x: SymbolicTensor) -> SymbolicTensor:
        return graph.op("silu_mul", *gated(graph, x))

    fused = assert_same(*program_of(body))
    assert tasks(fused).count("gated_linear") == 1
    assert ("gate", "up") in fused.stacks.values()
    assert "silu_mul" not in tasks(fused)


@pytest.mark.parametrize("again", [0, 1])
def test_a_gate_that_is_read_again_is_columns_of_a_product(again: int) -> None:
    def body(graph: Graph, x: SymbolicTensor) -> SymbolicTensor:
        pair = gated(graph, x)
        return graph.op("add", graph.op("silu_mul", *pair), pair[again])

    fused = assert_same(*program_of(body))
    (step,) = (step for step in fused.steps if step.task.name == "silu_mul")
    assert [operand.columns for _, operand in step.arguments] == [(12, 24), (0, 12), None]


def test_a_gate_with_biases_is_columns_of_a_product() -> None:
    def body(graph: Graph, x: SymbolicTensor) -> SymbolicTensor:
        gate, up = (
            graph.op("linear", x, weight=name, bias=f"{name}.b", features=12) for name in "ab"
        )
        return graph.op("silu_mul", gate, up)

    fused = assert_same(*program_of(body))
    assert "gated_linear" not in tasks(fused)
    assert ("a.b", "b.b") in fused.stacks.values()


def test_a_gate_that_is_the_result_of_the_program_stays() -> None:
    program, _ = program_of(lambda graph, x: graph.op("silu_mul", *gated(graph, x)))
    (step,) = (step for step in program.steps if step.task.name == "silu_mul")
    assert "gated_linear" in tasks(fuse(program))
    for name in ("x", "y"):
        shown = replace(program, output=dict(step.arguments)[name])
        assert "gated_linear" not in tasks(fuse(shown))


def test_a_gate_of_another_input_stays() -> None:
    def body(graph: Graph, x: SymbolicTensor) -> SymbolicTensor:
        y = graph.op("relu", x)
        gate = graph.op("linear", x, weight="gate", features=12)
        return graph.op("silu_mul", gate, graph.op("linear", y, weight="up", features=12))

    fused = assert_same(*program_of(body))
    assert tasks(fused).count("linear") == 4  # q, k and v; gate; up; logits


def test_a_sum_that_two_norms_read_is_added_once() -> None:
    def body(graph: Graph, x: SymbolicTensor) -> SymbolicTensor:
        total = graph.op("add", x, graph.op("relu", x))
        one, other = (graph.op("rms_norm", total, weight=name, eps=1e-5) for name in "ab")
        return graph.op("add", one, other)

    fused = assert_same(*program_of(body))
    counts = Counter(tasks(fused))
    assert (counts["add"], counts["add_rms_norm"], counts["rms_norm"]) == (1, 1, 1)


def test_keys_that_are_read_again_are_turned_by_themselves() -> None:
    fused = assert_same(*program_of(lambda graph, x: x, twice=True))
    assert tasks(fused).count("rotary") == 2
    assert "rotary_write" not in tasks(fused)


def test_queries_that_are_read_before_the_write_are_turned_by_themselves() -> None:
    def body(graph: Graph, x: SymbolicTensor) -> SymbolicTensor:
        angles = graph.op("rotary_angles", graph.positions, head_size=4)
        q = graph.op("rotary", x, angles, head_size=4)
        k = graph.op("rotary", graph.op("relu", q), angles, head_size=4)
        return graph.op("attention", q, k, x, head_size=4, scale=0.5)

    assert tasks(assert_same(*program_of(body))).count("rotary_write") == 1


def test_a_write_goes_with_the_queries_of_its_own_layer() -> None:
    def body(graph: Graph, x: SymbolicTensor) -> SymbolicTensor:
        angles = graph.op("rotary_angles", graph.positions, head_size=4)
        made = [graph.op("linear", x, weight=f"v{i}", features=8) for i in range(4)]
        q, k, other_q, other_k = (graph.op("rotary", y, angles, head_size=4) for y in made)
        one = graph.op("attention", q, k, x, head_size=4, scale=0.5)
        other = graph.op("attention", other_q, other_k, x, head_size=4, scale=0.5)
        return graph.op("add", one, other)

    program, weights = program_of(body)
    steps = list(program.steps)
    *_, first, second = (i for i, task in enumerate(tasks(program)) if task == "tree_attention")
    steps[first], steps[second - 1] = steps[second - 1], steps[first]  # both write, then both ask
    fused = fuse(replace(program, steps=tuple(steps)))
    assert tasks(fused).count("rotary_write") == 3
    assert "rotary" not in tasks(fused)
    compare(fused, program, weights, seed=0, near=1e-5)


def test_what_is_turned_by_other_angles_stays() -> None:
    def body(graph: Graph, x: SymbolicTensor) -> SymbolicTensor:
        q, k = (
            graph.op(
                "rotary",
                x,
                graph.op("rotary_angles", graph.positions, head_size=4, theta=theta),
                head_size=4,
            )
            for theta in (100.0, 1000.0)
        )
        return graph.op("attention", q, k, x, head_size=4, scale=0.5)

    assert tasks(assert_same(*program_of(body))).count("rotary_write") == 1


def test_logits_are_no_columns_of_another_result() -> None:
    graph = Graph("test")
    x = graph.op("embedding", graph.tokens, weight="embed", vocabulary=VOCABULARY, features=8)
    x = graph.op("select_rows", heads(graph, x), graph.logit_rows)
    graph.op("linear", x, weight="other", features=VOCABULARY)
    graph.op("linear", x, weight="embed", features=VOCABULARY)
    fused = fuse(compile_graph(graph))
    assert dict(fused.steps[-1].arguments)["out"] == fused.output
    assert tasks(fused).count("linear") == 3


def test_a_weight_that_is_in_two_stacks_and_used_by_itself() -> None:
    def body(graph: Graph, x: SymbolicTensor) -> SymbolicTensor:
        first = [graph.op("linear", x, weight=name, features=8) for name in ("s", "t")]
        second = [graph.op("linear", first[0], weight=name, features=8) for name in ("t", "s")]
        last = graph.op("linear", first[1], weight="s", features=8)
        return graph.op("add", graph.op("add", *second), last)

    program, weights = program_of(body)
    fused = assert_same(program, weights)
    assert {("s", "t"), ("t", "s")} <= set(fused.stacks.values())
    stacked = stack_weights(fused, weights)
    assert {name: tuple(weight.shape) for name, weight in stacked.items()} == fused.weights
    assert "s" in stacked
    assert "t" not in stacked


def test_fusing_once_is_enough() -> None:
    fused = fuse(tiny_model(0).program())
    assert fuse(fused) == fused


def random_body(seed: int) -> Callable[[Graph, SymbolicTensor], SymbolicTensor]:
    """Operators of all kinds on whatever was made before, often the same."""
    generator = random.Random(seed)

    def body(graph: Graph, x: SymbolicTensor) -> SymbolicTensor:
        made = [x]
        angles = [
            graph.op("rotary_angles", graph.positions, head_size=4, theta=theta)
            for theta in (100.0, 500.0)
        ]
        for _ in range(generator.randint(3, 25)):
            one, other, third = (generator.choice(made[-4:]) for _ in range(3))
            weight = generator.choice("abcdef")
            match generator.choice(
                ["linear", "linear", "linear", "bias", "add", "rms_norm", "silu_mul", "attention"]
            ):
                case "linear":
                    result = graph.op("linear", one, weight=weight, features=8)
                case "bias":
                    result = graph.op("linear", one, weight=weight, bias=f"{weight}.b", features=8)
                case "rms_norm":
                    result = graph.op("rms_norm", one, weight=f"{weight}.n", eps=1e-5)
                case "attention":
                    q, k = (
                        graph.op("rotary", y, generator.choice(angles[:2]), head_size=4)
                        for y in (one, other)
                    )
                    result = graph.op("attention", q, k, third, head_size=4, scale=0.5)
                case name:
                    result = graph.op(name, one, other)
            made.append(graph.op("rms_norm", result, weight="unit", eps=1e-5))
            made.insert(-1, result)
        return made[-1]

    return body


@pytest.mark.parametrize("seed", range(60))
def test_any_fused_graph_computes_the_same(seed: int) -> None:
    program, weights = program_of(random_body(seed))
    fused = assert_same(program, weights, seed, near=1e-3)  # rounded dozens of times
    assert len(fused.steps) < len(program.steps)
    limits = BatchLimits(rows=4, requests=1, logit_rows=2)
    plan_temporaries(temporaries(fused, limits, torch.float32))  # all values have a maker
    makers = Counter(
        given.name
        for step in fused.steps
        for name, given in step.arguments
        if isinstance(given, Operand)
        and given.kind == "value"
        and not step.task.privileges[name].reads
    )
    assert set(makers.values()) == {1}
    assert set(makers) == set(fused.values)
