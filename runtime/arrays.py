"""Arrays of any library: what the runtime itself has to do with the memory of fields.

Tasks get the arrays as they were attached. Only where the runtime moves or folds data does it look
at them as NumPy arrays over the same bytes.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray


def imported(array: Any) -> Any:
    """An array with a shape that can be indexed; others are taken over by DLPack, not copied."""
    if hasattr(array, "shape") and hasattr(array, "__getitem__"):
        return array
    return np.from_dlpack(array)


def zeros(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of zeros; pages that are never touched take no memory.

    A torch dtype gives a tensor, everything else a NumPy array.
    """
    if type(dtype).__module__ == "torch":
        import torch  # only a program that uses torch has such a dtype

        return torch.zeros(shape, dtype=dtype)
    return np.zeros(shape, dtype)


def itemsize(dtype: Any) -> int:
    """Bytes of an element.

    >>> itemsize("float32")
    4
    """
    return int(zeros((0,), dtype).itemsize)


def bytes_like(dtype: Any) -> Any:
    """The type of a byte, in the library that ``dtype`` is of."""
    if type(dtype).__module__ == "torch":
        import torch

        return torch.uint8
    return np.uint8


def over(memory: Any, offset: int, shape: tuple[int, ...], dtype: Any) -> Any:
    """An array on a part of an array of bytes; made by :func:`zeros` for the same library."""
    num_bytes = prod(shape) * itemsize(dtype)
    return memory[offset : offset + num_bytes].view(dtype).reshape(shape)


def bits(array: Any) -> NDArray[Any]:
    """A NumPy array over the same memory; of another type where NumPy has none of that name."""
    if isinstance(array, np.ndarray):
        return array
    if str(array.dtype) == "torch.bfloat16":
        import torch

        return bits(array.view(torch.int16))
    viewed: NDArray[Any] = array.numpy() if hasattr(array, "numpy") else np.from_dlpack(array)
    return viewed


def values(array: Any) -> NDArray[Any]:
    """Numbers to calculate with: the same memory, or a float32 copy where NumPy lacks the type."""
    return array.float().numpy() if str(array.dtype) == "torch.bfloat16" else bits(array)


def store(array: Any, numbers: NDArray[Any]) -> None:
    """Write numbers, rounded to the array's type."""
    if str(array.dtype) == "torch.bfloat16":
        import torch

        array.copy_(torch.from_numpy(numbers))
    else:
        bits(array)[...] = numbers
