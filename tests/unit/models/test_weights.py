from __future__ import annotations

from pathlib import Path

import pytest
import torch
from unit.models.checkpoint_files import weights, write_folder, write_gguf

from specinfer.models.checkpoint import open_checkpoint
from specinfer.models.errors import CheckpointError
from specinfer.models.weights import load_weights

NORM = "model.norm.weight"


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_gguf_and_folder_load_alike(tmp_path: Path) -> None:
    tensors = weights("llama", 323)
    gguf = open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors))
    folder = open_checkpoint(write_folder(tmp_path / "m", tensors, shards=2))
    for dtype in (torch.float32, torch.bfloat16):
        a = load_weights(gguf, _shapes(tensors), dtype)
        b = load_weights(folder, _shapes(tensors), dtype)
        assert list(a) == list(b) == list(tensors)
        assert all(torch.equal(a[name], b[name]) for name in tensors)
        assert all(tensor.dtype == dtype for tensor in a.values())


def test_progress_ends_with_all_bytes(tmp_path: Path) -> None:
    tensors = weights("llama", 320)
    seen: list[tuple[str, int, int]] = []
    checkpoint = open_checkpoint(write_folder(tmp_path / "m", tensors))
    load_weights(checkpoint, _shapes(tensors), torch.bfloat16, lambda *args: seen.append(args))
    total = 2 * sum(tensor.numel() for tensor in tensors.values())
    assert [name for name, _, _ in seen] == list(tensors)
    assert seen[-1][1:] == (total, total)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_refuses_a_missing_tensor(tmp_path: Path) -> None:
    tensors = weights("llama", 320)
    shapes = _shapes(tensors)
    del tensors[NORM]
    checkpoint = open_checkpoint(write_folder(tmp_path / "m", tensors))
    message = r"/m: model\.norm\.weight: expected shape \(64,\), found no such tensor \(1 missing"
    with pytest.raises(CheckpointError, match=message):
        load_weights(checkpoint, shapes, torch.float32)


def test_refuses_a_tensor_of_another_shape(tmp_path: Path) -> None:
    tensors = weights("llama", 320)
    checkpoint = open_checkpoint(write_folder(tmp_path / "m", tensors))
    shapes = _shapes(tensors) | {NORM: (65,)}
    message = r"/m: model\.norm\.weight: expected shape \(65,\), found \(64,\)"
    with pytest.raises(CheckpointError, match=message):
        load_weights(checkpoint, shapes, torch.float32)


def test_refuses_a_tensor_too_many(tmp_path: Path) -> None:
    tensors = weights("llama", 320)
    shapes = _shapes(tensors)
    tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(16)
    checkpoint = open_checkpoint(write_folder(tmp_path / "m", tensors))
    message = r"/m: model\.layers\.0\.self_attn\.q_norm\.weight: .*shape \(16,\) \(1 too many"
    with pytest.raises(CheckpointError, match=message):
        load_weights(checkpoint, shapes, torch.float32)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_refuses_numbers_that_are_not_finite(tmp_path: Path, value: float) -> None:
    tensors = weights("llama", 320)
    tensors[NORM][3] = value
    checkpoint = open_checkpoint(write_folder(tmp_path / "m", tensors))
    with pytest.raises(CheckpointError, match=r"/m: model\.norm\.weight: expected finite numbers"):
        load_weights(checkpoint, _shapes(tensors), torch.float32)


def test_refuses_numbers_that_the_type_cannot_hold(tmp_path: Path) -> None:
    tensors = weights("llama", 320)
    tensors[NORM][3] = 1e30
    checkpoint = open_checkpoint(write_folder(tmp_path / "m", tensors))
    load_weights(checkpoint, _shapes(tensors), torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"found NaN or infinity in torch\.float16"):
        load_weights(checkpoint, _shapes(tensors), torch.float16)


def test_passes_over_tables_and_a_tied_output_matrix(tmp_path: Path) -> None:
    tensors = weights("llama", 320)
    shapes = _shapes(tensors)
    del shapes["lm_head.weight"]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    folder = write_folder(tmp_path / "m", tensors, config={"tie_word_embeddings": True})
    assert set(load_weights(open_checkpoint(folder), shapes, torch.float32)) == set(shapes)
    untied = write_folder(tmp_path / "n", tensors, config={"tie_word_embeddings": False})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: expected no such tensor"):
        load_weights(open_checkpoint(untied), shapes, torch.float32)
