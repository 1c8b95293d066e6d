"""Configuration is read strictly: a refusal says where, what was found and what was expected."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from specinfer.runtime.config import from_mapping, parse_yaml, read_yaml
from specinfer.runtime.errors import ConfigError


@dataclass(frozen=True)
class Speculation:
    max_nodes: int = 16
    name: str = "tree"


@dataclass(frozen=True)
class Rows:
    num_rows: int


@dataclass(frozen=True)
class Blocks:
    num_blocks: int
    rows_per_block: int = 16


@dataclass(frozen=True)
class Config:
    seed: int
    speculation: Speculation = field(default_factory=Speculation)
    greedy: bool = True
    temperature: float = 1.0
    stop: tuple[int, ...] = ()
    limit: int | None = None
    cache: Rows | Blocks = field(default_factory=lambda: Rows(4))

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed {self.seed}, expected 0 or more")


def test_reads_nested_values() -> None:
    data = {"seed": 1, "speculation": {"max_nodes": 64}, "greedy": False}
    assert from_mapping(Config, data) == Config(1, Speculation(64), greedy=False)


def test_a_list_becomes_a_tuple_and_a_whole_number_a_float() -> None:
    config = from_mapping(Config, {"seed": 1, "stop": [2, 3], "temperature": 2})
    assert config == Config(1, stop=(2, 3), temperature=2.0)
    assert type(config.temperature) is float


def test_a_value_may_be_null_only_where_its_type_says_so() -> None:
    assert from_mapping(Config, {"seed": 1, "limit": None}).limit is None
    assert from_mapping(Config, {"seed": 1, "limit": 5}).limit == 5


def test_one_of_several_classes_is_told_by_its_first_key() -> None:
    data = {"seed": 1, "cache": {"num_blocks": 8}}
    assert from_mapping(Config, data).cache == Blocks(8)
    data = {"seed": 1, "cache": {"num_rows": 8}}
    assert from_mapping(Config, data).cache == Rows(8)


def test_what_is_left_out_has_its_default() -> None:
    assert from_mapping(Config, {"seed": 1}) == Config(1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, r"config\.seed: missing"),
        ({"seed": 1, "sed": 2}, r"config\.sed: unknown key; known: seed, speculation"),
        ({"seed": 1, 2: 3, "sed": 2}, r"config\.2: unknown key"),
        ({"seed": "1"}, r"config\.seed: expected int, got '1'"),
        ({"seed": True}, r"config\.seed: expected int, got True"),
        ({"seed": 1, "temperature": "1"}, r"config\.temperature: expected float, got '1'"),
        ({"seed": 1, "temperature": None}, r"config\.temperature: expected float, got None"),
        ({"seed": 1, "stop": [2, "x"]}, r"config\.stop\[1\]: expected int, got 'x'"),
        ({"seed": 1, "stop": 2}, r"config\.stop: expected a list, got 2"),
        ({"seed": 1, "limit": "x"}, r"config\.limit: expected int, got 'x'"),
        ({"seed": 1, "cache": {"num_pages": 1}}, r"config\.cache: .* num_rows or num_blocks, got"),
        ({"seed": 1, "cache": {"num_rows": 1, "x": 1}}, r"config\.cache\.x: unknown key"),
        ({"seed": -1}, r"config: seed -1, expected 0 or more"),
        ({"seed": 1, "speculation": {"nodes": 1}}, r"config\.speculation\.nodes: unknown key"),
        (
            {"seed": 1, "speculation": {"max_nodes": None}},
            r"config\.speculation\.max_nodes: expected int, got None",
        ),
        ({"seed": 1, "speculation": 64}, r"config\.speculation: expected a mapping, got 64"),
        (
            {"seed": 1, "speculation": "tree"},
            r"config\.speculation: expected a mapping, got 'tree'",
        ),
    ],
)
def test_refuses(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(Config, data)


def test_a_refusal_names_the_file_it_is_about() -> None:
    with pytest.raises(ConfigError, match=r"^run\.yaml\.seed: missing"):
        from_mapping(Config, {}, where="run.yaml")


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("")
    assert read_yaml(tmp_path / "run.yaml") == {}


def test_a_file_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: No such file or directory"):
        read_yaml(tmp_path / "gone.yaml")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"run\.yaml: .* codec can't decode"):
        read_yaml(tmp_path / "run.yaml")


def test_what_is_no_yaml_is_named_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml, line 2: not YAML: "):
        parse_yaml("seed: 1\nstop: [2, ", "run.yaml")


def test_what_is_no_mapping_is_refused() -> None:
    not_a_mapping: Any = [1, 2]
    with pytest.raises(ConfigError, match=r"config: expected a mapping, got \[1, 2\]"):
        from_mapping(Config, not_a_mapping)
