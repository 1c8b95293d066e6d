"""A tiny LLM on disk, and a boost-tuning for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny_models import tiny_config, tiny_model
from unit.models.checkpoint_files import train_backend, weights, write_folder

from specinfer.runtime.config import from_mapping
from specinfer.scheduler.boost.config import BoostConfig

WORDS = ("Mars", "tree", "trees", "red", "dark", "reddish", "café", "the", "is", "12")


def write_llm(folder: Path, *, model_type: str = "qwen2") -> Path:
    """A tiny model with a tokenizer, whose likeliest token changes with the text before it."""
    rows = train_backend().get_vocab_size()
    config = tiny_config(
        model_type, vocabulary=rows, hidden=32, inner=48, heads=4, max_position_embeddings=128
    )
    write_folder(folder, weights(model_type, rows), config=config)
    tensors = tiny_model(3, config).weights
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors")
    return folder


def write_prompts(path: Path, number: int) -> Path:
    """Prompts that are all different."""
    lines = [
        {"prompt": " ".join(WORDS[(n // 10**k + k) % 10] for k in range(3))} for n in range(number)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def settings(llm: Path, prompts: Path, out: Path, **others: Any) -> dict[str, Any]:
    """What a configuration's file would hold."""
    training = {
        "epochs": 6,
        "batch_tokens": 512,
        "row_tokens": 64,
        "learning_rate": 0.003,
        "warmup_steps": 5,
        "log_every": 2,
    }
    return {
        "out": str(out),
        "llm": str(llm),
        "prompts": {"files": [str(prompts)], "functions": 0},
        "writing": {"max_new_tokens": 16, "batch": 16, "top_k": 4},
        "network": {"vocabulary": 200, "hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1}
        | {"inner": 48},
        "training": training,
        "boosting": {"ssms": 2, "first": 4, "share": 0.75},
        "evaluation": {"held_out": 8, "expansion": [1, 1, 1]},
    } | others


def config_of(data: dict[str, Any]) -> BoostConfig:
    """The configuration itself."""
    return from_mapping(BoostConfig, data)


torch.set_num_threads(1)
