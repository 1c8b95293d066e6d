"""Written by hand with mpi4py, as a good MPI programmer would: messages prepared once.

Points lie in blocks on the ranks. For each step of the pattern's period every rank knows which rows
it sends and receives; two rows arrays take turns.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
from mpi4py import MPI

from benchmarks.task_bench.kernel import check, compute
from benchmarks.task_bench.patterns import active, dependences, intervals
from benchmarks.task_bench.systems import Shape


class HandWritten:
    """mpi4py without any runtime."""

    name = "mpi4py by hand"
    steps = 1000

    def __init__(self) -> None:
        self._comm = MPI.COMM_WORLD
        self.cores = self._comm.size
        self._plan: list[tuple[list[Any], list[Any]]] = []

    def prepare(self, shape: Shape) -> None:
        """Work out each step's messages and the rows that each point reads."""
        self.close()
        comm, width = self._comm, shape.width
        rows = [np.zeros((width, 2), np.int64), np.zeros((width, 2), np.int64)]
        owner = [point * comm.size // width for point in range(width)]
        known: dict[Any, tuple[list[Any], list[Any]]] = {}
        for step in range(shape.steps):
            needs = {
                p: dependences(shape.pattern, width, shape.steps, step, p)
                for p in active(shape.pattern, width, shape.steps, step)
            }
            key = (step % 2, tuple((p, tuple(n)) for p, n in needs.items()))
            if key not in known:
                known[key] = self._step(rows[(step + 1) % 2], rows[step % 2], needs, owner)
            self._plan.append(known[key])

    def _step(
        self,
        before: np.ndarray[Any, Any],
        now: np.ndarray[Any, Any],
        needs: dict[int, list[int]],
        owner: list[int],
    ) -> tuple[list[Any], list[Any]]:
        comm = self._comm
        messages = sorted(
            {(at, owner[point]) for point, wanted in needs.items() for at in wanted}
            - {(at, owner[at]) for at in range(len(owner))}
        )
        requests: list[Any] = []
        by_pair: dict[tuple[int, int], list[int]] = {}
        for at, target in messages:
            by_pair.setdefault((owner[at], target), []).append(at)
        for (source, target), rows in by_pair.items():
            for low, high in intervals(rows):
                if source == comm.rank:
                    requests.append(comm.Send_init(before[low:high], target))
                elif target == comm.rank:
                    requests.append(comm.Recv_init(before[low:high], source))
        points = [
            (now[p], p, [(before[low:high], low) for low, high in intervals(wanted)])
            for p, wanted in needs.items()
            if owner[p] == comm.rank
        ]
        return requests, points

    def run(self, iterations: int) -> float:
        """Run all steps; the slowest rank counts."""
        comm = self._comm
        start_all, wait_all = MPI.Prequest.Startall, MPI.Request.Waitall
        comm.Barrier()
        start = perf_counter()
        for step, (requests, points) in enumerate(self._plan):
            if requests:
                start_all(requests)
                wait_all(requests)
            for out, point, inputs in points:
                for rows, first in inputs:
                    check(rows, step - 1, first)
                compute(out, step, point, iterations)
        seconds = perf_counter() - start
        return float(comm.allreduce(seconds, MPI.MAX))

    def close(self) -> None:
        """Free the messages."""
        for request in {id(r): r for requests, _ in self._plan for r in requests}.values():
            request.Free()
        self._plan = []
