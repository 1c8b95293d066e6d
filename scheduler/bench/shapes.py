"""Models of random weights: a step costs what the shapes of a model cost, whatever it knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from specinfer.models.compiler import Program, compile_graph
from specinfer.models.definition import definition_for

SHAPES: dict[str, dict[str, Any]] = {
    "llama-7b": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "llama-68m": {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 2,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
    },
    "qwen2.5-1.5b": {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "rope_theta": 1000000.0,
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "rope_theta": 1000000.0,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
"""Models by name: what tells their sizes, as in a ``config.json``."""

_OTHERS = {
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1 << 17,
    "tie_word_embeddings": False,
}


def config_of(name: str) -> dict[str, Any]:
    """The configuration of a model of :data:`SHAPES`."""
    return _OTHERS | SHAPES[name]


def program_of(name: str) -> Program:
    """What a model of :data:`SHAPES` computes; its weights have the checkpoint's names."""
    config = config_of(name)
    return compile_graph(definition_for(config).build(config))


def random_weights(
    shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, device: str, scale: float = 0.02
) -> dict[str, Tensor]:
    """Weights of these shapes, made where they shall be."""
    return {
        name: torch.randn(shape, dtype=dtype, device=device).mul_(scale)
        for name, shape in shapes.items()
    }
