"""An engine is refused before its weights are read if there is not the memory for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from unit.models.checkpoint_files import weights, write_folder

from specinfer import LLM, SSM, BatchConfig, NGram, PrefixSSM
from specinfer.runtime.errors import ConfigError
from specinfer.runtime.memory import OutOfMemoryError
from specinfer.scheduler import assembly
from specinfer.scheduler.cli.main import main
from specinfer.scheduler.config import Draft, ParallelConfig

STEP = 1024
"""Bytes of what a step finds out, the tokens: not counted before weights are read."""
BATCH = BatchConfig(max_requests=2, max_rows=32, max_length=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny", weights("llama", 320))


@pytest.fixture
def _reads_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "load_weights", lambda *_: pytest.fail("read"))


def used_by(folder: Path, drafts: Sequence[Draft], dtype: str, **given: object) -> int:
    llm = LLM(folder, dtype=dtype)
    llm.compile(ssms=drafts, batch=BATCH, **given)  # type: ignore[arg-type]
    (memory,) = llm._compiled.runtime.memories.values()
    return memory.used


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kinds", ["", "ngram", "prefix", "ssm", "prefix ngram ssm"])
def test_the_least_budget_is_what_is_held(
    folder: Path, kinds: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, Draft] = {
        "ngram": NGram(4),
        "prefix": PrefixSSM(1, (2, 1)),
        "ssm": SSM(str(folder), (1, 1, 1)),
    }
    drafts = [known[kind] for kind in kinds.split()]
    used = used_by(folder, drafts, dtype)
    assert used_by(folder, drafts, dtype, memory={"cpu": used}) == used
    with pytest.raises((OutOfMemoryError, ConfigError)):
        used_by(folder, drafts, dtype, memory={"cpu": used - 1})
    monkeypatch.setattr(assembly, "load_weights", lambda *_: pytest.fail("read"))
    with pytest.raises(ConfigError, match=r"(of .*tiny|prefix:1) asks for .* too few; held: "):
        used_by(folder, drafts, dtype, memory={"cpu": used - STEP})


@pytest.mark.usefixtures("_reads_no_weights")
def test_says_who_takes_too_much_and_what_to_lower(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["batch.max_requests=400", "batch.max_length=64", "memory.cpu=8 MiB"]
    options = [word for value in sets for word in ("--set", value)]
    assert (
        main(["generate", "--raw", "--model", str(folder), *options, "--max-new-tokens", "8", "a"])
        == 2
    )
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"specinfer: error: cpu: K/V pool of .*tiny asks for [\d.]+ MiB, but [\d.]+ MiB of 8\.0 MiB"
        r" are left, [\d.]+ [KM]iB too few; held: weights of .*tiny [\d.]+ KiB; 400 requests of 64 "
        r"tokens with trees of \d+ nodes: would fit with batch\.max_requests=\d+, "
        r"smaller models or trees, or memory\.cpu: \d+ MiB\n",
        said,
    )


def test_what_is_said_to_fit_does_and_nothing_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(budget: int | None = None, **given: int) -> LLM:
        asked = {"max_requests": 8, "max_rows": 64, "max_length": 128} | given
        llm, memory = LLM(folder), {} if budget is None else {"cpu": budget}
        llm.compile(ssms=[PrefixSSM(1, (2, 1))], batch=BatchConfig(**asked), memory=memory)
        return llm

    budget = compiled()._compiled.runtime.memories["cpu"].used * 9 // 10
    with pytest.raises(ConfigError) as raised:
        compiled(budget)
    said = dict(re.findall(r"batch\.(\w+)=(\d+)", str(raised.value)))
    assert list(said) == ["max_requests", "max_length"]
    for name, value in said.items():
        compiled(budget, **{name: int(value)})
        with monkeypatch.context() as patches:
            patches.setattr(assembly, "load_weights", lambda *_: pytest.fail("read"))
            with pytest.raises(ConfigError, match="would fit with"):
                compiled(budget, **{name: int(value) + 1})


@pytest.mark.usefixtures("_reads_no_weights")
def test_says_that_nothing_would_fit_and_how_much_it_takes(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"not even one .* or memory\.cpu: \d+ MiB$") as raised:
        LLM(folder).compile(batch=BATCH, memory={"cpu": "64 KiB"})
    enough = str(raised.value).rpartition(": ")[2]
    with pytest.raises(pytest.fail.Exception, match="read"):
        LLM(folder).compile(batch=BATCH, memory={"cpu": enough})


@pytest.mark.usefixtures("_reads_no_weights")
def test_refuses_a_budget_that_nothing_is_put_into(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"memory\.gpu: nothing is put into it, expected cpu"):
        LLM(folder).compile(batch=BATCH, memory={"gpu": "8 GiB"})


def test_a_mapper_may_have_several_memories(folder: Path, tmp_path: Path) -> None:
    mapper = tmp_path / "mapper.yaml"
    mapper.write_text('memories: {"*.kv": cache}')
    llm = LLM(folder)
    parallel = ParallelConfig(mapper=str(mapper))
    llm.compile(batch=BATCH, parallel=parallel, memory={"cache": "1 MiB"})
    memories = llm._compiled.runtime.memories
    assert [name for name, _ in memories["cache"].holders] == ["llama.kv"]
    assert memories["cpu"].used > memories["cache"].used


@pytest.mark.usefixtures("_reads_no_weights")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("launches: [{task: accept, rank: 1}]", r"launches\[0\]\.rank is 1, but the mesh"),
        ("launches: 3", "launches: expected a list, got 3"),
        ("rules: []", "rules: unknown key"),
        ("[1, 2]", r"expected a mapping, got \[1, 2\]"),
    ],
)
def test_a_mapper_that_cannot_be_used_is_named(
    folder: Path, tmp_path: Path, text: str, message: str
) -> None:
    mapper = tmp_path / "rules.yaml"
    mapper.write_text(text)
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(mapper))}(\.|: ){message}"):
        LLM(folder).compile(batch=BATCH, parallel=ParallelConfig(mapper=str(mapper)))
