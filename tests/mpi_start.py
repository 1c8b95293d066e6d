"""Starts test programs on several ranks, with whichever MPI is installed beside this Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_on_ranks(
    num_ranks: int, script: str, *arguments: object, timeout_seconds: float = 60
) -> str:
    """Run a script of ``tests/`` on each of some ranks.

    Returns:
        What they printed.

    Raises:
        AssertionError: one of them failed, or they did not end in time.
    """
    command = ("-m", "mpi4py", str(ROOT / "tests" / script), *map(str, arguments))
    done = mpirun(num_ranks, *command, timeout_seconds=timeout_seconds)
    assert done.returncode == 0, f"{script} on {num_ranks} ranks:\n{done.stdout}{done.stderr}"
    return done.stdout


def mpirun(
    num_ranks: int, *arguments: str, timeout_seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments on each of some ranks.

    Raises:
        AssertionError: they did not end in time.
    """
    launcher = Path(sys.executable).parent / "mpirun"
    assert launcher.exists(), f"no mpirun beside {sys.executable}: pip install -e '.[test]'"
    version = subprocess.run(
        [launcher, "--version"], capture_output=True, text=True, check=True, timeout=timeout_seconds
    )
    is_open_mpi = "Open MPI" in version.stdout
    # Open MPI counts cores, and asks before it runs as root.
    flags = ["--oversubscribe"] if is_open_mpi else []
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment = {
        **os.environ,
        # mpi4py puts the script's folder in the place of the first entry.
        "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
        "MPIR_CVAR_POLLS_BEFORE_YIELD": "1",  # more ranks than cores: who waits gives way
        **(allowed if is_open_mpi else {}),
    }
    command = [str(launcher), *flags, "-n", str(num_ranks), sys.executable, "-P", *arguments]
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            process.terminate()  # mpirun then ends its ranks
            output, errors = process.communicate(timeout=timeout_seconds)
            raise AssertionError(
                f"{arguments} on {num_ranks} ranks took over {timeout_seconds} s:\n{output}{errors}"
            ) from None
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
