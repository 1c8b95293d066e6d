"""The machine that this process was started on."""

from __future__ import annotations

import os

from specinfer.runtime.errors import ConfigError
from specinfer.runtime.machine import Machine
from specinfer.runtime.machine.one import OneRank

RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")
SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")
"""What the launchers of Open MPI and MPICH tell the processes that they start."""


def num_processes() -> int:
    """How many processes ``mpirun`` started; 1 without it."""
    return _told(SIZES, 1)


def rank_here() -> int:
    """Which of them this is; known without MPI."""
    return _told(RANKS, 0)


def _told(names: tuple[str, ...], otherwise: int) -> int:
    for name in names:
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return otherwise


def machine_here() -> Machine:
    """One rank alone, or a rank of ``mpirun``'s.

    Raises:
        ConfigError: several ranks, but no mpi4py.
    """
    if num_processes() == 1:
        return OneRank()
    try:
        from specinfer.runtime.machine.mpi import MPIRanks
    except (ImportError, RuntimeError) as error:  # the latter where there is no library of MPI
        raise without_mpi4py(error) from None
    return MPIRanks()


def without_mpi4py(error: Exception) -> ConfigError:
    """What to raise in a process of several, where the import of mpi4py raised ``error``."""
    why = " ".join(str(error).split())
    return ConfigError(
        f"started by mpirun with {num_processes()} processes, but mpi4py cannot be used ({why}); "
        "expected `pip install 'specinfer[mpi]'`"
    )
