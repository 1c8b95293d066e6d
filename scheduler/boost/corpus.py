"""Texts to learn from: prompts and what an LLM wrote behind them, as one flat array of tokens.

A text that nobody prompted for (a file of source code) is one with a prompt of a single token. With
each written token may stand the LLM's likeliest tokens there and their probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from specinfer.models.errors import CheckpointError

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt and what follows it.

    Attributes:
        tokens: prompt and output.
        prompt: tokens of the prompt, at least 1.
        top_ids: (output, k) the LLM's likeliest tokens at each token of the output, if known.
        top_probs: (output, k) their probabilities.
    """

    tokens: NDArray[Any]
    prompt: int
    top_ids: NDArray[Any] | None = None
    top_probs: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts behind each other.

    Attributes:
        tokens: (all tokens,) int32.
        starts: (texts + 1,) int64: where each begins, and the end.
        prompts: (texts,) int32: tokens of each one's prompt.
        numbers: (texts,) int64: what each is known by; its place if nothing else.
        top_ids: (all output tokens, k) int32; k is 0 where nothing is known.
        top_probs: (all output tokens, k) float16.
    """

    tokens: NDArray[np.int32]
    starts: NDArray[np.int64]
    prompts: NDArray[np.int32]
    numbers: NDArray[np.int64]
    top_ids: NDArray[np.int32]
    top_probs: NDArray[np.float16]

    @classmethod
    def of(cls, texts: Sequence[Text], numbers: Iterable[int] | None = None) -> Corpus:
        """A corpus of texts, which all know the LLM's likeliest tokens, or none does."""
        lengths = [len(text.tokens) for text in texts]
        known = [
            (t.top_ids, t.top_probs)
            for t in texts
            if t.top_ids is not None and t.top_probs is not None
        ]
        if known and len(known) < len(texts):
            raise ValueError("some texts know the LLM's likeliest tokens, and some do not")
        outputs = sum(lengths) - sum(text.prompt for text in texts)
        none: NDArray[Any] = np.zeros((outputs, 0))
        return cls(
            _joined([t.tokens for t in texts], np.zeros(0)).astype(np.int32),
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
            np.array([text.prompt for text in texts], np.int32),
            np.array(range(len(texts)) if numbers is None else list(numbers), np.int64),
            _joined([ids for ids, _ in known], none).astype(np.int32),
            _joined([probs for _, probs in known], none).astype(np.float16),
        )

    def __len__(self) -> int:
        """Texts."""
        return len(self.prompts)

    @property
    def num_outputs(self) -> int:
        """Tokens behind prompts."""
        return len(self.tokens) - int(self.prompts.sum())

    @property
    def output_starts(self) -> Ints:
        """(texts + 1,): where each text's output begins among all output tokens."""
        lengths = np.diff(self.starts) - self.prompts
        return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def prompt(self, text: int) -> NDArray[np.int32]:
        """Tokens of a prompt."""
        return self.tokens[self.starts[text] : self.starts[text] + self.prompts[text]]

    def output(self, text: int) -> NDArray[np.int32]:
        """Tokens behind a prompt."""
        return self.tokens[self.starts[text] + self.prompts[text] : self.starts[text + 1]]

    def save(self, path: Path) -> None:
        """Write it; the file appears whole or not at all."""
        half = path.with_suffix(".half")
        save_file({name: getattr(self, name) for name in self.__slots__}, half)
        half.replace(path)


def load_corpus(*paths: Path) -> Corpus:
    """Read a corpus out of one or several files.

    Raises:
        CheckpointError: a file that is no corpus.
    """
    parts: list[dict[str, NDArray[Any]]] = []
    for path in paths:
        try:
            part = load_file(path)
            parts.append({name: part[name] for name in Corpus.__slots__})
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(f"{path}: expected a corpus, found {error}") from error
    if not parts:
        return Corpus.of([])
    if len(parts) == 1:
        return Corpus(**parts[0])
    joined = {n: np.concatenate([p[n] for p in parts]) for n in parts[0] if n != "starts"}
    lengths = np.concatenate([np.diff(part["starts"]) for part in parts])
    return Corpus(starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), **joined)


def _joined(parts: Sequence[NDArray[Any]], empty: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else empty
