"""Corpora, packing, loss and training, against sums written out plainly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import TinyModel, plain_forward, tiny_config, tiny_model

from specinfer.models.draft_vocabulary import DraftVocabulary
from specinfer.models.errors import CheckpointError
from specinfer.scheduler.boost.config import TrainingConfig
from specinfer.scheduler.boost.corpus import Corpus, Text, load_corpus
from specinfer.scheduler.boost.network import Network, init_weights
from specinfer.scheduler.boost.packing import Batch, Packer
from specinfer.scheduler.boost.training import Trainer, loss_of, ranks_of
from specinfer.scheduler.boost.watch import Budget, unwatched

VOCABULARY = DraftVocabulary(range(0, 78, 2), digest="")  # 39 even tokens; odd ones are unknown
CONFIG = tiny_config(vocabulary=40, kv_heads=6, tie_word_embeddings=True)
SHORT = TrainingConfig(
    epochs=3, batch_tokens=64, row_tokens=32, learning_rate=0.01, warmup_steps=3, log_every=1
)


def corpus(number: int = 12, *, top_k: int = 0, seed: int = 0) -> Corpus:
    chance = np.random.default_rng(seed)
    texts = []
    for _ in range(number):
        size = int(chance.integers(4, 14))
        prompt = int(chance.integers(1, size - 1))
        known: Any = (None, None)
        if top_k:
            ids = chance.integers(0, 80, (size - prompt, top_k))
            known = (ids, chance.dirichlet([1.0] * top_k, size - prompt))
        texts.append(Text(chance.integers(0, 80, size), prompt, *known))
    return Corpus.of(texts)


def packed(texts: Corpus, length: int = 32) -> Batch:
    batch, taken = Packer(texts, VOCABULARY, length).pack(range(len(texts)), rows=100)
    assert taken == len(texts)
    return batch


def network_of(model: TinyModel) -> Network:
    network = Network(model.config)
    network.load_state_dict(model.weights)
    return network


def test_a_corpus_gives_back_what_was_put_in(tmp_path: Path) -> None:
    first, second = corpus(5, top_k=2), corpus(3, top_k=2, seed=1)
    first.save(tmp_path / "a.safetensors")
    second.save(tmp_path / "b.safetensors")
    both = load_corpus(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert len(both) == 8
    for number in range(8):
        part, own = (first, number) if number < 5 else (second, number - 5)
        assert both.prompt(number).tolist() == part.prompt(own).tolist()
        assert both.output(number).tolist() == part.output(own).tolist()
    assert both.num_outputs == len(both.top_ids) == sum(len(both.output(n)) for n in range(8))
    assert both.top_ids[both.output_starts[5] :].tolist() == second.top_ids.tolist()
    assert not list(tmp_path.glob("*.half"))


def test_what_is_no_corpus_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("no")
    with pytest.raises(CheckpointError, match=r"a\.safetensors: expected a corpus"):
        load_corpus(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="some do not"):
        Corpus.of([Text(np.ones(2), 1), Text(np.ones(2), 1, np.ones((1, 1)), np.ones((1, 1)))])


def test_packing_loses_no_token_and_mixes_no_texts() -> None:
    texts = corpus()
    batch = packed(texts)
    assert (batch.texts >= 0).sum() == len(texts.tokens)
    assert batch.outputs.tolist() == list(range(texts.num_outputs))
    outputs = np.concatenate([texts.output(n) for n in range(len(texts))])
    assert batch.targets.tolist() == VOCABULARY.to_draft(outputs).tolist()
    # What a target's place sees is its text up to there, and nothing else.
    mask, tokens = batch.mask(), batch.tokens
    target = 0
    for number in range(len(texts)):
        text = [*texts.prompt(number), *texts.output(number)]
        for end in range(len(texts.prompt(number)), len(text)):
            row, column = divmod(int(batch.at[target]), tokens.shape[1])
            seen = tokens[row][mask[row, column]]
            assert seen.tolist() == VOCABULARY.to_draft(text[:end]).tolist()
            assert batch.positions[row, column] == end - 1
            target += 1


def test_texts_longer_than_a_row_are_cut_and_rows_are_limited() -> None:
    texts = corpus()
    packer = Packer(texts, VOCABULARY, 6)
    batch, taken = packer.pack(range(12), rows=3)
    assert batch.tokens.shape == (3, 6)
    assert 0 < taken < 12
    sizes = [min(6, int(size)) for size in np.diff(texts.starts)]
    whole = list(packer.batches(range(12), rows=3))
    assert sum(int((b.texts >= 0).sum()) for b in whole) == sum(sizes)


@pytest.mark.parametrize("soft", [0.0, 0.3, 1.0])
def test_loss_is_the_cross_entropy_of_known_tokens_behind_prompts(soft: float) -> None:
    model, texts = tiny_model(1, CONFIG), corpus(top_k=3)
    total = count = 0.0
    for number in range(len(texts)):
        prompt, output = texts.prompt(number), texts.output(number)
        drafts = VOCABULARY.to_draft([*prompt, *output]).tolist()
        # The unknown token has a row, but may not be said.
        logits = plain_forward(model, drafts).logits[len(prompt) - 1 : -1, :39]
        rows = -logits.log_softmax(-1)
        for place, token in enumerate(output):
            at = int(texts.output_starts[number]) + place
            if token % 2 == 0 and token < 78:
                total += (1 - soft) * float(rows[place, token // 2])
                count += 1 - soft
            pairs = zip(texts.top_ids[at].tolist(), texts.top_probs[at].tolist(), strict=True)
            known = [(t, p) for t, p in pairs if t % 2 == 0 and t < 78]
            if whole := sum(p for _, p in known):
                total += soft * sum(float(rows[place, t // 2]) * p / whole for t, p in known)
                count += soft
    loss = loss_of(network_of(model), packed(texts), known=39, soft=soft)
    assert float(loss.detach()) == pytest.approx(total / count, rel=1e-4)


def test_ranks_are_those_of_a_plain_pass() -> None:
    model, texts = tiny_model(1, CONFIG), corpus()
    packer = Packer(texts, VOCABULARY, 16)
    found = ranks_of(network_of(model), packer, range(2, 12), 39, "cpu", rows=2)
    right: list[int] = []
    for number in range(2, 12):
        prompt, output = texts.prompt(number), texts.output(number)
        logits = plain_forward(model, VOCABULARY.to_draft([*prompt, *output]).tolist()).logits
        for row, token in zip(logits[len(prompt) - 1 : -1, :39], output, strict=True):
            known = token % 2 == 0 and token < 78
            right.append(int((row > row[token // 2]).sum()) if known else 39)
    start = int(texts.output_starts[2])
    assert found[:start].tolist() == [-1] * start
    assert found[start:].tolist() == right


def train(path: Path, stops: Sequence[int] = (), config: TrainingConfig = SHORT) -> Trainer:
    """Train to the end, with a new trainer behind each of some steps."""
    texts = corpus(top_k=2)
    packer = Packer(texts, VOCABULARY, config.row_tokens)
    for stop in (*stops, None):
        network = Network(CONFIG)
        init_weights(network, seed=1)
        trainer = Trainer(
            network, packer, range(len(texts)), config, device="cpu", known=39, state=path
        )
        if stop is None:
            assert trainer.run(Budget(), unwatched, "x")
        else:
            assert not trainer.run(StepBudget(stop), unwatched, "x")
    return trainer


class StepBudget(Budget):
    """Spent behind a number of looks at it."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        object.__setattr__(self, "looks", [looks])

    @property
    def is_spent(self) -> bool:
        looks: list[int] = self.looks  # type: ignore[attr-defined]
        looks[0] -= 1
        return looks[0] < 0


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    config = TrainingConfig(
        epochs=60, batch_tokens=64, row_tokens=32, learning_rate=0.01, warmup_steps=3, log_every=1
    )
    losses = [at["loss"] for at in train(tmp_path / "state", config=config).curve]
    assert losses[0] > 3
    assert losses[-1] < losses[0] / 2


def test_a_run_that_was_stopped_goes_through_the_same_losses(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole").curve
    parts = train(tmp_path / "parts", stops=[2, 1, 3]).curve
    assert len(whole) > 6
    assert [at["loss"] for at in parts] == [at["loss"] for at in whole]
    assert [at["tokens"] for at in parts] == [at["tokens"] for at in whole]


def test_seconds_end_a_run(tmp_path: Path) -> None:
    config = TrainingConfig(
        epochs=1e6, seconds=0.3, batch_tokens=64, row_tokens=32, warmup_steps=1, log_every=1
    )
    trainer = train(tmp_path / "state", config=config)
    assert 0.3 <= trainer.seconds < 5
