"""Texts packed behind each other into rows of one length, so that little of a batch is padding.

A token sees those before it of its own text. Loss is only on tokens behind prompts that the draft
vocabulary has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specinfer.models.draft_vocabulary import DraftVocabulary
from specinfer.scheduler.boost.corpus import Corpus, Ints


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows.

    Attributes:
        tokens: (rows, length) draft ids.
        positions: (rows, length) each within its text.
        texts: (rows, length) int32: which text of the row; -1 is padding.
        at: (targets,) flat places whose next token is to be predicted.
        targets: (targets,) these next tokens; the unknown one where the vocabulary lacks it.
        outputs: (targets,) int64: which of the corpus's output tokens each of them is.
        top_ids: (targets, k) draft ids of the LLM's likeliest tokens.
        top_probs: (targets, k) float32, summing to 1 over known tokens, or 0 where none is.
    """

    tokens: Tensor
    positions: Tensor
    texts: Tensor
    at: Tensor
    targets: Tensor
    outputs: Tensor
    top_ids: Tensor
    top_probs: Tensor

    def to(self, device: str) -> Batch:
        """The same on another device."""
        tensors = [getattr(self, field.name) for field in fields(self)]
        if device == "cuda":  # out of pinned memory, nobody waits for a copy
            tensors = [t.pin_memory() if t.numel() else t for t in tensors]
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors))

    def mask(self) -> Tensor:
        """(rows, length, length): which tokens see which."""
        same = self.texts[:, :, None] == self.texts[:, None, :]
        length = self.texts.shape[1]
        return same & torch.ones(length, length, dtype=torch.bool, device=same.device).tril()


class Packer:
    """Makes batches of a corpus's texts, whose tokens it translates once.

    Args:
        corpus: texts; what is longer than a row is cut.
        vocabulary: the draft's.
        length: of a row.
    """

    def __init__(self, corpus: Corpus, vocabulary: DraftVocabulary, length: int) -> None:
        self.corpus = corpus
        self.length = length
        self._unknown = vocabulary.unknown
        self._tokens = vocabulary.to_draft(corpus.tokens).astype(np.int32)
        self._top_ids = vocabulary.to_draft(corpus.top_ids).astype(np.int32)
        self._output_starts = corpus.output_starts

    def pack(self, texts: Sequence[int] | Ints, rows: int) -> tuple[Batch, int]:
        """Pack the first texts, as many as fit.

        Returns:
            The batch, and how many texts are in it.
        """
        layout: list[list[int]] = [[]]
        used = taken = 0
        for text in map(int, texts):
            size = self._size(text)
            if used + size > self.length:
                if len(layout) == rows:
                    break
                layout.append([])
                used = 0
            layout[-1].append(text)
            used += size
            taken += 1
        return self._batch(layout), taken

    def batches(self, texts: Sequence[int] | Ints, rows: int) -> Iterator[Batch]:
        """All texts, in order."""
        start = 0
        while start < len(texts):
            batch, taken = self.pack(texts[start:], rows)
            start += taken
            yield batch

    def _size(self, text: int) -> int:
        starts = self.corpus.starts
        return min(int(starts[text + 1] - starts[text]), self.length)

    def _batch(self, layout: Sequence[Sequence[int]]) -> Batch:
        shape = (len(layout), self.length)
        tokens, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        numbers = np.full(shape, -1, np.int32)
        at: list[NDArray[Any]] = []
        outputs: list[NDArray[Any]] = []
        targets: list[NDArray[Any]] = []
        for row, texts in enumerate(layout):
            column = 0
            for number, text in enumerate(texts):
                size, start = self._size(text), int(self.corpus.starts[text])
                prompt = min(int(self.corpus.prompts[text]), size)
                place = slice(column, column + size)
                tokens[row, place] = self._tokens[start : start + size]
                positions[row, place] = np.arange(size)
                numbers[row, place] = number
                begin = row * self.length + column
                at.append(np.arange(begin + prompt - 1, begin + size - 1))
                targets.append(self._tokens[start + prompt : start + size])
                first = int(self._output_starts[text])
                outputs.append(np.arange(first, first + size - prompt))
                column += size
        return self._targeted(tokens, positions, numbers, at, targets, outputs)

    def _targeted(
        self,
        tokens: NDArray[Any],
        positions: NDArray[Any],
        texts: NDArray[Any],
        *targeted: Sequence[NDArray[Any]],
    ) -> Batch:
        at, targets, outputs = (np.concatenate(part).astype(np.int64) for part in targeted)
        ids = self._top_ids[outputs].astype(np.int64)
        # A probability times a truth: none for tokens that the vocabulary lacks.
        probs = self.corpus.top_probs[outputs].astype(np.float32) * (ids != self._unknown)
        total = probs.sum(-1, keepdims=True)
        probs /= np.where(total > 0, total, 1)
        arrays = (tokens, positions, texts, at, targets, outputs, ids, probs)
        return Batch(*(torch.from_numpy(array) for array in arrays))
