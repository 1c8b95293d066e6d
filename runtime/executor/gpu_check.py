"""What a GPU needs besides itself, looked for before anything is loaded.

Whatever is missing or too old is one line that says what was found and what was expected. Only
versions are compared and libraries opened: nothing is compiled, no memory is taken.
"""

from __future__ import annotations

import re
import warnings
from importlib import import_module, metadata

import numpy as np
import torch

from specinfer.runtime.errors import ConfigError

OLDEST = (8, 0)
"""Compute capability that kernels are made for, and those behind it."""
LAST_WITH_ROW_STACK = (0, 30)
"""numba-cuda up to this version uses a function that NumPy 2.5 removed."""
INSTALL = '`pip install "specinfer[gpu]"`'


def check_gpu(device: int = 0) -> None:
    """Refuse a GPU that is not there or too old, and libraries that cannot use it.

    Raises:
        ConfigError: what is missing, and what was expected.
    """
    _check_torch(device)
    _check_cupy()
    _check_numba()


def _check_torch(device: int) -> None:
    if torch.version.cuda is None:
        raise ConfigError(
            f"device is cuda, but torch {torch.__version__} was built without CUDA; expected a "
            "build for CUDA 13 (see https://pytorch.org/get-started/locally)"
        )
    with warnings.catch_warnings(record=True) as said:  # that a driver is too old is a warning
        warnings.simplefilter("always")
        is_there = torch.cuda.is_available()
    if not is_there:
        why = "".join(f" ({_first_sentence(str(warning.message))})" for warning in said[:1])
        raise ConfigError(
            f"device is cuda, but torch {torch.__version__} (CUDA {torch.version.cuda}) finds no "
            f"GPU{why}; expected one that `nvidia-smi` lists, and a driver that is as new"
        )
    if device >= (count := torch.cuda.device_count()):
        raise ConfigError(f"device is cuda:{device}, but there are {count} GPUs")
    if (found := torch.cuda.get_device_capability(device)) < OLDEST:
        name = torch.cuda.get_device_name(device)
        raise ConfigError(
            f"device is cuda, but {name} has compute capability {found[0]}.{found[1]}, expected "
            f"{OLDEST[0]}.{OLDEST[1]} (A100) or newer"
        )


def _check_cupy() -> None:
    try:
        cuda = import_module("cupy").cuda
        made_for = cuda.runtime.runtimeGetVersion()
        driver = cuda.runtime.driverGetVersion()
        cuda.nvrtc.getVersion()
    except Exception as error:
        raise ConfigError(
            f"device is cuda, but CuPy cannot be used: {_first_sentence(str(error))}; expected "
            f"{INSTALL}, for CUDA 13 and its driver"
        ) from None
    if driver // 1000 < made_for // 1000:
        raise ConfigError(
            f"device is cuda, but the driver knows CUDA {_cuda(driver)} and CuPy was made for CUDA "
            f"{_cuda(made_for)}; expected a driver for CUDA {made_for // 1000} or newer"
        )


def _check_numba() -> None:
    try:
        version = metadata.version("numba-cuda")
    except metadata.PackageNotFoundError:
        raise ConfigError(
            f"device is cuda, but numba-cuda is not installed; expected {INSTALL}"
        ) from None
    if not goes_with_numpy(version, np.__version__):
        raise ConfigError(
            f"device is cuda, but numba-cuda {version} cannot be used with NumPy {np.__version__}; "
            f'expected `pip install "numpy<2.5"`, or {INSTALL}'
        )
    try:
        import_module("numba.cuda")
    except Exception as error:
        raise ConfigError(
            f"device is cuda, but numba-cuda {version} cannot be used: "
            f"{_first_sentence(str(error))}; expected {INSTALL}"
        ) from None


def goes_with_numpy(numba_cuda: str, numpy: str) -> bool:
    """Whether these versions work together.

    >>> goes_with_numpy("0.30.1", "2.5.0"), goes_with_numpy("0.30.1", "2.4.6")
    (False, True)
    >>> goes_with_numpy("0.31.0", "2.5.0rc1")
    True
    """
    return _release(numpy) < (2, 5) or _release(numba_cuda) > LAST_WITH_ROW_STACK


def _release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _cuda(version: int) -> str:
    """A version as CUDA counts it.

    >>> _cuda(12040)
    '12.4'
    """
    return f"{version // 1000}.{version % 1000 // 10}"


def _first_sentence(text: str) -> str:
    """What is worth a place in a line.

    >>> _first_sentence("The driver is too old (found 12.4). Please update it.")
    'The driver is too old (found 12.4)'
    """
    words = " ".join(text.split())
    return re.split(r"[.!?] ", f"{words} ", maxsplit=1)[0].strip()
