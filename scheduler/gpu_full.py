"""A GPU that runs full while an engine is made or runs: what holds it, and what to lower."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import ConfigError
from specinfer.runtime.executor.gpu_memory import GpuMemoryError, is_out_of_memory, out_of_memory
from specinfer.runtime.memory import human_size

KINDS = {
    "kv": "K/V pools",
    "values": "results of operators",
    "weight": "weights",
    "bias": "weights",
}
"""What regions hold, by the last part of their names."""
OTHERS, GRAPHS = "tables and scratch", "graphs and what tasks take"


@contextmanager
def explained(runtime: Runtime, memory: str) -> Iterator[None]:
    """Have what finds no memory on a GPU tell who holds it and which options to lower.

    Args:
        runtime: whose regions lie there.
        memory: name of the GPU's memory; a runtime without it is not looked at.

    Raises:
        ConfigError: instead of what the GPU's libraries raise.
    """
    try:
        yield
    except Exception as error:
        held = runtime.memories.get(memory)
        if held is None:
            raise
        if is_out_of_memory(error):
            told = out_of_memory("an array", error)
        elif isinstance(error, GpuMemoryError):
            told = error
        else:
            raise
        raise ConfigError(f"{told}; {advice(by_kind(held.holders), told.use.ours)}") from error


def by_kind(holders: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Bytes by what for, the most first.

    >>> by_kind([("llama.kv", 5), ("layers.0.{q,k}.weight", 7), ("llama.tree", 1), ("x.bias", 1)])
    {'weights': 8, 'K/V pools': 5, 'tables and scratch': 1}
    """
    found: Counter[str] = Counter()
    for name, num_bytes in holders:
        found[KINDS.get(name.rpartition(".")[2], OTHERS)] += num_bytes
    return dict(found.most_common())


def advice(held: Mapping[str, int], ours: int) -> str:
    """What holds the memory, and what to do about it.

    >>> advice({"weights": 3 << 30, "K/V pools": 1 << 30}, 5 << 30)
    'weights 3.0 GiB, K/V pools 1.0 GiB, graphs and what tasks take 1.0 GiB; expected a smaller \
batch.max_requests, batch.max_length, batch.kv_pages or batch.max_rows, smaller trees or models, \
or less of other programs'
    """
    listed = [*held.items(), (GRAPHS, max(0, ours - sum(held.values())))]
    told = ", ".join(f"{kind} {human_size(size)}" for kind, size in listed if size)
    return (
        f"{told}; expected a smaller batch.max_requests, batch.max_length, batch.kv_pages or "
        "batch.max_rows, smaller trees or models, or less of other programs"
    )
