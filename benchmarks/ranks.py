"""Starts a Python module on several ranks, with whichever MPI is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

YIELDING = {"OMP_NUM_THREADS": "1", "MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}
"""Where there are fewer cores than ranks: one thread each, and who waits gives way."""


def mpirun(num_ranks: int, *arguments: str) -> list[str]:
    """The command that runs Python with these arguments on each rank.

    Raises:
        FileNotFoundError: there is no MPI.
    """
    beside = Path(sys.executable).parent / "mpirun"
    launcher = str(beside) if beside.exists() else shutil.which("mpirun")
    if launcher is None:
        raise FileNotFoundError("no mpirun: pip install -e '.[mpi]'")
    version = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=True)
    is_open_mpi = "Open MPI" in version.stdout
    flags = ["--oversubscribe"] if is_open_mpi else []
    if is_open_mpi and os.geteuid() == 0:
        flags.append("--allow-run-as-root")
    return [launcher, *flags, "-n", str(num_ranks), sys.executable, *arguments]
