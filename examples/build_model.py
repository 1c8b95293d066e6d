"""A model as an operator graph, built in Python: a small LLaMA, and the same from its definition.

The YAML definition of the zoo reads its sizes from a checkpoint's configuration and gives the same
program: a definition is a graph that is written down.

python examples/build_model.py
"""

from __future__ import annotations

from textwrap import fill

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

print(f"{logits} out of {len(graph.nodes)} operators; the first layer begins with the tasks")
for step in built.steps[2:10]:
    print(fill(f"  {step}", 90, subsequent_indent="      "))
print(f"{len(built.steps)} tasks make {len(built.values)} values")
same = [step.task for step in built.steps] == [step.task for step in defined.steps]
print("the same tasks and weights as the definition's:", same and built.weights == defined.weights)

# Prints:
# linear_34: (logit_rows, 320) out of 35 operators; the first layer begins with the tasks
#   rms_norm(x=value.embedding_0, weight=model.layers.0.input_layernorm.weight,
#       out=value.rms_norm_2, eps=1e-05)
#   linear(x=value.rms_norm_2, weight=model.layers.0.self_attn.q_proj.weight,
#       out=value.linear_3)
#   linear(x=value.rms_norm_2, weight=model.layers.0.self_attn.k_proj.weight,
#       out=value.linear_4)
#   linear(x=value.rms_norm_2, weight=model.layers.0.self_attn.v_proj.weight,
#       out=value.linear_5)
#   rotary(x=value.linear_3, angles=value.rotary_angles_1, out=value.rotary_6, head_size=8)
#   rotary(x=value.linear_4, angles=value.rotary_angles_1, out=value.rotary_7, head_size=8)
#   write_kv(k=value.rotary_7, v=value.linear_5, slots=slots, kv=kv.0)
#   tree_attention(q=value.rotary_6, kv=kv.0, keys=plan.keys, seen=plan.seen,
#       extents=plan.extents, work=plan.work, scratch=plan.scratch, out=value.attention_8,
#       scale=0.3535533905932738)
# 37 tasks make 35 values
# the same tasks and weights as the definition's: True
