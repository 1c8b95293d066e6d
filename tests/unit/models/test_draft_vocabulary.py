from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from specinfer.models.draft_vocabulary import (
    FILE,
    DraftVocabulary,
    load_draft_vocabulary,
    most_common,
)
from specinfer.models.errors import CheckpointError


@pytest.fixture
def vocabulary() -> DraftVocabulary:
    return DraftVocabulary([2, 3, 7, 11], digest="abc")


def test_both_directions_are_exact(vocabulary: DraftVocabulary) -> None:
    for draft, token in enumerate([2, 3, 7, 11]):
        assert vocabulary.to_draft(token) == draft
        assert vocabulary.to_llm(draft) == token


def test_every_other_token_is_the_unknown_one(vocabulary: DraftVocabulary) -> None:
    others = [0, 1, 4, 5, 6, 8, 9, 10, 12, 13, 150_000]
    assert set(vocabulary.to_draft(others).tolist()) == {vocabulary.unknown} == {4}


def test_shapes_are_kept(vocabulary: DraftVocabulary) -> None:
    tokens = np.array([[2, 7, 8], [11, 0, 3]])
    assert vocabulary.to_draft(tokens).tolist() == [[0, 2, 4], [3, 4, 1]]
    assert vocabulary.to_draft(np.zeros((0, 3), np.int32)).shape == (0, 3)
    assert vocabulary.to_llm([[0], [3]]).tolist() == [[2], [11]]


def test_the_unknown_token_is_none_of_the_llms(vocabulary: DraftVocabulary) -> None:
    with pytest.raises(IndexError):
        vocabulary.to_llm([vocabulary.unknown])


def test_probabilities_are_spread_over_the_llms_tokens(vocabulary: DraftVocabulary) -> None:
    rows = np.array([[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, 0.0]], np.float32)
    spread = vocabulary.spread(rows, 13)
    assert spread.dtype == np.float32
    for row, wide in zip(rows, spread, strict=True):
        assert {t: p for t, p in enumerate(wide) if p} == {
            t: p for t, p in zip([2, 3, 7, 11], row, strict=True) if p
        }
    with_unknown = np.concatenate([rows, np.zeros((2, 1), np.float32)], 1)
    assert (vocabulary.spread(with_unknown, 13) == spread).all()


@pytest.mark.parametrize("ids", [[], [3, 3], [4, 2], [-1, 2]])
def test_ids_that_do_not_ascend_are_refused(ids: list[int]) -> None:
    with pytest.raises(CheckpointError, match="ascend"):
        DraftVocabulary(ids, digest="")


def test_a_folder_gives_back_what_was_saved(vocabulary: DraftVocabulary, tmp_path: Path) -> None:
    assert load_draft_vocabulary(tmp_path, rows=5) is None
    vocabulary.save(tmp_path)
    found = load_draft_vocabulary(tmp_path, rows=5)
    assert found is not None
    assert (found.digest, found.ids.tolist()) == ("abc", [2, 3, 7, 11])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "draft vocabulary"),
        ("[]", "draft vocabulary"),
        (json.dumps({"ids": [1, 2, 3, 4]}), "tokenizer"),
        (json.dumps({"ids": [4, 3, 2, 1], "tokenizer": "a"}), "ascend"),
        (json.dumps({"ids": [1, 2, 3], "tokenizer": "a"}), "expected 4 tokens"),
    ],
)
def test_what_is_no_vocabulary_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(CheckpointError, match=said):
        load_draft_vocabulary(tmp_path, rows=5)


def test_the_most_common_tokens_are_taken_and_those_that_must_be() -> None:
    counts = np.array([5, 0, 9, 9, 1, 7])
    assert most_common(counts, 3).tolist() == [2, 3, 5]
    assert most_common(counts, 3, always=[1, 4]).tolist() == [1, 2, 4]
    assert most_common(counts, 99).tolist() == [0, 1, 2, 3, 4, 5]
