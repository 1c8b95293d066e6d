from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_config

from specinfer.models.definition import Definition, definition_for, formula, load_definition, zoo
from specinfer.models.errors import GraphError

MINE = """
# A user's own: an embedding, blocks that share one weight, and the logits.
model_type: [mine]
require:
  act: [relu, null]
  nested.kind: [plain]
parameters:
  hidden: width
  inner: {key: [inner, ffn.width], default: =4 * hidden}
  layers: {key: layers, default: 2}
  prefix: {key: prefix, default: "w{hidden}"}
graph:
  - {op: embedding, in: tokens, out: x, weight: "{prefix}.embed", vocabulary: 9, features: =hidden}
  - repeat: =layers
    as: i
    body:
      - {op: linear, in: x, out: h, weight: "{prefix}.{i}.up", features: =inner}
      - {op: relu, in: h, out: h}
      - {op: linear, in: h, out: h, weight: "{prefix}.down", features: =hidden}
      - {op: add, in: [x, h], out: x}
  - {op: select_rows, in: [x, logit_rows], out: x}
"""


def write(folder: Path, text: str) -> Definition:
    path = folder / "mine.yaml"
    path.write_text(text)
    return load_definition(path)


@pytest.fixture
def mine(tmp_path: Path) -> Definition:
    return write(tmp_path, MINE)


# A user's own definition


def test_builds_a_graph(mine: Definition) -> None:
    graph = mine.build({"width": 3})
    assert [str(node) for node in graph.nodes] == [
        "x: (rows, 3) = embedding(tokens, weight=w3.embed, vocabulary=9, features=3)",
        "h: (rows, 12) = linear(x, weight=w3.0.up, features=12)",
        "h#1: (rows, 12) = relu(h)",
        "h#2: (rows, 3) = linear(h#1, weight=w3.down, features=3)",
        "x#1: (rows, 3) = add(x, h#2)",
        "h#3: (rows, 12) = linear(x#1, weight=w3.1.up, features=12)",
        "h#4: (rows, 12) = relu(h#3)",
        "h#5: (rows, 3) = linear(h#4, weight=w3.down, features=3)",
        "x#2: (rows, 3) = add(x#1, h#5)",
        "x#3: (logit_rows, 3) = select_rows(x#2, logit_rows)",
    ]
    assert mine.model_types == ("mine",)


@pytest.mark.parametrize(
    ("config", "values"),
    [
        ({}, {"inner": 12, "layers": 2, "prefix": "w3"}),
        ({"inner": 5}, {"inner": 5}),
        ({"ffn": {"width": 6}}, {"inner": 6}),
        ({"inner": None, "ffn": {"width": 6}}, {"inner": 6}),
        ({"inner": 5, "ffn": {"width": 6}}, {"inner": 5}),
        ({"inner": None}, {"inner": 12}),
        ({"layers": 0}, {"layers": 0}),
        ({"prefix": "p"}, {"prefix": "p"}),
    ],
    ids=str,
)
def test_parameters_come_from_the_configuration_or_a_default(
    mine: Definition, config: dict[str, Any], values: dict[str, Any]
) -> None:
    found = mine.evaluate({"width": 3} | config)
    assert list(found) == ["hidden", "inner", "layers", "prefix"]
    assert found | values == found


def test_parameters_may_be_set_by_hand(mine: Definition) -> None:
    assert mine.evaluate({"width": 3}, hidden=5, layers=1) == {
        "hidden": 5,
        "inner": 20,
        "layers": 1,
        "prefix": "w5",
    }
    assert len(mine.build({"width": 3}, layers=0).nodes) == 2
    with pytest.raises(GraphError, match="mine: no parameter 'depth' to override"):
        mine.evaluate({"width": 3}, depth=1)


