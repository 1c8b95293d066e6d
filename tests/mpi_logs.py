"""Runs random programs on this rank of several, and writes its log of each of them.

Started by ``tests/unit/runtime/test_validator.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from meaning import meaning_of
from random_mapper import RandomMapper
from running import Run
from strategies import random_program

from specinfer.runtime.context import Runtime
from specinfer.runtime.executor.in_order import InOrderExecutor
from specinfer.runtime.machine.mpi import MPIRanks
from specinfer.runtime.oplog import LoggingExecutor, OperationLog


def main(folder: Path, count: int) -> None:
    for seed in range(count):
        program = random_program(seed)
        machine = MPIRanks()
        log = OperationLog(machine.ranks, folder / f"{seed}.{machine.rank}.jsonl")
        executor = LoggingExecutor(InOrderExecutor(), log)
        mapper = RandomMapper(machine.num_ranks, seed)
        with Runtime(executor, machine=machine, mapper=mapper, observer=log) as runtime:
            run = Run(program, meaning_of(program), runtime, machine, traced=seed % 2 == 1)
            run.execute()
            run.compare()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
