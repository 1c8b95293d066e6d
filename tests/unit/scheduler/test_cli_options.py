from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from specinfer.runtime.errors import ConfigError
from specinfer.runtime.memory import budgets_from
from specinfer.scheduler.cli import draft_options, options
from specinfer.scheduler.config import (
    SSM,
    BatchConfig,
    GenerationConfig,
    NGram,
    Plugin,
    PrefixSSM,
    ServingConfig,
)

SAMPLE = Path(__file__).parents[3] / "examples" / "serving.yaml"


def configure(*argv: str) -> ServingConfig:
    parser = argparse.ArgumentParser(exit_on_error=False)
    options.add_model_options(parser)
    draft_options.add_draft_options(parser)
    options.add_generation_options(parser)
    options.add_configuration_options(parser)
    return options.serving_config(parser.parse_args(argv))


def yaml_file(folder: Path, text: str) -> str:
    path = folder / "serving.yaml"
    path.write_text(text)
    return str(path)


def test_without_options_everything_is_the_default() -> None:
    assert configure() == ServingConfig()


def test_flags_stand_where_they_belong() -> None:
    argv = "--model m --definition d.yaml --dtype bfloat16 --executor threads --max-new-tokens 7"
    assert configure(*argv.split(), "--ignore-eos", "--max-requests", "3") == ServingConfig(
        model="m",
        definition="d.yaml",
        dtype="bfloat16",
        executor="threads",
        batch=BatchConfig(max_requests=3),
        generation=GenerationConfig(max_new_tokens=7, ignore_eos=True),
    )


def test_drafts_of_flags_replace_the_default_ones() -> None:
    argv = "--draft ngram --draft ngram:8 --draft prefix:4 --draft some/model --expansion 2,1"
    assert configure(*argv.split()).drafts == (
        NGram(),
        NGram(8),
        PrefixSSM(4, (2, 1)),
        SSM("some/model", (2, 1)),
    )
    assert configure("--draft", "tiny").drafts == (SSM("tiny"),)
    assert configure("--no-speculation").drafts == ()


def test_a_corpus_is_searched_by_n_grams() -> None:
    assert configure("--corpus", "a.txt").drafts == (NGram(corpus=("a.txt",)),)
    argv = "--draft prefix:2 --draft ngram:8 --corpus a.txt --corpus b.jsonl"
    assert configure(*argv.split()).drafts == (
        PrefixSSM(2),
        NGram(8, corpus=("a.txt", "b.jsonl")),
    )


def test_a_draft_may_be_a_class_of_the_user() -> None:
    assert configure("--draft", "python:a.b:C").drafts == (Plugin("a.b:C"),)
    config = configure("--set", "drafts=[{plugin: 'a.b:C', options: {size: 3}}]")
    assert config.drafts == (Plugin("a.b:C", {"size": 3}),)
    with pytest.raises(ConfigError, match=r"drafts\[0\]: options is 3, expected a mapping by name"):
        configure("--set", "drafts=[{plugin: 'a.b:C', options: 3}]")


@pytest.mark.parametrize("argv", ["--draft prefix:2", "--no-speculation"])
def test_refuses_a_corpus_that_nothing_searches(argv: str) -> None:
    with pytest.raises(ConfigError, match=r"--corpus: is searched by `--draft ngram`"):
        configure(*argv.split(), "--corpus", "a.txt")


def test_a_planted_speculator_is_for_benchmarks() -> None:
    with pytest.raises(ConfigError, match="--draft planted: is for benchmarks"):
        configure("--draft", "planted")


def test_file_flags_and_set_come_in_this_order(tmp_path: Path) -> None:
    file = yaml_file(
        tmp_path,
        "model: file\ndtype: bfloat16\nbatch: {max_rows: 5, max_requests: 5, max_length: 5}",
    )
    config = configure(
        *("--config", file, "--model", "flag", "--max-requests", "6"),
        *("--set", "batch.max_requests=7", "--set", "batch.max_length=8"),
    )
    assert (config.model, config.dtype) == ("flag", "bfloat16")
    assert config.batch == BatchConfig(max_rows=5, max_requests=7, max_length=8)


