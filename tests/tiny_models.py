"""Tiny models made from a seed, engines around them, and what they compute, written out plainly.

The second half is an oracle: it shares no code with the layers it judges, works in float64, and
knows neither batches nor caches nor trees.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from specinfer.models.batch import BatchLimits
from specinfer.models.compiler import Program, compile_graph
from specinfer.models.definition import definition_for
from specinfer.models.draft_vocabulary import DraftVocabulary
from specinfer.models.model import Model, weight_regions
from specinfer.runtime.context import Runtime
from specinfer.runtime.executor import Executor
from specinfer.scheduler.adaptive import AdaptiveTrees
from specinfer.scheduler.decoder import Decoder
from specinfer.scheduler.engine import Engine
from specinfer.scheduler.kv_pages import KVPages, num_pages
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.proposals import ReducedVocabulary
from specinfer.scheduler.speculators.ssm import SSMSpeculator, most_nodes
from specinfer.scheduler.step_cost import StepCost

# Products this small are ten times faster on one thread where cores are shared.
torch.set_num_threads(1)


@dataclass(frozen=True, slots=True)
class TinyModel:
    """A checkpoint in memory: a configuration and weights under Hugging Face's names."""

    config: dict[str, Any]
    weights: dict[str, Tensor]

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of all that is computed."""
        return self.weights["model.norm.weight"].dtype

    def program(self, **overrides: Any) -> Program:
        """What the zoo's definition makes of it."""
        return compile_graph(definition_for(self.config).build(self.config, **overrides))


def tiny_config(
    model_type: str = "llama",
    *,
    vocabulary: int = 40,
    hidden: int = 24,
    inner: int = 40,
    layers: int = 2,
    heads: int = 6,
    kv_heads: int = 2,
    **others: Any,
) -> dict[str, Any]:
    """A configuration as a ``config.json`` has it."""
    return {
        "model_type": model_type,
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        **others,
    }


def tiny_model(
    seed: int, config: dict[str, Any] | None = None, *, dtype: torch.dtype = torch.float32
) -> TinyModel:
    """Random weights, large enough that the likeliest token changes with the text before it."""
    config = config or tiny_config()
    generator = torch.Generator().manual_seed(seed)
    shapes = compile_graph(definition_for(config).build(config)).weights

    def values(name: str, shape: tuple[int, ...]) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        return (1 + noise / 8 if "norm" in name else 0.4 * noise).to(dtype)

    return TinyModel(config, {name: values(name, shape) for name, shape in shapes.items()})


def noisy_copy(model: TinyModel, seed: int, noise: float = 0.03) -> TinyModel:
    """A model that agrees with another one now and then: a good SSM."""
    generator = torch.Generator().manual_seed(seed)
    return TinyModel(
        model.config,
        {
            name: weight + noise * torch.randn(weight.shape, generator=generator).to(weight.dtype)
            for name, weight in model.weights.items()
        },
    )


def reduced(model: TinyModel, ids: Sequence[int]) -> TinyModel:
    """A model that knows some of the tokens; its last row stands for all others."""
    rows = torch.tensor([*ids, 0])
    weights = {
        name: weight[rows] if name in ("model.embed_tokens.weight", "lm_head.weight") else weight
        for name, weight in model.weights.items()
    }
    return TinyModel({**model.config, "vocab_size": len(rows)}, weights)


# Engines


