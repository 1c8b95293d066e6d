"""Every example says what it shows and how it is run, and prints what it says it prints.

A comment ``# Prints:`` at the end of an example holds its output, line by line.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TIMEOUT_SECONDS = 120
PRINTS = re.compile(r"^# Prints:\n(?P<lines>(?:#.*\n)*)\Z", re.MULTILINE)
RANKS, MPI_TIMEOUT_SECONDS = 4, 60
MPI_ENVIRONMENT = {  # there may be fewer cores than ranks, and CI may be root
    "MPIR_CVAR_POLLS_BEFORE_YIELD": "1",  # MPICH
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # Open MPI, as below
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


def printed_by(path: Path) -> str:
    """What an example says that it prints."""
    found = PRINTS.search(path.read_text(encoding="utf-8"))
    assert found, "expected a comment `# Prints:` at the end"
    return re.sub(r"^# ?", "", found["lines"], flags=re.MULTILINE)


def output_of(command: Sequence[str | Path], folder: Path, timeout_seconds: float) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            **MPI_ENVIRONMENT,
        },
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_says_what_it_shows_and_how_it_is_run(path: Path) -> None:
    says = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert f"python examples/{path.name}" in says.splitlines()[1:]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs_and_prints(path: Path, tmp_path: Path) -> None:
    # -P: the layers' folders must not be importable as packages of their own.
    printed = output_of([sys.executable, "-P", path], tmp_path, TIMEOUT_SECONDS)
    assert printed == printed_by(path)


def test_the_stencil_prints_the_same_on_several_ranks(tmp_path: Path) -> None:
    mpirun = Path(sys.executable).with_name("mpirun")
    if not mpirun.exists():
        pytest.skip("no mpirun beside this Python: pip install 'specinfer[mpi]'")
    path = ROOT / "examples" / "stencil.py"
    program = [sys.executable, "-m", "mpi4py", str(path)]
    printed = output_of([mpirun, "-n", str(RANKS), *program], tmp_path, MPI_TIMEOUT_SECONDS)
    assert printed == printed_by(path)
