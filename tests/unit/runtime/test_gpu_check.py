"""What a GPU lacks is said in one line, each thing by itself; nothing here needs a GPU."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from specinfer.runtime.errors import ConfigError
from specinfer.runtime.executor.gpu_check import check_gpu


class Machine:
    """What the libraries say of a machine; all is well unless a test says otherwise."""

    def __init__(self, patches: pytest.MonkeyPatch) -> None:
        self._patches = patches
        self.torch_cuda: str | None = "13.0"
        self.warning = ""
        self.count = 1
        self.capability = (9, 0)
        self.made_for, self.driver = 13000, 13000
        self.nvrtc: Callable[[], Any] = lambda: (13, 0)
        self.numba_cuda: str | None = "0.30.1"
        self.numpy = "2.4.6"

    def check(self) -> None:
        """Look at it."""
        self._patches.setattr(torch.version, "cuda", self.torch_cuda)
        self._patches.setattr(np, "__version__", self.numpy)
        check_gpu()


def missing(*_: object) -> Any:
    raise OSError("libnvrtc.so.13: no such file. Look elsewhere.")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(monkeypatch)

    def is_available() -> bool:
        if made.warning:
            warnings.warn(made.warning, stacklevel=1)
        return made.count > 0 and not made.warning

    def version(name: str) -> str:
        if name != "numba-cuda" or made.numba_cuda is None:
            raise metadata.PackageNotFoundError(name)
        return made.numba_cuda

    runtime = SimpleNamespace(
        runtimeGetVersion=lambda: made.made_for, driverGetVersion=lambda: made.driver
    )
    nvrtc = SimpleNamespace(getVersion=lambda: made.nvrtc())
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime, nvrtc=nvrtc))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "numba.cuda", SimpleNamespace())
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: made.count)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: made.capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    return made


def test_what_is_there_is_not_refused(machine: Machine) -> None:
    machine.check()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"torch_cuda": None}, r"but torch .* was built without CUDA; expected a build for CUDA"),
        ({"count": 0}, r"finds no GPU; expected one that `nvidia-smi` lists, and a driver"),
        (
            {"warning": "The driver is too old (found version 12040). Please update it."},
            r"finds no GPU \(The driver is too old \(found version 12040\)\); expected one",
        ),
        ({"capability": (7, 5)}, r"but Some GPU has compute capability 7\.5, expected 8\.0 \(A100"),
        ({"nvrtc": missing}, r"CuPy cannot be used: libnvrtc\.so\.13: no such file; expected `pip"),
        (
            {"driver": 12040},
            r"the driver knows CUDA 12\.4 and CuPy was made for CUDA 13\.0; expected a driver for "
            r"CUDA 13 or newer",
        ),
        ({"numba_cuda": None}, r"but numba-cuda is not installed; expected `pip install"),
        (
            {"numpy": "2.5.1"},
            r"but numba-cuda 0\.30\.1 cannot be used with NumPy 2\.5\.1; expected `pip install "
            r"\"numpy<2\.5\"`",
        ),
    ],
)
def test_what_is_missing_is_named(machine: Machine, what: dict[str, Any], message: str) -> None:
    for name, value in what.items():
        setattr(machine, name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the one line is all that is said
        with pytest.raises(ConfigError, match=f"^device is cuda, {'.*' + message}") as raised:
            machine.check()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["cupy", "numba.cuda"])
def test_a_library_that_cannot_be_imported(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    what = {"cupy": "CuPy", "numba.cuda": r"numba-cuda 0\.30\.1"}[name]
    with pytest.raises(ConfigError, match=rf"^device is cuda, but {what} cannot be used: .*expect"):
        machine.check()
