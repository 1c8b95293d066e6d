"""Checkpoints in Hugging Face's layout: a folder of ``config.json`` and safetensors files.

Decided here: which defaults stand in for keys that ``config.json`` leaves out, and how shards are
found. The files are mapped; a tensor's bytes are read when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from specinfer.models.draft_vocabulary import DraftVocabulary, load_draft_vocabulary
from specinfer.models.errors import CheckpointError
from specinfer.models.hf_tokenizer import read_json, tokenizer_from_folder
from specinfer.models.tokenizer import Tokenizer

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_REQUIRED = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
)


class HuggingFaceCheckpoint:
    """One folder, its safetensors files memory-mapped.

    Raises:
        CheckpointError: a file or a key is missing, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        stored = read_json(path / "config.json")
        self._files = {name: _open(path / name) for name in _file_names(path)}
        self._where = {name: file for file, f in self._files.items() for name in f.keys()}  # noqa: SIM118 - no mapping
        if _SINGLE not in self._files:
            self._check_index()
        self._config = _config(path, stored, self._where)

    @property
    def path(self) -> Path:
        """The folder that is read."""
        return self._path

    @property
    def config(self) -> Mapping[str, Any]:
        """``config.json``, with the keys that it may leave out."""
        return self._config

    @cached_property
    def draft_vocabulary(self) -> DraftVocabulary | None:
        """What ``draft_vocabulary.json`` says, if it is there."""
        return load_draft_vocabulary(self._path, int(self._config["vocab_size"]))

    def names(self) -> frozenset[str]:
        """The tensors in all files of the folder."""
        return frozenset(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that :meth:`tensor` will have."""
        return tuple(self._file(name).get_slice(name).get_shape())

    def tensor(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """One tensor, cast; see :class:`specinfer.models.checkpoint.Checkpoint`."""
        stored: torch.Tensor = self._file(name).get_tensor(name)
        # A copy even where the type is right: the mapping may end before the tensor does.
        return stored.to(dtype, copy=True).contiguous()

    def tokenizer(self) -> Tokenizer:
        """The tokenizer beside the weights."""
        return tokenizer_from_folder(self._path, self._config)

    def _file(self, name: str) -> Any:
        if name not in self._where:
            raise CheckpointError(f"{self._path}: there is no tensor {name}")
        return self._files[self._where[name]]

    def _check_index(self) -> None:
        """The index and the shards must agree, or a shard is from another download."""
        index = read_json(self._path / _INDEX, {}).get("weight_map", {})
        for name, file in index.items():
            if self._where.get(name) != file:
                raise CheckpointError(
                    f"{self._path / file}: {name}: expected it here, as the index says"
                )


def _file_names(folder: Path) -> list[str]:
    if (folder / _SINGLE).is_file():
        return [_SINGLE]
    if not (folder / _INDEX).is_file():
        raise CheckpointError(f"{folder}: expected {_SINGLE} or {_INDEX}, found neither")
    weight_map = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / _INDEX}: expected a weight_map, found {weight_map!r}")
    return sorted(set(weight_map.values()))


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        size = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
        raise CheckpointError(
            f"{path}: expected a safetensors file, found {size}: {error}"
        ) from error


def _config(path: Path, stored: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    if missing := [key for key in _REQUIRED if key not in stored]:
        raise CheckpointError(f"{path / 'config.json'}: expected {', '.join(missing)}, found none")
    config = dict(stored)
    heads = config["num_attention_heads"]
    rope = config.get("rope_parameters") or {}  # where transformers 5 puts all of rotary
    defaults: dict[str, Any] = {
        "num_key_value_heads": heads,
        "head_dim": config["hidden_size"] // heads,
        "rope_theta": rope.get("rope_theta", 10000.0),
        "tie_word_embeddings": False,
        "attention_bias": "model.layers.0.self_attn.q_proj.bias" in names,
    }
    if rope.get("rope_type", "default") != "default":
        defaults["rope_scaling"] = rope
    for key, value in defaults.items():
        if config.get(key) is None:
            config[key] = value
    return config
