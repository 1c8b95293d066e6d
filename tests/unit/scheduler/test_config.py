from __future__ import annotations

from pathlib import Path

import pytest

from specinfer import SSM, NGram, ServingConfig, load_config
from specinfer.runtime.errors import ConfigError


def test_reads_a_serving_configuration(tmp_path: Path) -> None:
    path = tmp_path / "serving.yaml"
    path.write_text("drafts: [{ngram: 4}, {model: small, expansion: [2, 1]}]\nbatch: {max_rows: 9}")
    config = load_config(path)
    assert config.drafts == (NGram(4), SSM("small", (2, 1)))
    assert config.batch.max_rows == 9
    assert config.model == ServingConfig().model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dtype: int4", r"serving\.yaml: config: dtype is 'int4', expected float32 or bfloat16"),
        ("drafts: [{layers: 3}]", r"config\.drafts\[0\]: expected a mapping with model or prefix"),
        ("drafts: [{model: x, expansion: [0]}]", r"config\.drafts\[0\]: expansion \[0\]: expected"),
        ("batch: {max_rows: 0}", r"config\.batch: max_rows is 0, expected at least 1"),
        ("a: [", r"serving\.yaml, line 1: not YAML"),
    ],
)
def test_says_where_it_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "serving.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)
