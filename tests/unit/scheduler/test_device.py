"""A device that is not there is refused before anything is loaded."""

from __future__ import annotations

import pytest
import torch

from specinfer.runtime.arrays import is_on_gpu
from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.assembly import new_runtime
from specinfer.scheduler.cli.main import main
from specinfer.scheduler.config import ServingConfig

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA card")


@without_gpu
def test_a_gpu_that_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"device is cuda, but torch .* expected"):
        new_runtime("serial", torch.float32, device="cuda")


def test_a_device_that_is_none() -> None:
    with pytest.raises(ConfigError, match="device is 'tpu', expected cpu or cuda"):
        new_runtime("serial", torch.float32, device="tpu")
    with pytest.raises(ValueError, match="device is 'tpu', expected cpu or cuda"):
        ServingConfig(device="tpu")


def test_the_command_line_refuses_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--device", "tpu", "Hello"]) == 2
    assert "device is 'tpu'" in " ".join(capsys.readouterr().err.split())


@without_gpu
def test_it_is_looked_for_before_models_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--device", "cuda", "--model", "no/where", "Hello"]) == 2
    assert "device is cuda, but torch" in " ".join(capsys.readouterr().err.split())


def test_arrays_of_the_host_are_on_no_gpu() -> None:
    assert not is_on_gpu(torch.zeros(2))
