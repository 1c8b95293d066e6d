"""A GPU that has no memory left, in words: who asked for how much, and who has the rest.

Budgets (:mod:`specinfer.runtime.memory`) count regions. Graphs and what tasks take for themselves
are not known beforehand, and other programs may take what was free: then a library raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from specinfer.runtime.errors import SpecInferError
from specinfer.runtime.memory import human_size


@dataclass(frozen=True, slots=True)
class GpuUse:
    """Bytes of a GPU's memory.

    Attributes:
        total: that it has.
        free: that nobody has.
        ours: that torch has in this process: regions, graphs, and what tasks take.
    """

    total: int
    free: int
    ours: int

    @property
    def others(self) -> int:
        """What CUDA itself and other programs have."""
        return max(0, self.total - self.free - self.ours)


class GpuMemoryError(SpecInferError):
    """A GPU had no memory for what something took while it ran.

    Attributes:
        what: took it.
        asked: how much, as the library says it; empty if it does not.
        use: of the memory, then.
    """

    def __init__(self, what: str, asked: str, use: GpuUse) -> None:
        self.what = what
        self.asked = asked
        self.use = use
        super().__init__(
            f"gpu: {what} asks for {asked or 'memory'}, but {human_size(use.free)} of "
            f"{human_size(use.total)} are free; {human_size(use.ours)} are held here, "
            f"{human_size(use.others)} by CUDA and other programs"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this says that a GPU's memory did not suffice, whichever library it is from.

    >>> is_out_of_memory(RuntimeError("CUDA error: out of memory")), is_out_of_memory(KeyError())
    (True, False)
    """
    if isinstance(error, SpecInferError):  # it may quote one
        return False
    said = str(error).lower().replace("_", " ")
    return isinstance(error, torch.OutOfMemoryError) or ("cuda" in said and "out of memory" in said)


def out_of_memory(what: object, error: BaseException, device: int | None = None) -> GpuMemoryError:
    """The error of the same meaning that tells the whole story.

    Args:
        what: asked.
        error: what the library said.
        device: number of the GPU; None: the present one.
    """
    free, total = torch.cuda.mem_get_info(device)
    ours = torch.cuda.memory_reserved(device)
    return GpuMemoryError(str(what), asked_in(str(error)), GpuUse(total, free, ours))


def asked_in(text: str) -> str:
    """How much was asked for, by what torch says.

    >>> asked_in("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total of ...")
    '2.50 GiB'
    >>> asked_in("CUDA error: out of memory")
    ''
    """
    found = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", text)
    return found[1] if found else ""
