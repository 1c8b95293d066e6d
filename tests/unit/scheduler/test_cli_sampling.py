"""Sampling and stopping from the command line, on a tiny model in a folder."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from unit.models.checkpoint_files import train_backend, weights, write_folder

from specinfer.models.tokenizer import Tokenizer
from specinfer.scheduler.cli import main
from specinfer.scheduler.cli.stream import StreamedText
from specinfer.scheduler.sampling.seeds import seed_of_copy

Result = dict[str, Any]
SAMPLED = ("--temperature", 2, "--max-new-tokens", 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny", weights("llama", 320))


class Specinfer:
    """``specinfer generate`` with the tiny model."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._folder, self._capsys = folder, capsys

    def run(self, *argv: object, code: int = 0) -> tuple[str, str]:
        all_of = ["generate", "--model", self._folder, "--ignore-eos", "--raw", *argv]
        assert main.main([str(argument) for argument in all_of]) == code
        return self._capsys.readouterr()

    def results(self, *argv: object) -> list[Result]:
        return list(json.loads(self.run("--json", *argv)[0])["results"])


@pytest.fixture
def specinfer(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Specinfer:
    monkeypatch.setenv("SPECINFER_HOME", str(tmp_path / "cache"))
    return Specinfer(folder, capsys)


def test_a_seed_gives_the_same_text_and_another_one_another(specinfer: Specinfer) -> None:
    first, again, other = (
        specinfer.results(*SAMPLED, "--seed", seed, "Mars")[0] for seed in (7, 7, 8)
    )
    assert first == again
    assert first["seed"] == 7
    assert first["output_tokens"] != other["output_tokens"]


def test_a_seed_that_was_drawn_is_told_and_gives_the_text_again(specinfer: Specinfer) -> None:
    (drawn,) = specinfer.results(*SAMPLED, "Mars")
    assert specinfer.results(*SAMPLED, "--seed", drawn["seed"], "Mars") == [drawn]
    out, err = specinfer.run(*SAMPLED, "Mars")
    told = re.fullmatch(r"seed (\d+)\n", err)
    assert told
    assert specinfer.run(*SAMPLED, "--seed", told[1], "Mars") == (out, "")


def test_each_copy_has_a_seed_of_its_own_that_gives_it_again(specinfer: Specinfer) -> None:
    results = specinfer.results(*SAMPLED, "-n", 3, "--seed", 7, "Mars", "red")
    assert [result["prompt"] for result in results] == ["Mars"] * 3 + ["red"] * 3
    assert [result["seed"] for result in results] == [seed_of_copy(7, n) for n in range(3)] * 2
    assert len({tuple(result["output_tokens"]) for result in results[:3]}) == 3
    for result in results[1], results[4]:
        again = specinfer.results(*SAMPLED, "--seed", result["seed"], result["prompt"])
        assert again == [result]


def test_copies_stand_below_their_prompt_and_seed(specinfer: Specinfer) -> None:
    out, _ = specinfer.run(*SAMPLED, "-n", 2, "--seed", 7, "Mars")
    assert out.startswith("[1/1, text 1 of 2, seed 7] Mars\n")
    assert f"[1/1, text 2 of 2, seed {seed_of_copy(7, 1)}] Mars\n" in out


def test_a_stop_string_ends_the_text_and_is_not_shown(specinfer: Specinfer) -> None:
    argv = ("--max-new-tokens", 30, "--logit-bias", "2=-inf", "Mars is red")
    (whole,) = specinfer.results(*argv)
    text = whole["output_text"]
    stop = text[len(text) // 2 :][:3]
    (cut,) = specinfer.results("--stop", stop, "--stop", "nowhere", *argv)
    assert cut["output_text"] == text[: text.index(stop)]
    assert cut["finish_reason"] == "stop"
    tokens = cut["output_tokens"]
    assert tokens == whole["output_tokens"][: len(tokens)]
    shown, _ = specinfer.run("--stop", stop, *argv)
    assert shown.removesuffix("\n") == cut["output_text"].removesuffix("\n")


def test_a_stop_token_ends_the_text_once_enough_is_written(specinfer: Specinfer) -> None:
    argv = ("--max-new-tokens", 12, "Mars is red")
    (whole,) = specinfer.results(*argv)
    token = whole["output_tokens"][3]
    (cut,) = specinfer.results("--stop-token-ids", f"{token},2", *argv)
    place = whole["output_tokens"].index(token)
    assert cut["output_tokens"] == whole["output_tokens"][: place + 1]
    assert cut["finish_reason"] == "stop"
    (later,) = specinfer.results("--stop-token-ids", token, "--min-new-tokens", 8, *argv)
    assert token not in later["output_tokens"][:8]


def test_biases_and_bad_words_change_the_text(specinfer: Specinfer) -> None:
    argv = ("--max-new-tokens", 6, "Mars is red")
    (result,) = specinfer.results("--logit-bias", "9=1e9", "--logit-bias", "8=-inf", *argv)
    assert result["output_tokens"] == [9] * 6
    (other,) = specinfer.results("--bad-word", "zzz", *argv)
    assert other == specinfer.results(*argv)[0]
    (first,) = specinfer.results(*argv)
    banned = first["output_tokens"][0]
    (last,) = specinfer.results("--logit-bias", f"{banned}=-inf", *argv)
    assert banned not in last["output_tokens"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--temperature", "-1"), "config.generation: temperature is -1.0, expected at least 0"),
        (("--top-p", "0"), "config.generation: top_p is 0.0, expected above 0 and at most 1"),
        (("-n", "2"), "config.generation: n is 2 at temperature 0, where all texts are the same"),
        (("--stop", ""), "config.generation: stop is ('',), expected texts, none of them empty"),
        (("--logprobs", "-1"), "config.generation: logprobs is -1, expected at least 0"),
        (("--logit-bias", "x=1"), "argument --logit-bias: 'x=1', expected TOKEN=VALUE, such as"),
        (("--logit-bias", "3"), "argument --logit-bias: '3', expected TOKEN=VALUE"),
        (("--logit-bias", "3=inf"), "logit_bias of token 3 is inf, expected a finite number or"),
        (("--logit-bias", "99999=1"), "prompt 1: sampling: token 99999, expected 0 to"),
        (("--stop-token-ids", "1,b"), "argument --stop-token-ids: '1,b', expected token ids with"),
        (("--stop-token-ids", "99999"), "prompt 1: stop: token 99999, expected 0 to"),
        (
            ("--min-new-tokens", "9", "--max-new-tokens", "8"),
            "min_new_tokens is 9, expected at most max_new_tokens, which is 8",
        ),
    ],
)
def test_what_cannot_be_is_one_line(specinfer: Specinfer, argv: tuple[str, ...], said: str) -> None:
    out, err = specinfer.run(*argv, "Mars", code=2)
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_a_stream_shows_nothing_that_is_not_sure() -> None:
    tokenizer = Tokenizer(train_backend(), eos_ids=[2])
    tokens = tokenizer.encode("Mars is red")
    out = io.StringIO()
    stream = StreamedText(tokenizer, out, is_coloured=True)
    stream.add(tokens, 1, 2)
    stream.flush()
    plain = re.sub("\x1b\\[[0-9;]*m", "", out.getvalue())
    assert plain == "Ma"
    stream.finish(6)
    assert re.sub("\x1b\\[[0-9;]*m", "", out.getvalue()) == "Mars i\n"
