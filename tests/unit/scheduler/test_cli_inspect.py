from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from unit.models.checkpoint_files import weights, write_folder, write_gguf

from specinfer.scheduler.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny", weights("llama", 320))


@pytest.fixture(autouse=True)
def _reads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECINFER_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("specinfer.scheduler.assembly.load_weights", lambda *_: pytest.fail("read"))
    for checkpoint in ("hf_checkpoint.HuggingFaceCheckpoint", "gguf_checkpoint.GgufCheckpoint"):
        monkeypatch.setattr(f"specinfer.models.{checkpoint}.tensor", lambda *_: pytest.fail("read"))


def inspect(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main(["inspect", *map(str, argv)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_prints_parameters_operators_and_launches(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = inspect(capsys, folder)
    assert max(map(len, out.splitlines())) <= 80
    out = re.sub(r"\n {7}(?=\S)", " ", out)
    assert "parameters of llama" in out
    assert "  kv_heads    2\n" in out
    assert "\n  k: (rows, 32) = linear(h, weight=model.layers.0.self_attn.k_proj.weight" in out
    assert re.search(
        r"^ +10 write_kv\(.*kv=RW llama\.kv\[0:1,.*\) after 0, 7, 9 \(\+ 1 for memory\)$", out, re.M
    )
    assert out.count("… layer 1 alike") == 2
    assert "model.layers.1." not in out


def test_shows_all_layers_if_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = inspect(capsys, folder, "--all")
    assert "alike" not in out
    numbers = [int(n) for n in re.findall(r"^ *(\d+) [a-z_]+\(", out, re.M)]
    assert numbers == list(range(len(numbers)))
    assert f"launches of a decode step: {len(numbers)}\n" in out


def test_shows_one_graph_if_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "launches" not in inspect(capsys, folder, "--graph", "operators")
    assert "operators" not in inspect(capsys, folder, "--graph", "tasks")


def test_shows_ssms_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = inspect(capsys, folder, "--draft", "prefix:1", "--draft", "ngram")
    assert out.count("parameters of llama") == 2
    assert "\nprefix:1\n" in out


def test_a_gguf_file_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", weights("qwen2", 323), arch="qwen2", pre="qwen2")
    assert "linear_bias(" in inspect(capsys, path)


@pytest.mark.parametrize("which", ["operators", "tasks"])
def test_writes_dot(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], which: str
) -> None:
    assert inspect(capsys, folder, "--graph", which, "--dot", tmp_path / "g.dot") == ""
    folded = (tmp_path / "g.dot").read_text()
    assert folded.startswith(f'digraph "llama.{which}" {{\n')
    assert 'label="layer 1 alike"' in folded
    whole = inspect(capsys, folder, "--graph", which, "--dot", "-", "--all")
    assert whole.count("->") > folded.count("->")
    declared = set(re.findall(r"^  (n\d+) \[", whole, re.M))
    assert set(re.findall(r"n\d+", re.sub(r"\[.*\]|\".*\"", "", whole))) == declared


def test_json_holds_every_launch(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (said,) = json.loads(inspect(capsys, folder, "--json"))
    assert said["parameters"]["layers"] == 2
    assert said["weights"]["model.embed_tokens.weight"] == [320, 64]
    for number, launch in enumerate(said["launches"]):
        assert launch["id"] == number
        assert all(earlier < number for earlier in launch["waits_for"])
        assert set(launch["waits_for_memory"]) <= set(launch["waits_for"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["{folder}", "--draft", "prefix:999"], "prefix_layers is 999"),
        (["{folder}", "--dot", "{folder}/none/g.dot"], "g.dot: No such file"),
        (["{folder}/config.json"], "expected an existing .gguf file or folder"),
        (["{folder}", "--graph", "nothing"], "argument --graph: invalid choice"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    code = main(["inspect", *(argument.format(folder=folder) for argument in argv)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("specinfer: error: ")
    assert err.count("\n") == 1
    assert message in err
