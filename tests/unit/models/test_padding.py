"""A padded model: more layers, the same text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from unit.models.checkpoint_files import LAYERS, weights, write_folder

from specinfer.models.checkpoint import Checkpoint, open_checkpoint
from specinfer.models.compiler import compile_graph
from specinfer.models.definition import definition_for
from specinfer.models.padding import PaddedCheckpoint, padded_config
from specinfer.models.weights import load_weights
from specinfer.scheduler.bench.loading import Loaded, Place, load_plan
from specinfer.scheduler.decoder import Work
from specinfer.scheduler.plan import Plan

FLOAT = torch.float32


@pytest.fixture(params=["llama", "qwen2"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    kind: str = request.param
    return open_checkpoint(write_folder(tmp_path / "model", weights(kind, 40), model_type=kind))


def loaded(checkpoint: Checkpoint) -> Loaded:
    plan = Plan("model", checkpoint, definition_for(checkpoint.config))
    return load_plan(plan, Place.new("cpu", FLOAT))


def logits(model: Loaded) -> torch.Tensor:
    """Of a prompt of 5 tokens, and of a tree behind it."""
    decoder = model.decoder(requests=1, nodes=3, length=16)
    decoder.slots.reserve(0, 8)
    runtime = model.place.runtime
    first = runtime.read(decoder.step([Work(request=0, chain=[5, 9, 7, 8, 6])])).clone()
    tree = Work(request=0, chain=[3], tokens=[4, 5, 6], parents=[-1, 0, 0])
    return torch.cat([first, runtime.read(decoder.step([tree]))])


def test_more_layers_change_nothing(checkpoint: Checkpoint) -> None:
    padded = PaddedCheckpoint(checkpoint, 3)
    real, more = loaded(checkpoint), loaded(padded)
    assert more.program.num_layers == LAYERS + 3
    assert torch.equal(logits(more), logits(real))  # to the last bit: what they add is 0


def test_all_of_it_is_read(checkpoint: Checkpoint) -> None:
    layer = 4 * sum(
        checkpoint.tensor(name, FLOAT).numel()
        for name in checkpoint.names()
        if name.startswith("model.layers.0.")
    )
    more = loaded(PaddedCheckpoint(checkpoint, 3))
    assert more.weight_bytes == loaded(checkpoint).weight_bytes + 3 * layer
    tensors = list(more.tensors.values())
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)


def test_only_the_last_products_are_zero(checkpoint: Checkpoint) -> None:
    padded = PaddedCheckpoint(checkpoint, 1)
    added = sorted(padded.names() - checkpoint.names())
    assert all(name.startswith(f"model.layers.{LAYERS}.") for name in added)
    zero = {name for name in added if not padded.tensor(name, FLOAT).any()}
    assert {name.partition(f".{LAYERS}.")[2] for name in zero} == {
        "self_attn.o_proj.weight",
        "mlp.down_proj.weight",
    }
    for name in added:
        tensor = padded.tensor(name, torch.bfloat16)
        assert (tensor.dtype, tuple(tensor.shape)) == (torch.bfloat16, padded.shape(name))


def test_real_tensors_are_as_they_were(checkpoint: Checkpoint) -> None:
    padded = PaddedCheckpoint(checkpoint, 2)
    config = padded.config
    assert config == padded_config(checkpoint.config, 2)
    assert config["num_hidden_layers"] == checkpoint.config["num_hidden_layers"] + 2
    program = compile_graph(definition_for(config).build(config))
    read = load_weights(padded, program.weights, FLOAT)
    for name in checkpoint.names():
        assert torch.equal(read[name], checkpoint.tensor(name, FLOAT))
    assert padded.path == checkpoint.path
    assert padded.draft_vocabulary is None