@dataclass(frozen=True, slots=True)
class Draft:
    """An SSM: a model or its first layers, and the shape of its trees.

    Attributes:
        nodes: most nodes of a tree; 0: all.
        known: the tokens that the model knows, of so many that the LLM has; None: the LLM's.
        draws: how children are drawn; None: as the verifier likes it.
    """

    model: TinyModel
    expansion: tuple[int, ...]
    layers: int | None = None
    nodes: int = 0
    known: tuple[tuple[int, ...], int] | None = None
    draws: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much an engine does at once, as ``BatchConfig`` says it.

    Attributes:
        pages: of each K/V pool; 0: nobody ever waits for one.
    """

    requests: int = 3
    rows: int = 64
    length: int = 128
    pages: int = 0


@dataclass(frozen=True, slots=True)
class Bench:
    """An engine, with the parts that a test looks into.

    Attributes:
        ssms: the decoders of its SSMs, each with the model that it runs.
    """

    engine: Engine
    llm: Decoder
    ssms: list[tuple[Decoder, Draft]] = field(default_factory=list)

    def write(self, requests: Sequence[Request]) -> list[list[int]]:
        """Serve requests to the end; return what each of them wrote."""
        for request in requests:
            self.engine.submit(request)
        for _ in self.engine.run():
            pass
        return [request.output for request in requests]


def make_decoder(
    model: TinyModel,
    sizes: Sizes,
    *,
    nodes: int = 0,
    runtime: Runtime | None = None,
    layers: int | None = None,
) -> Decoder:
    """A decoder for trees of at most ``nodes`` nodes, the root not counted.

    What no step has written is NaN: whoever reads it is found out.
    """
    runtime = runtime or Runtime()
    program = model.program(**({} if layers is None else {"layers": layers}))
    limits = BatchLimits(
        rows=max(sizes.rows, sizes.requests * (1 + nodes)),
        requests=sizes.requests,
        context=sizes.length,
        nodes=max(sizes.rows, 1 + nodes),
        logit_rows=sizes.requests * (1 + nodes),
    )
    pages = sizes.pages or sizes.requests * (num_pages(sizes.length) + 1)
    slots = KVPages(pages, sizes.requests, max(1, nodes))
    # A copy: a model may be the LLM and an SSM of one runtime, and regions share no memory.
    device = runtime.memories["cpu"].device  # a test may have put a GPU there
    weights = weight_regions(runtime, {n: w.clone().to(device) for n, w in model.weights.items()})
    pool = slots.num_slots
    decoder = Decoder(Model(runtime, program, weights, limits, pool, model.dtype), slots)
    for name in ("k", "v"):
        kv_memory(decoder, name).fill_(float("nan"))
    return decoder


def make_ssm(draft: Draft, sizes: Sizes, runtime: Runtime | None = None) -> SSMSpeculator:
    """An SSM with a decoder of its own."""
    _, nodes = most_nodes(draft.expansion, draft.nodes)
    decoder = make_decoder(draft.model, sizes, nodes=nodes, runtime=runtime, layers=draft.layers)
    known = None
    if draft.known is not None:
        ids, size = draft.known
        known = ReducedVocabulary(DraftVocabulary(ids, ""), size)
    return SSMSpeculator("ssm", decoder, draft.expansion, draft.nodes, known, draft.draws)


def make_bench(
    model: TinyModel,
    drafts: Sequence[Draft | Speculator] = (),
    sizes: Sizes | None = None,
    processors: Sequence[str] = ("cpu",),
    executor: Executor | None = None,
    verifier: str = "auto",
    lookahead: int = 0,
    lanes: bool = False,
    runtime: Runtime | None = None,
    cost: StepCost | None = None,
) -> Bench:
    """An engine without a tokenizer; trees are adaptive if it is told what steps cost."""
    runtime, sizes = runtime or Runtime(executor, processors), sizes or Sizes()
    speculators = [make_ssm(d, sizes, runtime) if isinstance(d, Draft) else d for d in drafts]
    nodes = sum(speculator.max_nodes for speculator in speculators)
    llm = make_decoder(model, sizes, nodes=nodes, runtime=runtime)
    ssms = [
        (decoder_of(speculator), draft)
        for speculator, draft in zip(speculators, drafts, strict=True)
        if isinstance(speculator, SSMSpeculator) and isinstance(draft, Draft)
    ]
    drafting = None
    if cost is not None:
        drafting = AdaptiveTrees(speculators, cost, llm.model.limits.rows, runtime.agree)
    engine = Engine(llm, speculators, drafting, verifier=verifier, lookahead=lookahead, lanes=lanes)
    return Bench(engine, llm, ssms)


def decoder_of(speculator: SSMSpeculator) -> Decoder:
    """The decoder inside an SSM."""
    return speculator.decoder


def slots_of(holder: Decoder | Speculator) -> KVPages | None:
    """The pages of who runs a model."""
    return holder.slots if isinstance(holder, (Decoder, SSMSpeculator)) else None


def make_room(holder: Decoder | Speculator, request: int, tokens: int) -> bool:
    """Hold pages for a text of so many tokens, as a batcher would, if there are some."""
    slots = slots_of(holder)
    return slots is None or slots.reserve(request, tokens)


def let_go(speculator: Speculator, request: int) -> None:
    """Have a speculator forget a request, and take back its pages."""
    speculator.release(request)
    if (slots := slots_of(speculator)) is not None:
        slots.release(request)


def kv_memory(decoder: Decoder, pool: str) -> Tensor:
    """(layers, slots, kv_heads, head_size): all keys (``k``) or values (``v``) of a decoder."""
    memory = decoder.model.runtime.array(decoder.model.kv, pool)
    assert isinstance(memory, Tensor)
    return memory


def random_parents(generator: random.Random, nodes: int, roots: int = -1) -> list[int]:
    """Parents of a random tree, each before its child; now bushy, now long.

    Args:
        generator: where chance comes from.
        nodes: how many.
        roots: the parent of nodes that have none: -1.
    """
    reach = generator.choice([1, 2, 5, nodes + 1])
    return [generator.randrange(max(roots, node - reach), node) for node in range(nodes)]


# The oracle


@dataclass(frozen=True, slots=True)
class PlainResult:
    """What a plain pass over a text computes, in float64.

    Attributes:
        logits: (tokens, vocabulary).
        keys: (layers, tokens, kv_heads, head_size), turned to their positions.
        values: (layers, tokens, kv_heads, head_size).
    """

    logits: Tensor
    keys: Tensor
    values: Tensor


def plain_forward(
    model: TinyModel, tokens: Sequence[int], layers: int | None = None
) -> PlainResult:
    """A plain causal pass over the whole text.

    Args:
        model: what to run.
        tokens: the text.
        layers: run only the first ones.
    """
    config = model.config
    w = {name: weight.double() for name, weight in model.weights.items()}
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    n = len(tokens)
    frequencies = config["rope_theta"] ** (-torch.arange(size // 2).double() / (size // 2))
    turns = torch.polar(
        torch.ones(n, size // 2).double(), torch.outer(torch.arange(n), frequencies)
    )

    def norm(x: Tensor, name: str) -> Tensor:
        length: Tensor = (x**2).mean(-1, keepdim=True) + config["rms_norm_eps"]
        return x / length**0.5 * w[name + ".weight"]

    def project(x: Tensor, name: str) -> Tensor:
        y: Tensor = x @ w[name + ".weight"].T
        return y + w[name + ".bias"] if name + ".bias" in w else y

    def turn(x: Tensor) -> Tensor:  # (n, heads, size): feature i and i + size / 2 are a number
        numbers = torch.complex(x[..., : size // 2], x[..., size // 2 :]) * turns[:, None]
        return torch.cat((numbers.real, numbers.imag), -1)

    x = w["model.embed_tokens.weight"][list(tokens)]
    future = torch.ones(n, n).triu(1).bool()
    keys, values = [], []
    for layer in range(config["num_hidden_layers"] if layers is None else layers):
        name = f"model.layers.{layer}"
        h = norm(x, f"{name}.input_layernorm")
        q = turn(project(h, f"{name}.self_attn.q_proj").view(n, heads, size))
        k = turn(project(h, f"{name}.self_attn.k_proj").view(n, kv_heads, size))
        v = project(h, f"{name}.self_attn.v_proj").view(n, kv_heads, size)
        keys.append(k)
        values.append(v)
        mixed = []
        for head in range(heads):
            group = head // (heads // kv_heads)
            scores = q[:, head] @ k[:, group].T / size**0.5
            mixed.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ v[:, group])
        x = x + project(torch.cat(mixed, -1), f"{name}.self_attn.o_proj")
        h = norm(x, f"{name}.post_attention_layernorm")
        gate = project(h, f"{name}.mlp.gate_proj")
        h = gate * gate.sigmoid() * project(h, f"{name}.mlp.up_proj")
        x = x + project(h, f"{name}.mlp.down_proj")
    table = "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head"
    logits = project(norm(x, "model.norm"), table)
    return PlainResult(logits, torch.stack(keys), torch.stack(values))


def plain_greedy(model: TinyModel, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """The likeliest continuation, one token at a time, all computed anew for each."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(int(plain_forward(model, tokens).logits[-1].argmax()))
    return tokens[len(prompt) :]


