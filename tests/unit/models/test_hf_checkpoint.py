from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from unit.models.checkpoint_files import weights, write_folder

from specinfer.models.checkpoint import open_checkpoint
from specinfer.models.errors import CheckpointError


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_tensors_come_out_as_they_went_in(tmp_path: Path, model_type: str, shards: int) -> None:
    tensors = weights(model_type, 320)
    folder = write_folder(tmp_path / "m", tensors, model_type=model_type, shards=shards)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.names() == set(tensors)
    for name, expected in tensors.items():
        assert checkpoint.shape(name) == tuple(expected.shape)
        assert torch.equal(checkpoint.tensor(name, torch.float32), expected)
        half = checkpoint.tensor(name, torch.bfloat16)
        assert torch.equal(half, expected.to(torch.bfloat16))
    assert checkpoint.config["attention_bias"] is (model_type == "qwen2")


def test_tensors_are_copies(tmp_path: Path) -> None:
    name = "model.norm.weight"
    checkpoint = open_checkpoint(write_folder(tmp_path / "m", weights("llama", 320)))
    checkpoint.tensor(name, torch.float32).zero_()
    assert checkpoint.tensor(name, torch.float32).any()


def test_config_fills_in_what_the_file_leaves_out(tmp_path: Path) -> None:
    """What transformers 4 leaves out, and where transformers 5 writes rotary's parameters."""
    folder = write_folder(tmp_path / "m", weights("llama", 320))
    path = folder / "config.json"
    stored = json.loads(path.read_text())
    for key in ("num_key_value_heads", "rope_theta", "tie_word_embeddings"):
        del stored[key]
    stored["rope_parameters"] = {"rope_theta": 12.5, "rope_type": "linear", "factor": 2.0}
    path.write_text(json.dumps(stored | {"head_dim": None}))
    config = open_checkpoint(folder).config
    assert config["num_key_value_heads"] == 4
    assert config["head_dim"] == 16
    assert config["rope_theta"] == 12.5
    assert config["rope_scaling"]["rope_type"] == "linear"
    assert config["tie_word_embeddings"] is False
    assert config["attention_bias"] is False


def test_refuses_a_missing_shard(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", weights("llama", 320), shards=3)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors: .* no such file"):
        open_checkpoint(folder)


def test_refuses_a_shard_of_another_model(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", weights("llama", 320), shards=3)
    (folder / "model-1.safetensors").write_bytes((folder / "model-0.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"expected it here, as the index says"):
        open_checkpoint(folder)


@pytest.mark.parametrize("num_bytes", [0, 4, 100, 5000])
def test_refuses_truncated_weights(tmp_path: Path, num_bytes: int) -> None:
    folder = write_folder(tmp_path / "m", weights("llama", 320))
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*found {num_bytes} bytes"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", None, r"config\.json: expected a JSON object, cannot read it"),
        ("config.json", "{", r"config\.json: expected a JSON object, cannot read it"),
        ("config.json", "[]", r"config\.json: expected a JSON object, found a list"),
        ("config.json", "{}", r"config\.json: expected model_type, hidden_size.*, found none"),
        ("model.safetensors", None, r"expected model\.safetensors or .*index\.json, found neither"),
    ],
)
def test_refuses_incomplete_folders(
    tmp_path: Path, file: str, text: str | None, message: str
) -> None:
    folder = write_folder(tmp_path / "m", weights("llama", 320))
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize("text", [None, "{}", "nothing"])
def test_refuses_a_folder_without_a_tokenizer(tmp_path: Path, text: str | None) -> None:
    folder = write_folder(tmp_path / "m", weights("llama", 320))
    (folder / "tokenizer.json").unlink()
    if text is not None:
        (folder / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: expected a tokenizer"):
        open_checkpoint(folder).tokenizer()


def test_a_folder_of_transformers_can_be_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")  # the judge: only in the test extra
    config = transformers.Qwen2Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=100,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    model = transformers.Qwen2ForCausalLM(config)
    model.save_pretrained(tmp_path / "m")
    checkpoint = open_checkpoint(tmp_path / "m")
    expected = {n: t for n, t in model.state_dict().items() if n != "lm_head.weight"}
    assert checkpoint.names() == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.tensor(name, torch.float32), tensor)
    assert checkpoint.config["tie_word_embeddings"] is True
    assert checkpoint.config["rope_theta"] == 10000.0
    assert checkpoint.config["head_dim"] == 8
