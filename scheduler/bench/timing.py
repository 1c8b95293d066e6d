"""How something is timed: many times in a row by the host's clock, in turn with the others.

What is issued to a GPU runs behind the host's back, so the clock stops when all of it is done.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from specinfer.models.progress import Progress

Run = Callable[[], Any]
Tell = Callable[[str, int, int], None]
"""Is told what was done, how many of how many."""

WARM = 4
"""Runs before the clock: a trace is recorded, verified, and only then replayed."""


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""


def reading(name: str, tell: Tell) -> Progress:
    """Tells how many MiB of a model were read."""
    return lambda _, done, total: tell(f"MiB of {name}", done >> 20, total >> 20)


@dataclass(frozen=True, slots=True)
class Clock:
    """How often something is run.

    Attributes:
        steps: runs that follow each other at once, for one measurement.
        repeats: measurements.
        tell: is told of each.
    """

    steps: int
    repeats: int
    tell: Tell = silent

    def seconds(
        self, cases: Mapping[str, Run], wait: Callable[[], None], what: str = ""
    ) -> dict[str, list[float]]:
        """Seconds of a run, of all cases in turn.

        Args:
            cases: what to run, by name.
            wait: returns when all that was issued is done.
            what: all of it is.
        """
        for run in cases.values():
            for _ in range(WARM):
                run()
        wait()
        found: dict[str, list[float]] = {name: [] for name in cases}
        total = self.repeats * len(cases)
        for repeat in range(self.repeats):
            for number, (name, run) in enumerate(cases.items(), start=1):
                start = perf_counter()
                for _ in range(self.steps):
                    run()
                wait()
                found[name].append((perf_counter() - start) / self.steps)
                self.tell(what, repeat * len(cases) + number, total)
        return found


def waiter(device: str) -> Callable[[], None]:
    """What waits for all that torch has issued to a device."""
    return torch.cuda.synchronize if device != "cpu" else lambda: None


def let_go(device: str) -> None:
    """Give memory that nobody holds any more back to the device, whose budget others then ask."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


def captured(run: Run, device: str) -> Run:
    """The same as one CUDA graph, which costs the host nothing; on a CPU as it is."""
    if device == "cpu":
        return run
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for _ in range(WARM):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()

    def replay(_kept: Run = run) -> None:
        graph.replay()  # reads what `run` holds

    return replay
