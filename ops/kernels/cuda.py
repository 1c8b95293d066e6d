"""Loads and launches the CUDA C++ kernels of the ``.cu`` files beside this one, through CuPy.

An instance of a template is compiled when it is first launched, for the card that is there; CuPy
keeps the machine code on disk. Each file lists its instances in lines that begin with
``// instances:``, so that tests compile all of them where there is no card.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
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

CHAINED = '#include "chain.cuh"'
"""Stands in a file whose kernels wait by themselves for those before them."""

CHAINS = (9, 0)
"""Compute capability from which on they can."""

SMALL_SHARED_BYTES = 48 << 10
"""Shared memory that a block may have without asking."""


def architecture(source: str) -> str | None:
    """The only architecture that a ``.cu`` file can be compiled for, if it says so.

    >>> architecture("// architecture: sm_90a")
    'sm_90a'
    """
    found = re.search(r"^// architecture: (\w+)$", source, re.MULTILINE)
    return found and found[1]


def instances(source: str) -> list[str]:
    """The template instances that a ``.cu`` file says it is used with.

    >>> instances("// instances: add<float>, add<__half>; pair<int, 2>")
    ['add<float>', 'add<__half>', 'pair<int, 2>']
    """
    listed = re.findall(r"^// instances:(.*)$", source, re.MULTILINE)
    return [
        name.strip() for line in listed for name in re.findall(r"\w+(?:<[^<>]*>)?", line) if name
    ]


@dataclass(frozen=True, slots=True)
class _Kernel:
    """A kernel on the card that is there.

    Attributes:
        function: its handle.
        is_chained: whether it waits by itself for what was launched before.
        loaded: keeps it on the card.
    """

    function: Any
    is_chained: bool
    loaded: Any


@dataclass(frozen=True, slots=True)
class MatrixMap:
    """How a matrix lies in memory, as the driver encodes it for kernels."""

    words: bytes


Argument = Tensor | np.generic | MatrixMap
"""What a kernel can be given."""


@cache
def _kernel(file: str, name: str, shared_bytes: int) -> _Kernel:
    from cuda.bindings import driver  # only where there is a card

    source = (FOLDER / file).read_text()
    only = architecture(source)
    address, loaded = _built_for(only, source, name) if only else _built(source, name)
    function = driver.CUfunction(address)
    if shared_bytes > SMALL_SHARED_BYTES:
        most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _check(driver.cuFuncSetAttribute(function, most, shared_bytes), f"{name} of {file}")
    is_chained = CHAINED in source and torch.cuda.get_device_capability() >= CHAINS
    return _Kernel(function, is_chained, loaded)


def _built(source: str, name: str) -> tuple[int, Any]:
    """A kernel for the card that is there: its address, and what keeps it loaded."""
    import cupy

    module = cupy.RawModule(
        code=source, options=(*OPTIONS, f"-I{FOLDER}"), name_expressions=(name,)
    )
    kernel = module.get_function(name)
    return kernel.kernel.ptr, kernel


def _built_for(only: str, source: str, name: str) -> tuple[int, Any]:
    """The same for an architecture that CuPy has no word for, like ``sm_90a``."""
    import cupy
    from cuda.core import Program, ProgramOptions
    from cuda.pathfinder import find_nvidia_header_directory

    headers = [find_nvidia_header_directory("cudart"), f"{cupy.cuda.get_cuda_path()}/include"]
    options = ProgramOptions(
        arch=only,
        std=OPTIONS[0].removeprefix("--std="),
        include_path=[str(FOLDER), *(path for path in headers if path)],
    )
    compiled = Program(source, "c++", options).compile("cubin", name_expressions=(name,))
    module = cupy.cuda.function.Module()
    module.load(compiled.code)
    symbol = compiled.symbol_mapping[name]
    function = module.get_function(symbol if isinstance(symbol, str) else symbol.decode())
    return function.ptr, (module, function)


def _check(answer: tuple[Any, ...], what: str) -> None:
    status = answer[0]
    if status.value:
        raise RuntimeError(f"{what}: the driver answers {status.name}")


_FORMATS = {np.int32: "i4x", np.int64: "q", np.uint64: "Q", np.float32: "f4x"}
"""How numbers stand in the list of a kernel's arguments, 8 bytes for each."""


