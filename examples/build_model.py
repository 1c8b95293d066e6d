"""A model as an operator graph, built in Python: a small LLaMA, and the same from its definition.

The YAML definition of the zoo reads its sizes from a checkpoint's configuration and gives the same
program: a definition is a graph that is written down.
"""

from __future__ import annotations

from specinfer import Graph
from specinfer.models.compiler import compile_graph
from specinfer.models.definition import definition_for

VOCABULARY, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_SIZE, EPS = 320, 48, 96, 2, 6, 2, 8, 1e-5

graph = Graph("llama")
embedding = "model.embed_tokens.weight"
x = graph.op("embedding", graph.tokens, weight=embedding, vocabulary=VOCABULARY, features=HIDDEN)
angles = graph.op("rotary_angles", graph.positions, head_size=HEAD_SIZE, theta=10000.0)
for i in range(LAYERS):
    layer = f"model.layers.{i}"
    attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"

    h = graph.op("rms_norm", x, weight=f"{layer}.input_layernorm.weight", eps=EPS)
    kv_size = KV_HEADS * HEAD_SIZE
    q = graph.op("linear", h, weight=f"{attention}.q_proj.weight", features=HEADS * HEAD_SIZE)
    k = graph.op("linear", h, weight=f"{attention}.k_proj.weight", features=kv_size)
    v = graph.op("linear", h, weight=f"{attention}.v_proj.weight", features=kv_size)
    q = graph.op("rotary", q, angles, head_size=HEAD_SIZE)
    k = graph.op("rotary", k, angles, head_size=HEAD_SIZE)
    h = graph.op("attention", q, k, v, head_size=HEAD_SIZE, scale=HEAD_SIZE**-0.5)
    h = graph.op("linear", h, weight=f"{attention}.o_proj.weight", features=HIDDEN)
    x = graph.op("add", x, h)

    h = graph.op("rms_norm", x, weight=f"{layer}.post_attention_layernorm.weight", eps=EPS)
    gate = graph.op("linear", h, weight=f"{mlp}.gate_proj.weight", features=INNER)
    up = graph.op("linear", h, weight=f"{mlp}.up_proj.weight", features=INNER)
    h = graph.op("silu_mul", gate, up)
    h = graph.op("linear", h, weight=f"{mlp}.down_proj.weight", features=HIDDEN)
    x = graph.op("add", x, h)
x = graph.op("select_rows", x, graph.logit_rows)
x = graph.op("rms_norm", x, weight="model.norm.weight", eps=EPS)
logits = graph.op("linear", x, weight=embedding, features=VOCABULARY)

built = compile_graph(graph)
config = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": EPS,
    "tie_word_embeddings": True,
}
defined = compile_graph(definition_for(config).build(config))

print(f"{logits} out of {len(graph.nodes)} operators; the first layer's tasks:")
print("\n".join(f"  {step}" for step in built.steps[2:18]))
print(f"{len(built.steps)} tasks make {len(built.values)} values")
same = [step.task for step in built.steps] == [step.task for step in defined.steps]
print("the same tasks and weights as the definition's:", same and built.weights == defined.weights)
