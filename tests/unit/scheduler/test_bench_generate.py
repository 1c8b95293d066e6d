"""What ``specinfer bench generate`` times, and what it says of the texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.models.checkpoint_files import weights, write_folder

from specinfer.models.checkpoint import open_checkpoint
from specinfer.models.draft_vocabulary import DraftVocabulary
from specinfer.scheduler.bench import against_transformers
from specinfer.scheduler.bench.ceilings import measure_ceilings
from specinfer.scheduler.bench.generate import (
    ADAPTIVE,
    PLAIN,
    Prompt,
    Ways,
    Written,
    make_writers,
    measure_texts,
    usable,
)
from specinfer.scheduler.bench.loading import Place
from specinfer.scheduler.bench.planted import head, load_planted, prompts, successors
from specinfer.scheduler.bench.shapes import config_of
from specinfer.scheduler.cli.main import BAD_INPUT, main
from specinfer.scheduler.errors import RequestError

FLOAT = torch.float32


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    """Random models are the same each time: how often they agree is asked."""
    torch.manual_seed(5)


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measure_ceilings.__globals__["BYTES"], "cpu", 1 << 16)
    monkeypatch.setitem(measure_ceilings.__globals__["SIDES"], "cpu", 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small"
    return write_folder(path, weights("qwen2", 320), model_type="qwen2")


class Said:
    """A writer of texts that are known, in times that are."""

    def __init__(self, texts: dict[int, list[int]], seconds: Sequence[float], steps: int) -> None:
        self.texts = texts
        self.seconds = list(seconds)
        self.steps = steps
        self.calls: list[int] = []

    def write(self, prompts: Sequence[Prompt]) -> Written:
        self.calls.append(len(prompts))
        found = [self.texts[prompt[0]] for prompt in prompts]
        tokens = sum(len(text) - 1 for text in found)
        return Written(found, tokens, self.seconds.pop(0), self.steps, tokens)


def test_speeds_are_those_of_the_rounds_that_count() -> None:
    texts = {1: [5, 6, 7], 2: [5, 6, 7, 8], 3: [9, 9]}  # 2, 3 and 1 tokens behind the first
    wrong = texts | {3: [9, 8]}
    plain = Said(texts, [9, 9, 2, 1, 4, 2], steps=3)  # two groups, three rounds
    tree = Said(wrong, [9, 9, 1, 0.5, 0.5, 0.25], steps=1)
    told: list[tuple[int, int]] = []
    rows = measure_texts(
        "llm",
        {PLAIN: plain, "tree": tree},
        [[1], [2], [3]],
        2,
        warm=1,
        repeats=2,
        tell=lambda _, done, total: told.append((done, total)),
    )
    first, second = rows
    assert (first.name, first.unit) == ("llm/2/plain", "tokens/s")
    assert plain.calls == tree.calls == 3 * [2, 1]
    assert told[-1] == (12, 12)
    assert first.value == pytest.approx((6 / 3 + 6 / 6) / 2)
    assert second.value == pytest.approx((6 / 1.5 + 6 / 0.75) / 2)
    # Round by round 2 and 8 times as fast; 6 tokens in 2 steps.
    assert second.against == {
        "over plain": pytest.approx(5.0),
        "tokens per step": pytest.approx(3.0),
        "efficiency": pytest.approx(5 / 3),
        "texts as plain": 2,
        "texts": 3,
    }
    assert first.against["texts as plain"] == 3


def test_of_many_groups_of_prompts_the_first_are_written() -> None:
    writer = Said({n: [5, 6] for n in range(9)}, [1.0] * 2, steps=1)
    rows = measure_texts(
        "llm", {PLAIN: writer}, [[n] for n in range(9)], 2, warm=0, repeats=1, most=2
    )
    assert [row.against["texts"] for row in rows] == [4]
    assert writer.calls == [2, 2]


def test_texts_without_a_second_token_are_refused() -> None:
    writer = Said({1: [5]}, [1.0], steps=0)
    with pytest.raises(RequestError, match="end with their first token"):
        list(measure_texts("llm", {PLAIN: writer}, [[1]], 1, warm=0, repeats=1))


def test_what_does_not_work_here_is_told() -> None:
    class Broken:
        def write(self, prompts: Sequence[Prompt]) -> Written:
            raise OSError("no\ncompiler")

    good = Said({1: [5, 6]}, [1.0], steps=1)
    found, refused = usable({"good": lambda: good, "broken": Broken}, [[1]])
    assert found == {"good": good}
    assert refused == {"broken": "OSError: no compiler"}


def test_a_planted_successor_has_the_rank_that_was_asked_for() -> None:
    vocabulary, shares = 256, (0.5, 0.2, 0.1)
    matrix = head(torch.eye(vocabulary), shares)
    order = successors(vocabulary)
    assert sorted(order.tolist()) == list(range(vocabulary))
    by_rank = matrix.T.argsort(dim=1, descending=True)  # a token is its own embedding
    ranks = [by_rank[token].tolist().index(int(order[token])) for token in range(vocabulary)]
    for rank, share in enumerate(shares):
        assert ranks.count(rank) / vocabulary == pytest.approx(share, abs=0.08)


def test_planted_models_agree_as_often_as_they_should() -> None:
    place = Place.new("cpu", FLOAT)
    llm, ssm = load_planted("tiny", place, (1.0,)), load_planted("tiny", place, (1.0,))
    ways = Ways([(1, 1, 1)], 4, requests=2, length=132, max_new_tokens=32, eos_ids=())
    writers = make_writers(llm, ssm, ways)
    assert list(writers) == [PLAIN, "sequence of 3", "n-grams", ADAPTIVE]
    texts = prompts(2, config_of("tiny")["vocab_size"])
    rows = list(measure_texts("tiny", writers, texts, 2, warm=0, repeats=1))
    assert [row.against["texts as plain"] for row in rows] == [2] * 4
    assert rows[0].against["tokens per step"] == 1.0
    # Of three guesses some are lost at the end of the texts, and where embeddings are alike.
    assert rows[1].against["tokens per step"] > 1.5


# The command


def generate(capsys: pytest.CaptureFixture[str], *argv: object) -> list[dict[str, Any]]:
    code = main(["bench", "generate", "--json", "--repeats", "1", "--warm", "0", *map(str, argv)])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return [row for row in json.loads(out)["rows"] if row["unit"] == "tokens/s"]


def test_all_ways_write_the_same_text(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    argv = ("--llm", folder, "--ssm", folder, "--tree", "1,1", "--tree", "2,1", "--ngram", 4)
    sizes = ("--max-new-tokens", 8, "--requests", "1,2", "--ignore-eos", "--raw", "--prompts", 2)
    rows = generate(capsys, *argv, *sizes)
    modes = [PLAIN, "sequence of 2", "tree of 4 <2,1>", "n-grams", ADAPTIVE]
    assert [row["name"] for row in rows] == [f"small/{n}/{mode}" for n in (1, 2) for mode in modes]
    assert all(row["against"]["texts as plain"] == row["against"]["texts"] == 2 for row in rows)
    # It agrees with itself: 7 tokens behind the first, 3 in a step.
    assert rows[1]["against"]["tokens per step"] == pytest.approx(7 / 3)


@pytest.fixture
def knows_few(folder: Path, tmp_path: Path) -> Path:
    """The LLM itself, without three tokens, so that all others have other numbers."""
    knows, reduced = list(range(3, 320)), weights("qwen2", 320)
    for name, weight in reduced.items():
        if len(weight) == 320:
            reduced[name] = torch.cat([weight[knows], torch.zeros(1, weight.shape[1])])
    ssm = write_folder(tmp_path / "ssm", reduced, model_type="qwen2")
    digest = open_checkpoint(folder).tokenizer().vocabulary_digest
    DraftVocabulary(knows, digest).save(ssm)
    return ssm


def test_an_ssm_may_know_few_of_the_tokens(
    capsys: pytest.CaptureFixture[str], folder: Path, knows_few: Path
) -> None:
    argv = ("--llm", folder, "--ssm", knows_few, "--tree", "1,1", "--max-new-tokens", 8)
    rows = generate(capsys, *argv, "--ignore-eos", "--raw", "--prompts", 2)
    assert rows[1]["against"]["texts as plain"] == 2
    assert rows[1]["against"]["tokens per step"] > 1.5  # 3, but that the LLM says others, too


def test_more_layers_have_a_name(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('"Mars is red"\n"the tree"\n')
    argv = ("--llm", folder, "--pad-layers", 2, "--max-new-tokens", 6, "--ignore-eos")
    rows = generate(capsys, *argv, "--file", file)
    assert [row["name"] for row in rows] == [f"small + 2 layers/1/{m}" for m in (PLAIN, "n-grams")]
    assert [row["against"]["texts as plain"] for row in rows] == [2, 2]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_transformers_writes_the_same_with_the_same_weights(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str
) -> None:
    pytest.importorskip("transformers")
    model = write_folder(tmp_path / "model", weights(kind, 320), model_type=kind)
    argv = ("--llm", model, "--ssm", model, "--tree", "1,1", "--against", "transformers")
    sizes = ("--max-new-tokens", 8, "--pad-layers", 1, "--prompts", 2, "--ignore-eos", "--raw")
    rows = generate(capsys, *argv, *sizes)
    modes = [row["name"].partition("/1/")[2] for row in rows]
    assert modes == [
        PLAIN,
        "sequence of 2",
        ADAPTIVE,
        "transformers",
        "transformers, static cache",
        "transformers, prompt lookup",
        "transformers, assisted",
    ]
    assert all(row["against"]["texts as plain"] == 2 for row in rows)
    assert all(row["value"] > 0 for row in rows)


def test_an_ssm_with_a_vocabulary_of_its_own_does_not_assist_transformers(
    capsys: pytest.CaptureFixture[str], folder: Path, knows_few: Path
) -> None:
    pytest.importorskip("transformers")
    argv = ("--llm", folder, "--ssm", knows_few, "--tree", "1,1", "--against", "transformers")
    sizes = ("--max-new-tokens", "8", "--prompts", "1", "--raw", "--repeats", "1", "--warm", "0")
    assert main(["bench", "generate", "--json", *map(str, argv), *sizes]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "transformers, assisted: does not work here: "
        "ConfigError: the SSM has a vocabulary of its own, expected the LLM's"
    ]
    assert "assisted" not in out
    assert "prompt lookup" in out


def test_a_network_has_no_weights_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    place = Place.new("cpu", FLOAT)
    model = load_planted("tiny", place, (1.0,))
    network = against_transformers.network_of(config_of("tiny"), model.tensors)
    given = {tensor.data_ptr() for tensor in model.tensors.values()}
    assert {parameter.data_ptr() for parameter in network.parameters()} == given


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--llm", "tiny", "--ssm", "smollm2-135m"), "expected two models of random weights"),
        (("--llm", "tiny", "--file", "x"), "--file: is for real models"),
        (("--llm", "tiny", "--pad-layers", "2"), "--pad-layers: is for real models"),
        (("--llm", "tiny", "--shares", "0.9,0.3"), "at most 1 together"),
        (("--llm", "tiny", "--shares", "much"), "expected shares"),
        (("--shares", "0.5"), "are for models of random weights"),
        (("--llm", "tiny", "--ssm", "llama-68m"), "has 32000 tokens, expected 512, as tiny has"),
        (("--llm", "tiny", "--tree", "1,1"), "expected --ssm, too"),
        (("--llm", "tiny", "--tree", "1,0"), "found '0'"),
        (("--prompts", "0"), "--prompts is 0, expected at least 1"),
        (("--max-new-tokens", "1"), "--max-new-tokens is 1, expected at least 2"),
        (("--llm", "tiny", "--max-new-tokens", "200000"), "expected shorter prompts"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], said: str
) -> None:
    assert main(["bench", "generate", *argv]) == BAD_INPUT
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1


def test_rows_of_transformers_end_where_their_texts_do() -> None:
    pytest.importorskip("transformers")

    class Network:
        device = torch.device("cpu")

        def generate(self, ids: torch.Tensor, **given: Any) -> torch.Tensor:
            assert given["attention_mask"].tolist() == [[0, 1], [1, 1]]
            assert given["generation_config"].eos_token_id == [2]
            written = torch.tensor([[7, 8, 2, 2], [7, 2, 2, 2]])
            for length in (2, 4):  # two tokens at once
                rows = torch.cat([ids, written[:, :length]], 1)
                for criterion in given["stopping_criteria"]:
                    assert criterion(rows, None).tolist() == [False, False]
            return torch.cat([ids, written], 1)

    written = against_transformers.TransformersWriter(Network(), 4, {2}).write([[5], [5, 6]])
    assert written.texts == [[7, 8, 2], [7, 2]]
    assert written.tokens == 1  # what was there before the clock does not count
    assert written.seconds > 0


def test_other_software_that_is_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(against_transformers, "find_spec", lambda _: None)
    argv = ["bench", "generate", "--llm", "tiny", "--against", "transformers"]
    assert main(argv) == BAD_INPUT
    assert "it is not installed; expected `pip install" in capsys.readouterr().err


def test_memory_that_a_card_has_not_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("specinfer.scheduler.bench.ceilings.torch.ones", full)
    assert main(["bench", "step"]) == BAD_INPUT
    assert "cpu has not the memory: CUDA out of memory; expected" in capsys.readouterr().err
