from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as KIND
from gguf import quants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.models.checkpoint_files import gguf_name, weights, write_gguf

from specinfer.models.checkpoint import open_checkpoint
from specinfer.models.errors import CheckpointError


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", weights("llama", 323))


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_tensors_come_out_as_they_went_in(tmp_path: Path, arch: str) -> None:
    tensors = weights(arch, 323)
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors, arch=arch))
    assert checkpoint.names() == set(tensors)
    for name, expected in tensors.items():
        assert checkpoint.shape(name) == tuple(expected.shape)
        found = checkpoint.tensor(name, torch.float32)
        assert found.is_contiguous()
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", [KIND.Q8_0, KIND.Q4_0, KIND.Q5_1, KIND.F16, KIND.BF16])
def test_quantised_rows_keep_their_places(tmp_path: Path, kind: KIND) -> None:
    """Rows are quantised one by one, so quantising commutes with the permutation of q and k."""
    tensors = weights("llama", 323)
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors, kind=kind))
    for name, original in tensors.items():
        if original.ndim == 2:
            rounded = quants.dequantize(quants.quantize(original.numpy(), kind), kind)
            expected = torch.from_numpy(np.asarray(rounded, np.float32))
            assert torch.equal(checkpoint.tensor(name, torch.float32), expected), name
            bf16 = checkpoint.tensor(name, torch.bfloat16)
            assert torch.equal(bf16, expected.to(torch.bfloat16)), name


def test_tensors_larger_than_a_block_are_whole(tmp_path: Path) -> None:
    tensors = weights("llama", 1500)  # 96,000 values: three blocks, the last not full
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors))
    name = "model.embed_tokens.weight"
    assert torch.equal(checkpoint.tensor(name, torch.float32), tensors[name])


def test_config_has_hugging_face_keys(tmp_path: Path) -> None:
    config = open_checkpoint(write_gguf(tmp_path / "m.gguf", weights("llama", 323))).config
    assert config["rms_norm_eps"] == pytest.approx(1e-5)
    expected = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rope_theta": 5000.0,
        "vocab_size": 323,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "attention_bias": False,
    }
    assert {key: config[key] for key in expected} == expected


def test_embeddings_are_tied_where_there_is_no_output_matrix(tmp_path: Path) -> None:
    tensors = weights("qwen2", 323, tied=True)
    config = open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors, arch="qwen2")).config
    assert config["tie_word_embeddings"] is True
    assert config["attention_bias"] is True


def test_unknown_tensors_keep_their_name(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "m.gguf", weights("llama", 323), extra=[("rope_freqs.weight", torch.ones(8))]
    )
    assert "rope_freqs.weight" in open_checkpoint(path).names()


def test_refuses_unknown_architectures(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", weights("llama", 323), arch="mamba")
    with pytest.raises(CheckpointError, match=r"expected an architecture of llama.*found 'mamba'"):
        open_checkpoint(path)


def test_refuses_unknown_tensor_names(whole_file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tiny\.gguf: there is no tensor nix"):
        open_checkpoint(whole_file).tensor("nix", torch.float32)


def test_refuses_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found nothing"):
        open_checkpoint(tmp_path / "none.gguf")


@pytest.mark.parametrize("part", [0, 2, 4, 10, 24, 100, 1000, 0.2, 0.5, 0.9, -1])
def test_refuses_truncated_files(tmp_path: Path, whole_file: Path, part: float) -> None:
    data = whole_file.read_bytes()
    cut = int(part * len(data)) if isinstance(part, float) else part
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[:cut])
    expected = rf"cut\.gguf: expected a complete GGUF file, found {len(data[:cut])} bytes"
    with pytest.raises(CheckpointError, match=expected):
        open_checkpoint(path)


@given(position=st.integers(0, 12_000), value=st.integers(0, 255))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_metadata_never_end_in_a_traceback(
    tmp_path: Path, whole_file: Path, position: int, value: int
) -> None:
    data = bytearray(whole_file.read_bytes())
    data[position] = value
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data)
    try:
        checkpoint = open_checkpoint(path)
        checkpoint.tokenizer()
        for name in checkpoint.names():
            checkpoint.tensor(name, torch.float32)
    except CheckpointError as error:
        assert "damaged.gguf" in str(error)  # noqa: PT017 - reading it may also succeed


def test_names_of_the_test_are_those_of_the_file(whole_file: Path) -> None:
    stored = {tensor.name for tensor in gguf.GGUFReader(whole_file).tensors}
    assert stored == {gguf_name(name) for name in weights("llama", 323)}
