"""Checkpoints in GGUF, llama.cpp's file format, read through llama.cpp's own library.

Decided here: which architectures are read, how GGUF's tensor names become Hugging Face's, and that
quantised tensors are dequantised in blocks that fit the cache. Which blocks mean which numbers is
left to ``gguf.quants``; configuration and tokenizer, to their own modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import quants

from specinfer.models.draft_vocabulary import DraftVocabulary
from specinfer.models.errors import CheckpointError
from specinfer.models.gguf_config import config_from_gguf
from specinfer.models.gguf_reader import read_gguf
from specinfer.models.gguf_tokenizer import tokenizer_from_gguf
from specinfer.models.tokenizer import Tokenizer

# Architecture -> whether its files hold the rows of q and k in llama.cpp's rotary order.
_ROTARY_ROWS_PERMUTED = {"llama": True, "qwen2": False, "qwen3": False}

# Hugging Face's modules; the library's table knows what GGUF calls each in an architecture.
_MODULES = ("model.embed_tokens", "model.norm", "lm_head")
_LAYER_MODULES = (
    "input_layernorm",
    "post_attention_layernorm",
    *(f"self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")),
    *(f"mlp.{part}" for part in ("gate_proj", "up_proj", "down_proj")),
)

# Values dequantised at once: their intermediate arrays stay in a core's cache, and torch copies no
# more than these on the calling thread (a team of threads for every copy took ten times as long on
# a busy machine). A second thread of our own gained nothing.
_BLOCK_VALUES = 1 << 15


class GgufCheckpoint:
    """One GGUF file, memory-mapped.

    Raises:
        CheckpointError: the file is damaged, lacks a key, or has an unknown architecture.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        file = read_gguf(path)
        self._metadata = file.metadata
        arch = self._metadata.get("general.architecture")
        if arch not in _ROTARY_ROWS_PERMUTED:
            known = ", ".join(sorted(_ROTARY_ROWS_PERMUTED))
            raise CheckpointError(f"{path}: expected an architecture of {known}, found {arch!r}")
        self._config = config_from_gguf(file.metadata, file.tensors, path)
        names = _hugging_face_names(arch, self._config["num_hidden_layers"])
        # A tensor without a name there keeps GGUF's: whoever loads the model will refuse it.
        self._tensors = {names.get(name, name): tensor for name, tensor in file.tensors.items()}
        self._permuted = _ROTARY_ROWS_PERMUTED[arch]

    @property
    def path(self) -> Path:
        """The file that is read."""
        return self._path

    @property
    def config(self) -> Mapping[str, Any]:
        """The keys of a Hugging Face ``config.json``."""
        return self._config

    @property
    def draft_vocabulary(self) -> DraftVocabulary | None:
        """None: the format has no place for one."""
        return None

    def names(self) -> frozenset[str]:
        """The tensors in it, under Hugging Face's names."""
        return frozenset(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that :meth:`tensor` will have; GGUF counts dimensions from the inside."""
        return tuple(reversed(self._stored(name).shape.tolist()))

    def tensor(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """One tensor, dequantised and cast; see :class:`specinfer.models.checkpoint.Checkpoint`."""
        stored = self._stored(name)
        try:
            weight = _dequantise(stored, dtype).reshape(self.shape(name))
            if self._permuted and ".self_attn.q_proj." in name:
                weight = _unpermute(weight, self._config["num_attention_heads"])
            elif self._permuted and ".self_attn.k_proj." in name:
                weight = _unpermute(weight, self._config["num_key_value_heads"])
        except (NotImplementedError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{self._path}: {name}: cannot be read from {stored.tensor_type.name} of shape"
                f" {self.shape(name)}: {error}"
            ) from error
        return weight

    def tokenizer(self) -> Tokenizer:
        """The tokenizer in the file's metadata."""
        return tokenizer_from_gguf(self._metadata, self._path)

    def _stored(self, name: str) -> Any:
        if name not in self._tensors:
            raise CheckpointError(f"{self._path}: there is no tensor {name}")
        return self._tensors[name]


def _hugging_face_names(arch: str, num_layers: int) -> dict[str, str]:
    """GGUF name -> Hugging Face name."""
    arch_id = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    table = gguf.get_tensor_name_map(arch_id, num_layers)
    modules = [
        *_MODULES,
        *(f"model.layers.{i}.{module}" for i in range(num_layers) for module in _LAYER_MODULES),
    ]
    return {
        f"{stored}.{kind}": f"{module}.{kind}"
        for module in modules
        if (stored := table.get_name(module)) is not None
        for kind in ("weight", "bias")
    }


def _dequantise(stored: Any, dtype: torch.dtype) -> torch.Tensor:
    """The values of a stored tensor, (elements,), in ``dtype``."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[stored.tensor_type]
    raw = np.asarray(stored.data).reshape(-1).view(np.uint8)
    step = _BLOCK_VALUES // block * block_bytes
    out = torch.empty(stored.n_elements, dtype=dtype)
    done = 0
    for start in range(0, len(raw), step):
        # One long row: of a matrix the library would take 16 rows at a time.
        values = quants.dequantize(raw[None, start : start + step], stored.tensor_type)[0]
        out[done : done + len(values)] = torch.from_numpy(np.require(values, requirements="W"))
        done += len(values)
    return out


def _unpermute(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Undo llama.cpp's order of rotary rows: (pair, half) within a head back to (half, pair)."""
    rows = weight.reshape(num_heads, -1, 2, *weight.shape[1:])
    return rows.transpose(1, 2).reshape(weight.shape)