def test_set_takes_whole_values() -> None:
    config = configure("--set", "drafts=[{ngram: 8}, {prefix_layers: 2}]", "--draft", "ngram:3")
    assert config.drafts == (NGram(8), PrefixSSM(2))
    assert configure("--set", "definition=a=b").definition == "a=b"


@pytest.mark.parametrize(
    ("text", "budget"), [("8 GiB", 8 << 30), ("1000", 1000), ("null", None), ("'2 kB'", 2000)]
)
def test_set_takes_sizes_of_memories(text: str, budget: int | None) -> None:
    assert budgets_from(configure("--set", f"memory.cpu={text}").memory) == {"cpu": budget}


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert configure("--config", yaml_file(tmp_path, "# nothing\n")) == ServingConfig()


def test_the_sample_configuration_is_read() -> None:
    config = configure("--config", str(SAMPLE), "--max-new-tokens", "9")
    assert config.drafts == (SSM("qwen2.5-coder-0.5b", (1, 1, 3, 1, 1)), NGram(8, 2))
    assert config.generation.max_new_tokens == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch: {max_row: 3}", "serving.yaml: config.batch.max_row: unknown key"),
        ("model: x\nbatch: [", "serving.yaml, line 2: not YAML"),
        ("model: x\n\tdtype: y", "serving.yaml, line 2: not YAML"),
        ("[1, 2]", "serving.yaml: config: expected a mapping"),
        ("model: 3", "serving.yaml: config.model: expected str, got 3"),
        ("model: \x00", "serving.yaml: not YAML"),
        ("drafts: [{ngrams: 3}]", "config.drafts[0]: expected a mapping with"),
        ("drafts: [{prefix_layers: 2, expansion: [0]}]", "config.drafts[0]: expansion [0]"),
    ],
)
def test_refuses_files_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        configure("--config", yaml_file(tmp_path, text))
    assert message in str(error.value)


def test_refuses_files_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        configure("--config", str(tmp_path / "none.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(ConfigError, match=r"binary\.yaml: 'utf-8' codec"):
        configure("--config", str(tmp_path / "binary.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch.max_row=3", "config.batch.max_row: unknown key"),
        ("nothing=3", "config.nothing: unknown key"),
        ("batch", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("batch.=3", "expected KEY=VALUE"),
        ("batch.max_rows=many", "config.batch.max_rows: expected int, got 'many'"),
        ("batch.max_rows=[", "--set batch.max_rows=[, line 1: not YAML"),
        ("model.name=x", "config.model: expected str"),
        ("memory=3", "config: memory: expected a mapping of memories to sizes, got 3"),
        ("memory.cpu=lots", "config: memory.cpu: expected bytes, or a size such as '8 GB'"),
        ("memory.cpu=-1", "config: memory.cpu: expected bytes"),
        ("generation.max_new_tokens=0", "max_new_tokens is 0, expected at least 1"),
    ],
)
def test_refuses_settings_with_their_path(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        configure("--set", text)
    assert message in str(error.value)


def test_refuses_to_set_something_inside_a_plain_value() -> None:
    with pytest.raises(ConfigError, match=r"--set model\.name=x: model is 'm', not a mapping"):
        configure("--model", "m", "--set", "model.name=x")


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "1,,2", "1,0", "1.5", "2,-1", "²"])
def test_refuses_expansions_by_name(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        configure("--draft", "prefix:2", f"--expansion={text}")
    assert str(error.value).startswith(f"--expansion {text!r}: found ")


@pytest.mark.parametrize("draft", ["ngram:", "ngram:0", "ngram:x", "prefix:", "prefix:-3", ""])
def test_refuses_drafts_by_name(draft: str) -> None:
    with pytest.raises(ConfigError, match="--draft"):
        configure("--draft", draft)


def test_refuses_an_expansion_that_nothing_uses() -> None:
    with pytest.raises(ConfigError, match="--expansion: shapes"):
        configure("--draft", "ngram", "--expansion", "1,1")
