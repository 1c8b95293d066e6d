"""What the rest of this layer needs of a checkpoint, whatever its file format.

Configuration keys and tensor names are Hugging Face's in every format, so that one model definition
serves all. How a format is read is left to :mod:`specinfer.models.gguf_checkpoint` and
:mod:`specinfer.models.hf_checkpoint`; which tensors a model wants, to the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from specinfer.models.draft_vocabulary import DraftVocabulary
from specinfer.models.errors import CheckpointError
from specinfer.models.tokenizer import Tokenizer


class Checkpoint(Protocol):
    """Weights, configuration and tokenizer of one model on disk."""

    @property
    def path(self) -> Path:
        """The file or folder that is read."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The keys of a Hugging Face ``config.json``.

        Always there: model_type, hidden_size, intermediate_size, num_hidden_layers,
        num_attention_heads, num_key_value_heads, head_dim, rms_norm_eps, rope_theta, vocab_size,
        max_position_embeddings, tie_word_embeddings, attention_bias.
        """

    @property
    def draft_vocabulary(self) -> DraftVocabulary | None:
        """Which tokens of an LLM it knows; None for a model with a tokenizer of its own."""

    def names(self) -> frozenset[str]:
        """The tensors in it, such as ``model.layers.0.self_attn.q_proj.weight``."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape :meth:`tensor` will have; reads no weights."""

    def tensor(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """One tensor, dequantised and cast, contiguous, in memory of its own.

        Args:
            name: one of :meth:`names`.
            dtype: a floating type.

        Returns:
            A CPU tensor of :meth:`shape`; a linear layer's weight is (out, in).

        Raises:
            CheckpointError: there is no such tensor, or the file cannot be read.
        """

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the model was trained with.

        Raises:
            CheckpointError: there is none, as with a model that has a draft vocabulary.
        """


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a GGUF file or a Hugging Face folder; tensors are read when asked for.

    Raises:
        CheckpointError: there is nothing at ``path``, or nothing that can be read.
    """
    # Here and not above: each format imports Checkpoint's neighbours, and a GGUF file needs
    # no safetensors.
    from specinfer.models.gguf_checkpoint import GgufCheckpoint
    from specinfer.models.hf_checkpoint import HuggingFaceCheckpoint

    path = Path(path)
    if path.is_dir():
        return HuggingFaceCheckpoint(path)
    if path.is_file():
        return GgufCheckpoint(path)
    raise CheckpointError(f"{path}: expected a .gguf file or a Hugging Face folder, found nothing")
