from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from unit.models.checkpoint_files import weights, write_folder, write_gguf

from specinfer.scheduler.cli import generate, main
from specinfer.scheduler.cli.prompts import read_prompts
from specinfer.scheduler.errors import RequestError
from specinfer.scheduler.llm import LLM

PROMPT = "Mars is red, Mars is reddish"


class Terminal(io.StringIO):
    """Standard input where a person sits."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny", weights("llama", 320))


@pytest.fixture(scope="module")
def other_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("models") / "other.gguf", weights("llama", 323))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECINFER_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "stdin", Terminal())


def specinfer(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = main.main([str(argument) for argument in argv])
    out, err = capsys.readouterr()
    return code, out, err


def as_json(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    code, out, err = specinfer(capsys, "generate", "--json", *argv)
    assert (code, err) == (0, "")
    return dict(json.loads(out))


def test_writes_the_text_and_nothing_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("--model", folder, "--max-new-tokens", 20, "--ignore-eos", PROMPT)
    result = as_json(capsys, *argv)["results"][0]
    text = result["output_text"] + "\n" * (not result["output_text"].endswith("\n"))
    assert specinfer(capsys, "generate", *argv) == (0, text, "")
    assert len(result["output_tokens"]) == 20
    assert result["finish_reason"] == "length"


def test_speculation_changes_no_token(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("--model", folder, "--max-new-tokens", 24, PROMPT, "Mars is dark.")
    plain = as_json(capsys, "--no-speculation", *argv)
    drafts = ("--draft", "prefix:2", "--draft", "ngram:4", "--expansion", "2,1,1")
    guessed = as_json(capsys, *drafts, *argv)
    assert guessed["results"] == plain["results"]
    assert guessed["stats"]["steps"] < plain["stats"]["steps"]
    assert guessed["drafts"] == [
        {"prefix_layers": 2, "expansion": [2, 1, 1], "nodes": 0, "draws": "auto"},
        {"ngram": 4, "min_match": 2, "corpus": []},
    ]


def test_json_says_what_ran(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = as_json(capsys, "--model", folder, "--max-new-tokens", 2, "--raw", PROMPT)
    llm = LLM(folder)
    assert (said["model"], said["dtype"]) == (str(folder), "float32")
    assert said["results"][0]["prompt"] == PROMPT
    assert said["results"][0]["prompt_tokens"] == llm.tokenizer.encode(PROMPT)
    assert {"tokens_per_step", "tokens_per_second", "seconds"} <= set(said["stats"])


def test_a_prompt_becomes_a_chat_unless_raw(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = as_json(capsys, "--model", folder, "--max-new-tokens", 1, PROMPT)
    chat = LLM(folder).encode([{"role": "user", "content": PROMPT}])
    assert said["results"][0]["prompt_tokens"] == chat


def test_several_prompts_stand_above_their_texts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "Mars " * 30
    argv = ("--model", folder, "--max-new-tokens", 8, "--raw", "one", long)
    results = as_json(capsys, *argv)["results"]
    code, out, err = specinfer(capsys, "generate", *argv)
    assert (code, err) == (0, "")
    head, tail = out.split("\n\n[2/2] ")
    assert head == f"[1/2] one\n{results[0]['output_text'].strip()}"
    assert tail.partition("\n")[0] == long[: generate.MAX_HEAD - 1] + "…"


def test_guessed_tokens_are_green(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("--model", folder, "--max-new-tokens", 16, "--ignore-eos", "--draft", "prefix:2")
    _, coloured, _ = specinfer(capsys, "generate", "--color", "always", *argv, PROMPT)
    _, plain, _ = specinfer(capsys, "generate", "--color", "never", *argv, PROMPT)
    assert "\x1b[32m" in coloured
    assert "\x1b" not in plain
    for code in ("\x1b[32m", "\x1b[4;32m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain


def test_trees_and_tables_go_to_standard_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("--model", folder, "--max-new-tokens", 12, "--ignore-eos", "--draft", "prefix:2")
    _, text, _ = specinfer(capsys, "generate", *argv, PROMPT)
    code, out, err = specinfer(capsys, "generate", *argv, "--show-tree", 2, "--stats", PROMPT)
    assert (code, out) == (0, text)
    assert err.startswith("step 1: ")
    assert "step 2: " in err
    assert "step 3: " not in err
    assert "✓ '" in err
    assert "the LLM's own" in err
    for word in ("each LLM pass yielded", "depth", "speculator", "prefix:2", "prefill", "verify"):
        assert word in err


@pytest.mark.parametrize("num_shown", [0, 2])
def test_trees_are_written_for_graphviz(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, num_shown: int
) -> None:
    path = tmp_path / "trees.dot"
    argv = ("--model", folder, "--max-new-tokens", 20, "--ignore-eos", "--draft", "prefix:1")
    shown = ("--show-tree", num_shown, "--tree-dot", path)
    stats = as_json_and_trees(capsys, *argv, *shown, PROMPT)["stats"]
    text = path.read_text(encoding="utf-8")
    names = [f'digraph "text 1 step {n}" {{' for n in range(1, 1 + (num_shown or stats["steps"]))]
    assert [line for line in text.splitlines() if line.startswith("digraph")] == names
    assert text.count("\n}\n") == len(names)
    if not num_shown:
        accepted = sum(depth["accepted"] for depth in stats["acceptance_by_depth"])
        assert text.count("palegreen") == accepted + stats["steps"]
        num_own = text.count(" -> own [style=dashed];")
        assert text.count(" -> ") == stats["nodes"] + num_own
        # The first token is the prefill's.
        assert accepted + num_own == 20 - 1, "each token that was written is drawn"


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_a_log_is_written_for_the_validator(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], executor: str
) -> None:
    log = tmp_path / "log.jsonl"
    options = ("--executor", executor, "--log", log, "--max-new-tokens", 4)
    assert specinfer(capsys, "generate", "--model", folder, *options, "a a a")[0] == 0
    assert '"launch"' in log.read_text()
    assert specinfer(capsys, "validate", log) == (0, "0 errors, 0 warnings, 0 notes\n", "")


def as_json_and_trees(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    code, out, _ = specinfer(capsys, "generate", "--json", *argv)
    assert code == 0
    return dict(json.loads(out))


def test_trees_of_several_prompts_say_whose_they_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("--model", folder, "--max-new-tokens", 8, "--ignore-eos", "--show-tree", 1)
    _, _, err = specinfer(capsys, "generate", *argv, "one", "two")
    assert "text 1, step 1: " in err
    assert "text 2, step 1: " in err


def test_reads_prompts_from_files_and_standard_input(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = ("--model", folder, "--max-new-tokens", 1)
    (tmp_path / "p.txt").write_text("two\nlines\n")
    lines = ['"one"', "", '{"prompt": "two", "id": 3}', '{"turns": ["three", "four"]}']
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    said = as_json(capsys, *argv, "--file", tmp_path / "p.txt")
    assert [result["prompt"] for result in said["results"]] == ["two\nlines"]
    said = as_json(capsys, *argv, "--file", tmp_path / "p.jsonl")
    assert [result["prompt"] for result in said["results"]] == ["one", "two", "three"]
    for more in ((), ("-",)):
        monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe\n"))
        said = as_json(capsys, *argv, *more)
        assert [result["prompt"] for result in said["results"]] == ["from a pipe"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "p.jsonl:2: not JSON"),
        ("3", "p.jsonl:2: expected a text"),
        ('{"turns": []}', "p.jsonl:2: expected a text"),
        ('{"prompt": 3}', "p.jsonl:2: expected a text"),
        ('" "', "prompt 2: expected some text, found ' '"),
        ('"\\ud800"', "prompt 2: expected UTF-8"),
    ],
)
def test_refuses_lines_that_are_no_prompts(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "p.jsonl").write_text(f'"one"\n{line}\n')
    with pytest.raises(RequestError) as error:
        read_prompts([], tmp_path / "p.jsonl", Terminal())
    assert message in str(error.value)


def test_refuses_prompts_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not both"):
        read_prompts(["one"], tmp_path / "p.txt", Terminal())
    with pytest.raises(RequestError, match="no prompt"):
        read_prompts([], None, Terminal())
    (tmp_path / "p.jsonl").write_text("\n")
    with pytest.raises(RequestError, match="no prompt"):
        read_prompts([], tmp_path / "p.jsonl", Terminal())
    (tmp_path / "p.txt").write_bytes(b"\xff")
    with pytest.raises(RequestError, match="'utf-8' codec"):
        read_prompts([], tmp_path / "p.txt", Terminal())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--set", "batch.rows=3"], "config.batch.rows: unknown key"),
        (["--config", "{tmp}/bad.yaml"], "config.modle: unknown key"),
        (["--draft", "prefix:1", "--expansion", "0"], "--expansion '0'"),
        (["--draft", "prefix:1", "--expansion", "-1"], "--expansion '-1'"),
        (["--draft", "prefix:1", "--expansion", "x"], "--expansion 'x'"),
        (["--draft", "{other}"], "differs from the LLM's of 318"),
        (["--draft", "prefix:999"], "prefix_layers is 999, but the LLM has 2 layers"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0, expected at least 1"),
        (["--max-new-tokens", "many"], "argument --max-new-tokens: invalid int value"),
        (
            ["--max-new-tokens", "120"],
            "120 new ones, expected at most 128 together (batch.max_length)",
        ),
        (["--set", "batch.max_length=200"], "batch.max_length is 200"),
        (["--model", "{tmp}/nothing"], "nothing: expected an existing .gguf file or folder"),
        (["--model", "{tmp}/cut.gguf"], "cut.gguf"),
        (["--draft", "{tmp}/nothing.gguf"], "nothing.gguf: expected an existing"),
        (["--definition", "{tmp}/none.yaml"], "none.yaml"),
        (["--dtype", "int8"], "dtype is 'int8', expected float32 or bfloat16"),
        (["--executor", "gpu"], "executor is 'gpu', expected serial or threads"),
        (["--file", "{tmp}/missing.txt"], "not both"),
        (["--show-tree", "-1"], "--show-tree is -1, expected at least 0"),
        (["--tree-dot", "none/trees.dot"], "--tree-dot none/trees.dot: there is no such folder"),
        (["--no-speculation", "--draft", "ngram"], "not allowed with argument"),
        (["--unheard-of"], "unknown option --unheard-of (see `specinfer generate --help`)"),
    ],
)
def test_bad_input_is_one_line_before_weights_are_read(
    folder: Path,
    other_vocabulary: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("specinfer.scheduler.assembly.load_weights", lambda *_: pytest.fail("read"))
    (tmp_path / "bad.yaml").write_text("modle: x")
    (tmp_path / "cut.gguf").write_bytes(other_vocabulary.read_bytes()[:5000])
    argv = [argument.format(tmp=tmp_path, other=other_vocabulary) for argument in argv]
    few = ("--max-new-tokens", 8)
    code, out, err = specinfer(capsys, "generate", "--model", folder, *few, *argv, PROMPT)
    assert (code, out) == (2, "")
    assert err.startswith("specinfer: error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("argv", [["--file", "{tmp}/missing.txt"], [""], ["Mars " * 200]])
def test_bad_prompts_are_one_line(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
) -> None:
    monkeypatch.setattr("specinfer.scheduler.assembly.load_weights", lambda *_: pytest.fail("read"))
    argv = [argument.format(tmp=tmp_path) for argument in argv]
    code, out, err = specinfer(capsys, "generate", "--model", folder, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("specinfer: error: ")
    assert err.count("\n") == 1


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = specinfer(capsys)
    assert code == 2
    assert err.startswith("specinfer: error: the following arguments are required: COMMAND")


def test_interruptions_and_closed_pipes_are_quiet(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("specinfer.scheduler.cli.options.serving_config", interrupted)
    assert main.main(["generate", "x"]) == 130
    assert capfd.readouterr() == ("", "")


def test_help_is_quick_to_come_and_a_closed_pipe_is_quiet() -> None:
    script = (
        "import sys; from specinfer.scheduler.cli.main import main\n"
        "try: main(['generate', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", script], check=False).returncode == 0
    closed = (
        "import os, sys; from specinfer.scheduler.cli.main import main\n"
        "reading, writing = os.pipe(); os.close(reading); os.dup2(writing, 1)\n"
        "sys.exit(main(['fetch', '--list', '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", closed], capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stderr) == (141, "")
