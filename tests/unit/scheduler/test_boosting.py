"""Boost-tuning as a whole, on a tiny LLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_models import TinyModel, plain_forward
from unit.models.checkpoint_files import weights
from unit.models.checkpoint_files import write_folder as write_other
from unit.scheduler.boosting import config_of, settings, write_llm, write_prompts

from specinfer.models.checkpoint import open_checkpoint
from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.boost.boosting import Boosting, is_reproduced, tokens_of_steps
from specinfer.scheduler.boost.corpus import load_corpus
from specinfer.scheduler.boost.network import load_network, masked
from specinfer.scheduler.boost.tuning import Tuning
from specinfer.scheduler.boost.watch import Budget
from specinfer.scheduler.cli import main
from specinfer.scheduler.config import SSM, GenerationConfig, SpeculationConfig
from specinfer.scheduler.llm import LLM

LEARNING = {
    "epochs": 40,
    "batch_tokens": 256,
    "row_tokens": 64,
    "learning_rate": 0.01,
    "warmup_steps": 5,
    "log_every": 10,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny LLM and a file of prompts."""
    folder = tmp_path_factory.mktemp("boost")
    return write_llm(folder / "llm"), write_prompts(folder / "prompts.jsonl", 40)


@pytest.fixture(scope="module")
def boosted(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two boosted SSMs."""
    out = tmp_path_factory.mktemp("boosted") / "out"
    data = settings(*files, out, training=LEARNING, boosting={"ssms": 2, "share": 0.9})
    assert Tuning(config_of(data), out.parent, dtype=torch.float32).run(Budget())
    return out


# The state


def test_marked_prompts_leave_the_pool_for_good() -> None:
    state = Boosting(4).learned([False, True, False, False])
    assert state.pool == [0, 2, 3]
    state = state.learned([True, False, False])
    assert state.pool == [2, 3]
    assert state.marked == ((1,), (0,))
    with pytest.raises(ValueError, match="argument"):
        state.learned([True])


def test_a_share_of_the_marked_prompts_may_stay() -> None:
    state = Boosting(100).learned(np.arange(100) < 60)
    assert state.lesson(0.0, seed=0) == list(range(60, 100))
    kept = state.lesson(0.5, seed=0)
    assert len(kept) == 70
    assert kept == state.lesson(0.5, seed=0)
    assert {*range(60, 100)} <= {*kept}
    assert state.lesson(1.0, seed=0) == list(range(100))


def test_an_empty_output_is_reproduced() -> None:
    assert is_reproduced(np.zeros(0, np.int32), 0, 1.0)


def test_merged_trees_accept_what_the_best_of_them_does() -> None:
    first = np.array([5, 0, 0, 9, 9, 9, 0], np.int32)
    second = np.array([5, 9, 9, 9, 0, 0, 9], np.int32)
    chain = (1, 1, 1)
    assert tokens_of_steps([first], [chain]) == [3, 1, 1, 1]
    assert tokens_of_steps([first, second], [chain, chain]) == [3, 3]


# The whole


def test_ssms_raise_tokens_per_step_and_two_at_least_as_much_as_one(
    files: tuple[Path, Path], boosted: Path
) -> None:
    """What the engine counts is what reading along foretold."""
    report = json.loads((boosted / "report.json").read_text())
    train = load_corpus(*sorted((boosted / "written" / "train").glob("*.safetensors")))
    prompts = [train.prompt(number).tolist() for number in range(len(train))]
    outputs = [train.output(number).tolist() for number in range(len(train))]
    found = []
    for number in (0, 1, 2):
        llm = LLM(files[0])
        ssms = [SSM(str(boosted / f"ssm-{n + 1}"), (1,) * 8) for n in range(number)]
        whole = SpeculationConfig(adaptive=False)
        llm.compile(GenerationConfig(max_new_tokens=16), ssms=ssms, speculation=whole)
        results = llm.generate(prompts)
        assert isinstance(results, list)
        assert [result.output_tokens for result in results] == outputs
        found.append(llm.stats.tokens_per_step)
    plain, one, two = found
    assert plain == 1
    assert one > 2
    assert two > one
    assert found[1:] == pytest.approx(report["measured"]["train"]["chain"]["merged"], rel=0.02)


def test_the_engine_computes_what_the_trained_network_does(boosted: Path) -> None:
    checkpoint = open_checkpoint(boosted / "ssm-1")
    assert checkpoint.draft_vocabulary is not None
    names = checkpoint.names()
    model = TinyModel(
        dict(checkpoint.config), {name: checkpoint.tensor(name, torch.float32) for name in names}
    )
    assert set(model.program().weights) == names
    tokens = [3, 1, 4, 1, 5, 9]
    network = load_network(checkpoint, torch.float32, "cpu")
    hidden = network(torch.tensor([tokens]), torch.arange(6)[None], masked(None))[0]
    right = plain_forward(model, tokens).logits
    torch.testing.assert_close((hidden @ network.table.T).double(), right, rtol=1e-4, atol=1e-4)


def test_the_second_ssm_learns_what_the_first_did_not(boosted: Path) -> None:
    report = json.loads((boosted / "report.json").read_text())
    assert report["marked"][0] > 0
    assert sum(report["marked"]) + report["left"] == report["sets"]["train"]["texts"] == 32
    assert (boosted / "loss.json").is_file()
    assert {path.name for path in (boosted / "ssm-2").iterdir()} == {
        "config.json",
        "draft_vocabulary.json",
        "model.safetensors",
    }


def test_a_tuning_that_is_stopped_everywhere_comes_to_the_same(
    files: tuple[Path, Path], boosted: Path, tmp_path: Path
) -> None:
    data = settings(*files, tmp_path / "out", training=LEARNING)
    data["boosting"] = {"ssms": 2, "share": 0.9}
    is_done, runs = False, 0
    while not is_done:
        tuning = Tuning(config_of(data), tmp_path, dtype=torch.float32)
        is_done = tuning.run(Budget(0.25))
        runs += 1
        assert runs < 200
    assert runs > 2
    for name in ("ssm-1", "ssm-2"):
        whole, parts = (open_checkpoint(folder / name) for folder in (boosted, tmp_path / "out"))
        for tensor in whole.names():
            assert parts.tensor(tensor, torch.float32).equal(whole.tensor(tensor, torch.float32))


def test_the_engine_writes_what_plain_torch_writes(
    files: tuple[Path, Path], boosted: Path, tmp_path: Path
) -> None:
    data = settings(*files, tmp_path / "out")
    data["writing"] = {"writer": "engine", "max_new_tokens": 16, "batch": 16}
    assert Tuning(config_of(data), tmp_path).run(Budget(), until="writing")
    name = Path("written", "train", "00000.safetensors")
    engine, plain = load_corpus(tmp_path / "out" / name), load_corpus(boosted / name)
    assert engine.tokens.tolist() == plain.tokens.tolist()
    assert engine.numbers.tolist() == plain.numbers.tolist()


def test_text_and_a_larger_models_embeddings_come_first(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "a.py").write_text("x = 1\ny = x + 1\n" * 40)
    data = settings(*files, tmp_path / "out", text_tokens=1000)
    data["prompts"] |= {"sources": [str(tmp_path / "sources")]}
    data["network"] |= {"embeddings": str(files[0])}
    data["base"] = data["training"] | {"epochs": 2}
    assert Tuning(config_of(data), tmp_path).run(Budget(), until="base")
    assert [*json.loads((tmp_path / "out" / "loss.json").read_text())] == ["base"]
    data["network"] |= {"hidden": 64, "heads": 2}
    data["out"] = str(tmp_path / "wide")
    with pytest.raises(ConfigError, match="at least 64 features, found 32"):
        Tuning(config_of(data), tmp_path).run(Budget())


# The command


def command(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main.main([str(argument) for argument in ("boost", *argv)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def config(files: tuple[Path, Path], tmp_path: Path) -> Path:
    path = tmp_path / "boost.yaml"
    data: dict[str, Any] = settings(*files, tmp_path / "out")
    data["training"] |= {"epochs": 1}
    path.write_text(yaml.safe_dump(data))
    return path


def test_the_command_goes_on_where_it_stopped(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(capsys, config, "--until", "writing", "--json")
    assert code == 0
    assert json.loads(out)["sets"]["train"]["texts"] == 32
    assert json.loads(out)["ssms"] == []
    assert "writing train" in err
    code, out, err = command(capsys, config)
    assert (code, out) == (2, "")
    assert "--resume" in err
    code, out, err = command(capsys, config, "--resume", "--quiet")
    assert (code, err) == (0, "")
    assert "out/ssm-2" in out.replace("\n", "")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--set", "training.epochs=0"], "more than 0"),
        (["--set", "network.heads=3"], "hidden is 32"),
        (["--set", "network.vocabulary=5000"], "expected at most"),
        (["--set", "nothing=1"], "unknown key"),
        (["--set", "llm=nowhere/"], "nowhere/"),
        (["--set", "prompts.files=[]"], "none of them"),
        (["--set", "prompts.files=[/nowhere.jsonl]"], "/nowhere.jsonl: No such file"),
        (["--set", "evaluation.held_out=1000"], "held_out"),
        (["--set", "evaluation.expansion=[0]"], "widths"),
        (["--set", "out=/dev/null/x"], "/dev/null/x"),
        (["--until", "dinner"], "--until dinner"),
        (["--seconds", "-1"], "--seconds"),
    ],
)
def test_bad_input_is_one_line(
    config: Path, argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(capsys, config, "--quiet", *argv)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_an_ssm_of_another_llm_is_refused(boosted: Path, tmp_path: Path) -> None:
    folder = write_other(tmp_path / "other", weights("llama", 320))
    tokens = json.loads((folder / "tokenizer.json").read_text())
    tokens["added_tokens"][0]["content"] = "<other>"
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    llm = LLM(folder)
    with pytest.raises(ConfigError, match="another tokenizer"):
        llm.compile(ssms=[SSM(str(boosted / "ssm-1"))])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_does_all_of_it(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "a.py").write_text("x = 1\ny = x + 1\n" * 400)
    boosting = {"ssms": 2, "share": 0.9}
    data = settings(
        *files, tmp_path / "out", training=LEARNING, boosting=boosting, text_tokens=1000
    )
    data["prompts"] |= {"sources": [str(tmp_path / "sources")]}
    data["network"] |= {"embeddings": str(files[0])}
    data["base"] = data["training"] | {"epochs": 2}
    is_done = False
    while not is_done:
        tuning = Tuning(config_of(data), tmp_path, device="cuda")
        is_done = tuning.run(Budget(1.0))
    measured = tuning.report()["measured"]["train"]
    assert measured["top1"][0] > 0.5
    assert measured["chain"]["merged"][1] > measured["chain"]["merged"][0] > 2