def _packed(arguments: Sequence[Argument]) -> tuple[Any, Any]:
    """Arguments of a kernel: the address of each, and what they lie in."""
    packed = [_bytes_of(argument) for argument in arguments]
    block = ctypes.create_string_buffer(b"".join(packed))
    starts = accumulate(map(len, packed), initial=ctypes.addressof(block))
    return (ctypes.c_void_p * len(packed))(*[*starts][:-1]), block


def _bytes_of(argument: Argument) -> bytes:
    if isinstance(argument, np.generic):
        return struct.pack("<" + _FORMATS[type(argument)], argument.item())
    return (
        struct.pack("<Q", argument.data_ptr()) if isinstance(argument, Tensor) else argument.words
    )


def matrix_map(matrix: Tensor, rows: int, columns: int) -> MatrixMap:
    """How tiles of a matrix are brought to shared memory (``tma.cuh``).

    Args:
        matrix: of 16-bit numbers whose columns lie next to each other; rows begin at multiples of
            16 bytes.
        rows: of a tile, at most 256.
        columns: of a tile, 128 bytes at most; packs of 16 bytes stand as ``wgmma.cuh`` says.
    """
    from cuda.bindings import driver

    kinds, swizzle = driver.CUtensorMapDataType, driver.CUtensorMapSwizzle
    is_half = matrix.dtype == torch.float16
    answer = driver.cuTensorMapEncodeTiled(
        kinds.CU_TENSOR_MAP_DATA_TYPE_FLOAT16
        if is_half
        else kinds.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        2,
        matrix.data_ptr(),
        [driver.cuuint64_t(size) for size in reversed(matrix.shape)],
        [driver.cuuint64_t(matrix.stride(0) * matrix.itemsize)],
        [driver.cuuint32_t(columns), driver.cuuint32_t(rows)],
        [driver.cuuint32_t(1)] * 2,
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        swizzle.CU_TENSOR_MAP_SWIZZLE_128B,
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )
    _check(answer, f"tiles of {rows} x {columns} of a matrix of {tuple(matrix.shape)}")
    return MatrixMap(struct.pack("<16Q", *map(int, answer[1].opaque)))


def _attributes(is_chained: bool, cluster: int) -> list[Any]:
    """What is special about a launch."""
    from cuda.bindings import driver

    listed = []
    if is_chained:
        attribute = driver.CUlaunchAttribute()
        attribute.id = (
            driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        )
        attribute.value.programmaticStreamSerializationAllowed = 1
        listed.append(attribute)
    if cluster > 1:
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        size = attribute.value.clusterDim
        size.x, size.y, size.z = cluster, 1, 1
        listed.append(attribute)
    return listed


def launch(
    file: str,
    name: str,
    grid: Sequence[int],
    block: int,
    arguments: Sequence[Argument],
    *,
    shared_bytes: int = 0,
    cluster: int = 1,
) -> None:
    """Launch a kernel on torch's current stream.

    A kernel of a file that includes ``chain.cuh`` waits for those before it when it needs to, and
    may so begin while they end.

    Args:
        file: a ``.cu`` beside this one.
        name: instance of a template, as C++ writes it.
        grid: blocks along each dimension.
        block: threads of a block.
        arguments: tensors, passed as pointers to their first element, NumPy scalars of the very
            types that the kernel takes, and maps of matrices.
        shared_bytes: dynamic shared memory of a block.
        cluster: blocks next to each other along the first dimension that run at once and see each
            other's shared memory; compute capability 9.0 or newer.
    """
    from cuda.bindings import driver

    kernel = _kernel(file, name, shared_bytes)
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = (*grid, 1, 1)[:3]
    config.blockDimX, config.blockDimY, config.blockDimZ = block, 1, 1
    config.sharedMemBytes = shared_bytes
    config.hStream = driver.CUstream(torch.cuda.current_stream().cuda_stream)
    attributes = _attributes(kernel.is_chained, cluster)
    config.attrs, config.numAttrs = attributes, len(attributes)
    addresses, _block = _packed(arguments)
    answer = driver.cuLaunchKernelEx(config, kernel.function, ctypes.addressof(addresses), 0)
    _check(answer, f"{name} of {file}, grid {tuple(grid)}, {shared_bytes} bytes of shared memory")
