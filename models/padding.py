"""A model that costs as much as a larger one and writes what it would have written anyway.

Behind its layers come others whose last products are zero: what attention and the gated layer of
such a one add to the residual is 0, so the next one gets exactly what this one got. All other
numbers are random, and all of them, zeros too, lie in memory and are read and multiplied like any
others: time is that of a model of so many layers, text and acceptance are those of the real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from specinfer.models.checkpoint import Checkpoint
from specinfer.models.draft_vocabulary import DraftVocabulary
from specinfer.models.tokenizer import Tokenizer

ZERO = ("o_proj.weight", "down_proj.weight")
"""The last products of a layer's two halves."""
ONE = "norm.weight"
SCALE = 0.02
"""Standard deviation of the other numbers."""


def padded_config(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """A configuration with so many more layers."""
    return {**config, "num_hidden_layers": int(config["num_hidden_layers"]) + layers}


class PaddedCheckpoint:
    """A checkpoint with more layers than there are.

    Args:
        checkpoint: of the real model.
        layers: how many more, at least 1.
    """

    def __init__(self, checkpoint: Checkpoint, layers: int) -> None:
        self._real = checkpoint
        self._first = int(checkpoint.config["num_hidden_layers"])
        self._config = padded_config(checkpoint.config, layers)
        last = f"model.layers.{self._first - 1}."
        self._like = {
            f"model.layers.{self._first + i}.{name.removeprefix(last)}": name
            for i in range(layers)
            for name in checkpoint.names()
            if name.startswith(last)
        }
        self._noise: dict[tuple[int, ...], torch.Tensor] = {}

    @property
    def path(self) -> Path:
        """Of the real model."""
        return self._real.path

    @property
    def config(self) -> Mapping[str, Any]:
        """With the layers that there are now."""
        return self._config

    @property
    def draft_vocabulary(self) -> DraftVocabulary | None:
        """Of the real model."""
        return self._real.draft_vocabulary

    def names(self) -> frozenset[str]:
        """The real tensors and those of the further layers, which are named alike."""
        return self._real.names() | self._like.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """As in the last real layer."""
        return self._real.shape(self._like.get(name, name))

    def tensor(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """A real tensor, or one of a further layer; in memory of its own in any case."""
        if name not in self._like:
            return self._real.tensor(name, dtype)
        shape = self.shape(name)
        # Filled: memory that nobody has written may be one page, shown many times.
        if name.endswith(ZERO):
            return torch.empty(shape, dtype=dtype).fill_(0)
        if name.endswith(ONE):
            return torch.ones(shape, dtype=dtype)
        return self._random(shape).to(dtype, copy=True)

    def tokenizer(self) -> Tokenizer:
        """Of the real model."""
        return self._real.tokenizer()

    def _random(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Drawn once for a shape: billions of numbers would take minutes."""
        if shape not in self._noise:
            generator = torch.Generator().manual_seed(len(self._noise))
            self._noise[shape] = torch.randn(shape, generator=generator).mul_(SCALE)
        return self._noise[shape]
