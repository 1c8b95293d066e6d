"""A LLaMA- or Qwen2-shaped network in plain torch: for gradients, and for writing in big batches.

The engine computes trees and has no gradients; training needs gradients and no trees. The module's
parameters have the names of checkpoints, so that what is trained here is served there, and a large
model's checkpoint can be read into this one. On a GPU this is also who writes the LLM's texts.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from specinfer.models.checkpoint import Checkpoint
from specinfer.models.errors import GraphError

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q, k, v) -> what is seen; all are (rows, heads, tokens, size), k and v of fewer heads."""


class Network(nn.Module):
    """A decoder.

    Args:
        config: keys of a ``config.json``; ``model_type`` is ``llama`` or ``qwen2``.

    Raises:
        GraphError: another ``model_type``.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        if config["model_type"] not in ("llama", "qwen2"):
            raise GraphError(f"model_type is {config['model_type']!r}, expected llama or qwen2")
        self.config = dict(config)
        hidden, rows = config["hidden_size"], config["vocab_size"]
        heads = config["num_attention_heads"]
        self.head_size: int = config.get("head_dim") or hidden // heads
        self.theta = float(config["rope_theta"])
        self.model = Body(config, self.head_size)
        if not config["tie_word_embeddings"]:
            self.lm_head = nn.Linear(hidden, rows, bias=False)

    @property
    def table(self) -> Tensor:
        """(vocabulary, hidden): the matrix that makes logits."""
        tied = self.config["tie_word_embeddings"]
        table: Tensor = self.model.embed_tokens.weight if tied else self.lm_head.weight
        return table

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """What stands before the logits, normed.

        Args:
            tokens: (rows, tokens).
            positions: (rows, tokens).
            attend: computes attention, with whatever cache or mask it has.

        Returns:
            (rows, tokens, hidden).
        """
        size = self.head_size
        steps = torch.arange(0, size, 2, device=tokens.device, dtype=torch.float32) / size
        angles = positions[:, None, :, None].float() * self.theta**-steps
        return self.model(tokens, angles, attend)  # type: ignore[no-any-return]


class Body(nn.Module):
    """All but the logits."""

    def __init__(self, config: Mapping[str, Any], head_size: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(
            Layer(config, head_size) for _ in range(config["num_hidden_layers"])
        )
        self.norm = Norm(config)

    def forward(self, tokens: Tensor, angles: Tensor, attend: Attend) -> Tensor:
        """(rows, tokens) and their (rows, 1, tokens, size / 2) angles to (rows, tokens, hidden)."""
        x: Tensor = self.embed_tokens(tokens)
        turns = (angles.cos().to(x.dtype), angles.sin().to(x.dtype))
        for number, layer in enumerate(self.layers):
            x = layer(x, turns, number, attend)
        normed: Tensor = self.norm(x)
        return normed


class Norm(nn.Module):
    """Root mean square norm."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config["hidden_size"]))
        self.eps = float(config["rms_norm_eps"])

    def forward(self, x: Tensor) -> Tensor:
        """Of the last axis."""
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Layer(nn.Module):
    """Attention and a gated two-layer network, each added to what it reads."""

    def __init__(self, config: Mapping[str, Any], head_size: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, head_size)
        self.mlp = Gated(config)
        self.input_layernorm = Norm(config)
        self.post_attention_layernorm = Norm(config)

    def forward(
        self, x: Tensor, turns: tuple[Tensor, Tensor], number: int, attend: Attend
    ) -> Tensor:
        """(rows, tokens, hidden) to the same."""
        x = x + self.self_attn(self.input_layernorm(x), turns, number, attend)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Attention(nn.Module):
    """Projections around attention."""

    def __init__(self, config: Mapping[str, Any], head_size: int) -> None:
        super().__init__()
        hidden = config["hidden_size"]
        width = config["num_attention_heads"] * head_size
        kv_width = config["num_key_value_heads"] * head_size
        bias = config["model_type"] == "qwen2"
        self.head_size = head_size
        self.q_proj = nn.Linear(hidden, width, bias=bias)
        self.k_proj = nn.Linear(hidden, kv_width, bias=bias)
        self.v_proj = nn.Linear(hidden, kv_width, bias=bias)
        self.o_proj = nn.Linear(width, hidden, bias=False)

    def forward(
        self, x: Tensor, turns: tuple[Tensor, Tensor], number: int, attend: Attend
    ) -> Tensor:
        """(rows, tokens, hidden) to the same."""
        rows, tokens, _ = x.shape
        q, k, v = (
            project(x).view(rows, tokens, -1, self.head_size).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = attend(number, _turned(q, turns), _turned(k, turns), v)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out


class Gated(nn.Module):
    """Two layers, the first gated."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., hidden) to the same."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


def _turned(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Feature i and i + size / 2 of each head, turned by the position's angle."""
    cos, sin = turns
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def masked(mask: Tensor | None) -> Attend:
    """Attention without a cache.

    Args:
        mask: (rows, tokens, tokens) true where a token sees another; None: all those before it.
    """

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = q.shape[1] // k.shape[1]
        if heads > 1:  # not every fused kernel knows that heads may share
            k, v = k.repeat_interleave(heads, 1), v.repeat_interleave(heads, 1)
        seen = None if mask is None else mask[:, None]
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, is_causal=mask is None
        )

    return attend


def init_weights(network: Network, seed: int) -> None:
    """Random weights: normal, of deviation 0.02; those that end a layer smaller by its depth."""
    generator = torch.Generator().manual_seed(seed)
    depth = (2 * network.config["num_hidden_layers"]) ** 0.5
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.dim() > 1:
                scale = (
                    0.02 / depth if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                )
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)


def load_network(checkpoint: Checkpoint, dtype: torch.dtype, device: str) -> Network:
    """A network with a checkpoint's weights, without gradients.

    On several cores the tensors are dequantised by as many processes: one took most of a minute
    for a billion numbers.
    """
    with torch.device("meta"):
        network = Network(checkpoint.config)
    shapes = {name: tuple(weight.shape) for name, weight in network.named_parameters()}
    weights = _read(checkpoint, shapes, dtype, len(os.sched_getaffinity(0)))
    network.load_state_dict({n: w.to(device) for n, w in weights.items()}, assign=True)
    return network.requires_grad_(requires_grad=False)


def _read(
    checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, workers: int
) -> dict[str, Tensor]:
    if workers <= 2 or sum(map(prod, shapes.values())) < 1 << 26:
        return {name: checkpoint.tensor(name, dtype) for name in shapes}
    weights = {}
    for name, shape in shapes.items():
        memory = mmap.mmap(-1, prod(shape) * dtype.itemsize)  # children write what we read
        weights[name] = torch.frombuffer(memory, dtype=dtype).view(shape)
    largest_first = sorted(shapes, key=lambda name: -prod(shapes[name]))
    children = []
    for worker in range(workers):
        if (child := os.fork()) == 0:
            code = 1
            try:
                torch.set_num_threads(1)
                for name in largest_first[worker::workers]:
                    weights[name].copy_(checkpoint.tensor(name, dtype))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    # All are waited for, whatever becomes of the first.
    codes = [os.waitpid(child, 0)[1] for child in children]
    if any(codes):  # in this process the error can be told
        return {name: checkpoint.tensor(name, dtype) for name in shapes}
    return weights
