"""The configuration of a GGUF file under the keys of a Hugging Face ``config.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specinfer.models.errors import CheckpointError

_INTEGERS = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
}
_FLOATS = {"attention.layer_norm_rms_epsilon": "rms_norm_eps"}


def config_from_gguf(
    metadata: Mapping[str, Any], tensors: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """Translate the keys, and look up in the tensors what GGUF has no key for.

    Args:
        metadata: the file's keys and values.
        tensors: the file's tensors, by GGUF's names.
        path: the file, for messages.

    Raises:
        CheckpointError: a key is missing or holds no positive number, or a layer is missing.
    """
    arch = metadata["general.architecture"]

    def number(key: str, kind: type[int] | type[float], default: float | None = None) -> Any:
        value: Any = metadata.get(f"{arch}.{key}", default)
        if type(value) is not kind or not 0 < value < math.inf:
            found = "no such key" if value is None else repr(value)
            raise CheckpointError(
                f"{path}: {arch}.{key}: expected a positive {kind.__name__}, found {found}"
            )
        return value

    config: dict[str, Any] = {"model_type": arch, "hidden_act": "silu"}
    config |= {ours: number(key, int) for key, ours in _INTEGERS.items()}
    config |= {ours: number(key, float) for key, ours in _FLOATS.items()}
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    for name in ("token_embd.weight", f"blk.{layers - 1}.attn_norm.weight"):
        if name not in tensors:
            raise CheckpointError(f"{path}: {name}: expected it in {layers} layers, found none")
    config |= {
        "num_key_value_heads": number("attention.head_count_kv", int, heads),
        "head_dim": number("attention.key_length", int, config["hidden_size"] // heads),
        "rope_theta": number("rope.freq_base", float, 10000.0),
        "vocab_size": int(tensors["token_embd.weight"].shape[-1]),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
    }
    if (scaling := metadata.get(f"{arch}.rope.scaling.type", "none")) != "none":
        config["rope_scaling"] = {
            "rope_type": scaling,
            "factor": number("rope.scaling.factor", float),
        }
    if f"{arch}.attention.sliding_window" in metadata:
        config["sliding_window"] = number("attention.sliding_window", int)
    return config
