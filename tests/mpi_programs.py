"""Runs random programs on the ranks of MPI: ``mpirun -n 2 python -m mpi4py tests/mpi_programs.py``.

Every rank compares what it sees with what the program means. Then it plays sequences of reads,
writes and reductions, cell by cell. Arguments: the first seed, and how many programs.
"""

from __future__ import annotations

import random
import sys
import traceback

from meaning import meaning_of
from mpi4py import MPI
from placement_laws import check_placement
from random_mapper import RandomMapper
from running import check
from strategies import random_program

from specinfer.runtime.machine.mpi import MPIRanks
from specinfer.runtime.placement import Copy, Move
from specinfer.runtime.region import Region


def main(first: int, count: int) -> None:
    """Run the programs; the first failure ends all ranks."""
    world = MPI.COMM_WORLD
    seed = first
    try:
        for seed in range(first, first + count):
            program = random_program(seed)
            mapper = None if seed % 3 == 0 else RandomMapper(world.size, seed)
            machine = MPIRanks()
            check(program, meaning_of(program), machine=machine, mapper=mapper, traced=seed % 4 > 0)
        machine = MPIRanks()
        for seed in range(first, first + count):
            check_placement(random.Random(seed).randint, machine, number=seed)
        machine.close()
        if world.size == 2:
            check_communicators_are_given_back()
    except BaseException:
        print(f"rank {world.rank}, seed {seed}:", flush=True)
        traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        world.Abort(1)
    if world.rank == 0:
        print(f"{count} programs on {world.size} ranks")


def check_communicators_are_given_back() -> None:
    """Send a message on more machines than there can be at once: MPICH has 2048 communicators."""
    for _ in range(2100):
        machine = MPIRanks()
        region = Region(0, "r", (1,), {"a": "int64"})
        machine.add_region(region)
        copy = Copy((0, "a"), (Move(0, 1, region.space),))
        operation = machine.transfer(copy, as_messages=True)
        assert operation is not None
        operation.run()
        machine.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
