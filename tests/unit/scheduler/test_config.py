from __future__ import annotations

from pathlib import Path

import pytest

from specinfer import SSM, GenerationConfig, NGram, ServingConfig, Speculation, load_config
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
        ("batch: {kv_pages: -1}", r"config\.batch: kv_pages is -1, expected at least 0"),
        ("batch: {lookahead: -1}", r"config\.batch: lookahead is -1, expected at least 0"),
        ("batch: {prefill_share: 1.5}", r"config\.batch: prefill_share is 1\.5, expected 0 to 1"),
        ("generation: {top_p: 2}", r"config\.generation: top_p is 2\.0, expected above 0"),
        ("generation: {stop: x}", r"config\.generation\.stop: expected a list, got 'x'"),
        ("generation: {seed: x}", r"config\.generation\.seed: expected int, got 'x'"),
        ("generation: {logit_bias: [1]}", r"generation: logit_bias is \[1\], expected numbers by"),
        ("generation: {logit_bias: {a: 1}}", r"logit_bias of token 'a', expected a token id"),
        ("generation: {logit_bias: {1: a}}", r"logit_bias of token 1 is 'a', expected a finite"),
        (
            "speculation: {max_nodes: -1}",
            r"config\.speculation: max_nodes is -1, expected at least",
        ),
        (
            "speculation: {max_depth: -2}",
            r"config\.speculation: max_depth is -2, expected at least",
        ),
        ("speculation: {adaptive: 3}", r"config\.speculation\.adaptive: expected bool, got 3"),
        ("a: [", r"serving\.yaml, line 1: not YAML"),
    ],
)
def test_says_where_it_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "serving.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_reads_how_texts_are_sampled(tmp_path: Path) -> None:
    path = tmp_path / "serving.yaml"
    path.write_text(
        "generation: {temperature: 1, top_k: 5, stop: [a, b], stop_token_ids: [3],"
        " logit_bias: {4: -.inf, 5: 1}, bad_words: [c], seed: 1, n: 2}"
    )
    assert load_config(path).generation == GenerationConfig(
        temperature=1.0,
        top_k=5,
        stop=("a", "b"),
        stop_token_ids=(3,),
        logit_bias={4: float("-inf"), 5: 1},
        bad_words=("c",),
        seed=1,
        n=2,
    )


def test_reads_how_much_may_be_guessed(tmp_path: Path) -> None:
    path = tmp_path / "serving.yaml"
    path.write_text("speculation: {adaptive: false, max_nodes: 4, max_depth: 2}")
    speculation = load_config(path).speculation
    assert not speculation.adaptive
    assert speculation.allowed == Speculation(max_nodes=4, max_depth=2)
    assert ServingConfig().speculation.adaptive is None
