"""A reduced vocabulary: which tokens of an LLM a small model knows, and by which numbers.

Most of a small model would be the table of the LLM's whole vocabulary. A drafter may know the
common tokens alone: what it cannot say it does not propose, which costs a guess and no correctness.
Draft id ``i`` is token ``ids[i]`` of the LLM. One id more, the last, stands for every other token:
the model can read it, and must not propose it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specinfer.models.errors import CheckpointError

FILE = "draft_vocabulary.json"

Ids = NDArray[np.int64]


class DraftVocabulary:
    """The tokens of an LLM that a small model knows.

    Args:
        ids: the LLM's ids of these tokens, each larger than the one before.
        digest: of the LLM's tokenizer (``Tokenizer.vocabulary_digest``).

    Raises:
        CheckpointError: no ids, or ids that are negative or do not ascend.

    >>> vocabulary = DraftVocabulary([3, 5, 9], digest="")
    >>> vocabulary.to_draft([5, 4, 9]), vocabulary.to_llm([0, 2])
    (array([1, 3, 2]), array([3, 9]))
    """

    def __init__(self, ids: ArrayLike, digest: str) -> None:
        self.ids: Ids = np.array(ids, np.int64)
        if self.ids.ndim != 1 or not len(self.ids) or self.ids[0] < 0 or (np.diff(ids) <= 0).any():
            raise CheckpointError(
                f"draft vocabulary: expected ids that ascend from 0 or more, found {self.ids}"
            )
        self.digest = digest
        table = np.full(self.ids[-1] + 2, len(self.ids), np.int64)  # the last: all ids above
        table[self.ids] = np.arange(len(self.ids))
        self._table = table

    def __len__(self) -> int:
        """Tokens that the model may propose: logits at and behind this index mean nothing."""
        return len(self.ids)

    @property
    def unknown(self) -> int:
        """The draft id of every token that is not among :attr:`ids`."""
        return len(self.ids)

    @property
    def num_rows(self) -> int:
        """Rows of the model's table: the known tokens, and :attr:`unknown`."""
        return len(self.ids) + 1

    def to_draft(self, tokens: ArrayLike) -> Ids:
        """Draft ids of the LLM's tokens, in the same shape; :attr:`unknown` where there is none."""
        return self._table[np.minimum(tokens, len(self._table) - 1)]

    def to_llm(self, ids: ArrayLike) -> Ids:
        """The LLM's tokens of draft ids, in the same shape.

        Raises:
            IndexError: :attr:`unknown`, which is no token, or a larger id.
        """
        return self.ids[np.asarray(ids, np.int64)]

    def spread(self, rows: NDArray[Any], vocabulary: int) -> NDArray[Any]:
        """Probabilities over draft ids, as probabilities over the LLM's tokens.

        Args:
            rows: (..., len(self)) or (..., :attr:`num_rows`); the last of the latter is left out,
                so a row should give it no share.
            vocabulary: tokens of the LLM.

        Returns:
            (..., vocabulary) of the same type, 0 where the model knows no token.
        """
        spread = np.zeros((*rows.shape[:-1], vocabulary), rows.dtype)
        spread[..., self.ids] = rows[..., : len(self)]
        return spread

    def save(self, folder: Path) -> None:
        """Write it into a checkpoint's folder."""
        text = json.dumps({"tokenizer": self.digest, "ids": self.ids.tolist()})
        (folder / FILE).write_text(text, "utf-8")


def load_draft_vocabulary(folder: Path, rows: int) -> DraftVocabulary | None:
    """Read a checkpoint's draft vocabulary; None if it has none.

    Args:
        folder: of the checkpoint.
        rows: of the checkpoint's embedding.

    Raises:
        CheckpointError: it cannot be read, or has not the tokens that the embedding has rows for.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
        vocabulary = DraftVocabulary(found["ids"], str(found["tokenizer"]))
    except (OSError, ValueError, LookupError, TypeError, CheckpointError) as error:
        raise CheckpointError(f"{path}: expected a draft vocabulary, found {error}") from error
    if vocabulary.num_rows != rows:
        raise CheckpointError(
            f"{path}: expected {rows - 1} tokens, as vocab_size says, found {len(vocabulary)}"
        )
    return vocabulary


def most_common(counts: NDArray[Any], size: int, always: Iterable[int] = ()) -> Ids:
    """The ids of the most frequent tokens, ascending.

    Args:
        counts: (tokens,) how often each was seen; of equals the first come first.
        size: most ids.
        always: ids that are taken however rare they are.

    >>> most_common(np.array([0, 7, 1, 9, 8]), 3, always=[0])
    array([0, 3, 4])
    """
    kept = sorted(set(always))
    order = np.argsort(-counts, kind="stable")
    order = order[~np.isin(order, kept)]
    return np.sort(np.concatenate([kept, order[: max(0, size - len(kept))]]).astype(np.int64))
