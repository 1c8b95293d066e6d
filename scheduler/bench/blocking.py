"""How often the host stands still while torch issues work to a GPU.

Torch can say when a call of its own waits for all that was issued (``item``, ``cpu``, a copy to
memory that is not pinned, a stream's ``synchronize``). Waiting for an event is none of these: it
ends when what was issued up to there is done, while what comes behind it runs.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch

SAID = "called a synchronizing CUDA operation"
"""What torch says of such a call."""


@contextmanager
def blocking_calls() -> Iterator[Counter[str]]:
    """Counts the calls that wait, by file and line, until the context ends; needs a GPU."""
    found: Counter[str] = Counter()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found.update(f"{one.filename}:{one.lineno}" for one in said if SAID in str(one.message))