@pytest.mark.parametrize(
    "config", [{}, {"act": None}, {"act": "relu"}, {"nested": {"kind": "plain"}}, {"nested": 3}]
)
def test_takes_what_is_required_or_absent(mine: Definition, config: dict[str, Any]) -> None:
    mine.build({"width": 3} | config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"act": "silu"}, r"mine: the checkpoint has act = 'silu', expected 'relu' or None"),
        ({"nested": {"kind": "x"}}, r"the checkpoint has nested.kind = 'x', expected 'plain'"),
    ],
)
def test_refuses_what_the_graph_is_not_right_for(
    mine: Definition, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        mine.build({"width": 3} | config)


def test_refuses_a_configuration_without_a_needed_key(mine: Definition) -> None:
    message = r"mine: parameters.hidden: the checkpoint's configuration has no 'width'"
    with pytest.raises(GraphError, match=message):
        mine.build({})


BUILT: dict[str, tuple[str, str]] = {
    "unknown operator": (
        "{op: conv, in: tokens, out: x}",
        r"mine: graph\[0\]: x = conv: unknown operator; known: add",
    ),
    "in a block": (
        "{repeat: 2, as: i, body: [{op: relu, in: y, out: x}]}",
        r"mine: graph\[0\].body\[0\]: no tensor 'y' has been made yet",
    ),
    "no inputs": ("{op: relu, out: x}", r"graph\[0\]: 'in' is missing; found \['op', 'out'\]"),
    "parameter missing": (
        "{op: embedding, in: tokens, out: x, weight: w, vocabulary: =size, features: 3}",
        r"mine: graph\[0\].vocabulary: cannot evaluate 'size' of 'size'",
    ),
    "name missing": (
        '{op: embedding, in: tokens, out: x, weight: "{size}.w", vocabulary: 9, features: 3}',
        r"mine: graph\[0\].weight: '\{size\}.w' names something that is not a parameter",
    ),
    "name of no number": (
        '{op: embedding, in: tokens, out: x, weight: "{hidden.x}", vocabulary: 9, features: 3}',
        r"mine: graph\[0\].weight: '\{hidden.x\}' names something that is not a parameter",
    ),
    "weight missing": (
        "{op: embedding, in: tokens, out: x, vocabulary: 9, features: 3}",
        r"mine: graph\[0\]: x = embedding: weight 'weight' is missing",
    ),
    "weight of no size": (
        "{op: embedding, in: tokens, out: x, weight: w, vocabulary: nine, features: 3}",
        r"mine: graph\[0\]: x = embedding: weight w is \('nine', 3\), expected numbers",
    ),
    "division by nothing": (
        "{op: rotary_angles, in: positions, out: x, head_size: =hidden // 0}",
        r"mine: graph\[0\].head_size: 'hidden // 0': integer division or modulo by zero",
    ),
    "shapes": (
        "{op: relu, in: [tokens, tokens], out: x}",
        r"mine: graph\[0\]: x = relu: given 2 inputs, expected x",
    ),
    "repeat without body": (
        "{repeat: 2, as: i}",
        r"mine: graph\[0\]: found \['as', 'repeat'\], expected repeat, as and body",
    ),
    "repeat with more": (
        "{repeat: 2, as: i, body: [], in: tokens}",
        r"graph\[0\]: found \['as', 'body', 'in', 'repeat'\], expected repeat, as and body",
    ),
    "repeat of no number": (
        "{repeat: often, as: i, body: []}",
        r"mine: graph\[0\].repeat: found 'often', expected a number",
    ),
    "body of no list": (
        "{repeat: 2, as: i, body: relu}",
        r"mine: graph\[0\].body: found 'relu', expected a list",
    ),
    "line of no operator": ("relu", r"mine: graph\[0\]: found 'relu', expected keys and values"),
    "names that are none": (
        "{op: relu, in: [[tokens]], out: x}",
        r"mine: graph\[0\].in: found \['tokens'\], expected a name",
    ),
}


@pytest.mark.parametrize(("line", "message"), BUILT.values(), ids=BUILT)
def test_refuses_a_graph_and_says_where(tmp_path: Path, line: str, message: str) -> None:
    definition = write(tmp_path, f"parameters: {{hidden: width}}\ngraph:\n  - {line}\n")
    with pytest.raises(GraphError, match=message):
        definition.build({"width": 3})


LOADED: dict[str, tuple[str, str]] = {
    "no mapping": ("[1, 2]", r"mine.yaml: found list, expected the sections \['graph'"),
    "nothing": ("", r"mine.yaml: found NoneType, expected the sections"),
    "no graph": ("parameters: {}", r"mine.yaml: found \['parameters'\], expected the sections"),
    "unknown section": (
        "{parameters: {}, graph: [], colour: red}",
        r"mine.yaml: found \['colour', 'graph', 'parameters'\], expected the sections",
    ),
    "no YAML": ("{parameters: [", r"mine.yaml: while parsing a flow "),
    "graph of no list": ("{parameters: {}, graph: 3}", r"yaml: graph: found 3, expected a list"),
    "parameters of no mapping": (
        "{parameters: [a], graph: []}",
        r"mine.yaml: parameters: found \['a'\], expected keys and values",
    ),
    "one required value": (
        "{require: {act: relu}, parameters: {}, graph: []}",
        r"mine.yaml: require.act: found 'relu', expected a list",
    ),
    "one model type": (
        "{model_type: mine, parameters: {}, graph: []}",
        r"mine.yaml: model_type: found 'mine', expected a list",
    ),
}


@pytest.mark.parametrize(("text", "message"), LOADED.values(), ids=LOADED)
def test_refuses_a_file_that_is_no_definition(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        write(tmp_path, text)


@pytest.mark.parametrize("source", ["3", "{default: 3}"])
def test_refuses_a_parameter_without_key(tmp_path: Path, source: str) -> None:
    definition = write(tmp_path, f"parameters: {{hidden: {source}}}\ngraph: []\n")
    with pytest.raises(GraphError, match=r"mine: parameters.hidden: found .*, expected a key"):
        definition.build({})


def test_refuses_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"nowhere.yaml: .*No such file"):
        load_definition(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(GraphError, match=r"binary.yaml: 'utf-8' codec"):
        load_definition(tmp_path / "binary.yaml")


# Formulas


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("heads * size", 576),
        ("heads * (size + 1) - 5", 580),
        ("-heads", -9),
        ("size // 10", 6),
        ("size / 10", 6.4),
        ("size ** -0.5", 0.125),
        ("('a' if tied else 'b') + '.weight'", "b.weight"),
        ("1 if heads else 1 // 0", 1),
        ("  heads ", 9),
    ],
)
def test_formula(text: str, value: object) -> None:
    assert formula(text, {"heads": 9, "size": 64, "tied": False}, "here") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("head", r"here: cannot evaluate 'head' of 'head'"),
        ("heads.real", r"here: cannot evaluate 'heads.real'"),
        ("heads[0]", r"here: cannot evaluate 'heads\[0\]'"),
        ("len('x')", r"here: cannot evaluate"),
        ("heads % 2", r"here: cannot evaluate 'heads % 2'"),
        ("1 + (lambda: 2)", r"here: cannot evaluate '\(?lambda: 2\)?' of"),
        ("1 +", r"here: '1 \+' is not a formula"),
        ("", r"here: '' is not a formula"),
        ("heads ** 9 ** 9", r"here: power 387420489 of 'heads \*\* 9 \*\* 9', expected at most 16"),
        ("'a' + heads", r"here: \"'a' \+ heads\": can only concatenate str"),
        ("heads / 0", r"here: 'heads / 0': division by zero"),
    ],
)
def test_formula_refuses(text: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        formula(text, {"heads": 9}, "here")


# The zoo


def test_the_zoo_knows_its_model_types() -> None:
    assert {"llama", "qwen2"} <= set(zoo())
    assert definition_for({"model_type": "llama"}).name == "llama"


@pytest.mark.parametrize("kind", ["mamba", None])
def test_refuses_a_model_type_without_definition(kind: str | None) -> None:
    message = rf"model_type {kind!r}: no definition; known: .*llama.*qwen2"
    with pytest.raises(GraphError, match=message):
        definition_for({"model_type": kind})


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("llama", {"attention_bias": True}, r"attention_bias = True, expected False"),
        ("llama", {"mlp_bias": True}, r"mlp_bias = True, expected False"),
        ("llama", {"hidden_act": "gelu"}, r"hidden_act = 'gelu', expected 'silu'"),
        ("llama", {"rope_scaling": {"type": "linear"}}, r"rope_scaling = .*, expected None"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}},
            r"rope_parameters.rope_type = 'llama3', expected 'default'",
        ),
        ("qwen2", {"use_sliding_window": True}, r"use_sliding_window = True, expected False"),
        ("qwen2", {"rope_scaling": {"type": "yarn"}}, r"rope_scaling = .*, expected None"),
    ],
)
def test_refuses_checkpoints_that_the_zoo_would_compute_wrongly(
    kind: str, config: dict[str, Any], message: str
) -> None:
    definition_for(tiny_config(kind)).build(tiny_config(kind))
    with pytest.raises(GraphError, match=rf"{kind}: the checkpoint has {message}"):
        definition_for(tiny_config(kind)).build(tiny_config(kind) | config)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_what_a_checkpoint_leaves_out_has_the_usual_value(kind: str) -> None:
    config = tiny_config(kind, head_dim=None)
    for key in ("num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings"):
        del config[key]
    values = definition_for(config).evaluate(config)
    assert values == {
        "vocabulary": 40,
        "hidden": 24,
        "inner": 40,
        "layers": 2,
        "heads": 6,
        "kv_heads": 6,
        "head_size": 4,
        "eps": 1e-6,
        "theta": 10000.0,
        "tied": False,
    }


def test_tied_embeddings_are_one_weight() -> None:
    config = tiny_config(tie_word_embeddings=True)
    graph = definition_for(config).build(config)
    assert "lm_head.weight" not in graph.weights
    assert graph.nodes[-1].weights == {"weight": "model.embed_tokens.weight"}
