"""Loads and launches the CUDA C++ kernels of the ``.cu`` files beside this one, through CuPy.

An instance of a template is compiled when it is first launched, for the card that is there; CuPy
keeps the machine code on disk. Each file lists its instances in lines that begin with
``// instances:``, so that tests compile all of them where there is no card.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent
OPTIONS = ("--std=c++17",)

TYPES = {
    torch.float32: "float",
    torch.float16: "__half",
    torch.bfloat16: "__nv_bfloat16",
}
"""What kernels call the types of numbers that they are made for."""

SMALL_SHARED_BYTES = 48 << 10
"""Shared memory that a block may have without asking."""


def instances(source: str) -> list[str]:
    """The template instances that a ``.cu`` file says it is used with.

    >>> instances("// instances: add<float>, add<__half>; pair<int, 2>")
    ['add<float>', 'add<__half>', 'pair<int, 2>']
    """
    listed = re.findall(r"^// instances:(.*)$", source, re.MULTILINE)
    return [
        name.strip() for line in listed for name in re.findall(r"\w+(?:<[^<>]*>)?", line) if name
    ]


@cache
def _kernel(file: str, name: str, shared_bytes: int) -> Any:
    import cupy  # only where there is a card

    source = (FOLDER / file).read_text()
    module = cupy.RawModule(
        code=source, options=(*OPTIONS, f"-I{FOLDER}"), name_expressions=(name,)
    )
    kernel = module.get_function(name)
    if shared_bytes > SMALL_SHARED_BYTES:
        kernel.max_dynamic_shared_size_bytes = shared_bytes
    return kernel


class _Handle:
    """A stream of torch as other libraries take it: by its address, and a version."""

    def __init__(self, address: int) -> None:
        self._address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._address


@cache
def _stream(address: int) -> Any:
    import cupy

    return cupy.cuda.Stream.from_external(_Handle(address))


def launch(
    file: str,
    name: str,
    grid: Sequence[int],
    block: int,
    arguments: Sequence[Tensor | np.generic],
    *,
    shared_bytes: int = 0,
) -> None:
    """Launch a kernel on torch's current stream.

    Args:
        file: a ``.cu`` beside this one.
        name: instance of a template, as C++ writes it.
        grid: blocks along each dimension.
        block: threads of a block.
        arguments: tensors, passed as pointers to their first element, and NumPy scalars of the
            very types that the kernel takes.
        shared_bytes: dynamic shared memory of a block.
    """
    listed = tuple(
        np.uint64(given.data_ptr()) if isinstance(given, Tensor) else given for given in arguments
    )
    stream = _stream(torch.cuda.current_stream().cuda_stream)
    with stream:
        _kernel(file, name, shared_bytes)(tuple(grid), (block,), listed, shared_mem=shared_bytes)
