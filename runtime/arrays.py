"""Arrays of any library: what the runtime itself has to do with the memory of fields.

Tasks get the arrays as they were attached. Only where the runtime moves or folds data does it look
at them as NumPy arrays over the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_WORK = 100_000
"""Steps that NumPy may take to find out whether arrays meet; columns of a matrix take few."""


def imported(array: Any) -> Any:
    """An array with a shape that can be indexed; others are taken over by DLPack, not copied."""
    if hasattr(array, "shape") and hasattr(array, "__getitem__"):
        return array
    return np.from_dlpack(array)


HOST = "cpu"
"""The device whose memory NumPy arrays are in."""


def zeros(shape: tuple[int, ...], dtype: Any, device: str = HOST) -> Any:
    """An array of zeros; pages of the host that are never touched take no memory.

    A torch dtype gives a tensor on the device, everything else a NumPy array on the host.
    """
    if type(dtype).__module__ == "torch":
        import torch  # only a program that uses torch has such a dtype

        return torch.zeros(shape, dtype=dtype, device=device)
    return np.zeros(shape, dtype)


def is_on_gpu(array: Any) -> bool:
    """Whether an array lies in the memory of a GPU.

    >>> is_on_gpu(np.zeros(3))
    False
    """
    told = getattr(array, "is_cuda", None)  # torch's own word is the quickest
    return bool(hasattr(array, "__cuda_array_interface__") if told is None else told)


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


def is_of_type(array: Any, dtype: Any) -> bool:
    """Whether the elements of an array are of this type, of whatever library its name is.

    >>> is_of_type(np.zeros(2), "float64"), is_of_type(np.zeros(2), int)
    (True, False)
    """
    return bool(_plain_type(array.dtype) == _plain_type(dtype))


def _plain_type(dtype: Any) -> Any:
    name = str(dtype).removeprefix("torch.") if type(dtype).__module__ == "torch" else dtype
    try:
        return np.dtype(name)
    except TypeError:  # NumPy knows no such type
        return str(name)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an array lies.

    Attributes:
        start: address of its lowest byte.
        stop: behind its highest.
        is_repeated: whether several of its elements are the same bytes, as in broadcast arrays.
        is_writable: whether it may be written, as far as it says.
    """

    start: int
    stop: int
    is_repeated: bool
    is_writable: bool


def layout(array: Any) -> Layout | None:
    """Where an array lies; None if it is empty, or does not say.

    >>> found = layout(np.broadcast_to(np.zeros((4, 1)), (4, 3)))
    >>> found.stop - found.start, found.is_repeated, found.is_writable
    (32, True, False)
    """
    steps: tuple[int, ...] | None
    if hasattr(array, "data_ptr"):
        try:
            start, is_writable = array.data_ptr(), True
            steps = tuple(step * array.itemsize for step in array.stride())
        except RuntimeError:  # packed for some library, which alone knows
            return None
    else:
        said = getattr(array, "__cuda_array_interface__", None)
        said = said or getattr(array, "__array_interface__", None)
        if not said or not said.get("data"):
            return None
        (start, is_read_only), steps = said["data"], said.get("strides")
        is_writable = not is_read_only
    shape = tuple(array.shape)
    if not start or 0 in shape:
        return None
    size = int(array.dtype.itemsize)
    if steps is None:  # rows one behind another
        steps = tuple(size * prod(shape[d + 1 :]) for d in range(len(shape)))
    reach = [step * (extent - 1) for step, extent in zip(steps, shape, strict=True)]
    return Layout(
        start + sum(r for r in reach if r < 0),
        start + sum(r for r in reach if r > 0) + size,
        any(extent > 1 and step == 0 for step, extent in zip(steps, shape, strict=True)),
        is_writable,
    )


def share_elements(one: Any, other: Any) -> bool:
    """Whether arrays whose bytes lie among each other have some in common; if in doubt, yes."""
    try:
        return np.shares_memory(bits(one), bits(other), max_work=MOST_WORK)  # type: ignore[arg-type]
    except (np.exceptions.TooHardError, AttributeError, TypeError, ValueError, RuntimeError):
        return True


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