def first_tie(
    model: TinyModel, prompt: Sequence[int], output: Sequence[int], gap: float = 1e-4
) -> int:
    """Tokens of ``output`` before the first whose two best logits are too close to tell apart."""
    logits = plain_forward(model, [*prompt, *output]).logits[len(prompt) - 1 : -1]
    best, second = logits.topk(2, dim=-1).values.unbind(-1)
    close = (best - second < gap).nonzero()
    return int(close[0]) if len(close) else len(output)


def audit_kv(
    decoder: Decoder,
    model: TinyModel,
    request: int,
    tokens: Sequence[int],
    layers: int | None = None,
) -> float:
    """How far the K/V of a request's committed tokens are from those of a plain pass over them.

    Returns:
        The largest difference over one more than the size; infinity where there is a NaN.
    """
    cached = decoder.slots.length(request)
    if not cached:
        return 0.0
    assert cached <= len(tokens)
    right = plain_forward(model, tokens[:cached], layers)
    slots = torch.from_numpy(decoder.slots.committed(request, 0, cached))
    distance = 0.0
    for pool, plain in (("k", right.keys), ("v", right.values)):
        difference = (kv_memory(decoder, pool)[:, slots].double() - plain).abs() / (1 + plain.abs())
        distance = max(distance, float(difference.nan_to_num(torch.inf).max()))
    return distance
