"""A command that mpirun started: what can be said without MPI is said once."""

from __future__ import annotations

import sys

import pytest

from specinfer.runtime.machine.start import RANKS, SIZES
from specinfer.scheduler.cli.main import BAD_INPUT, main


@pytest.mark.parametrize("rank", [0, 1])
def test_several_processes_without_mpi4py_are_refused_in_one_line(
    rank: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (*RANKS, *SIZES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", str(rank))
    monkeypatch.setitem(sys.modules, "specinfer.runtime.machine.reporting", None)  # no import of it
    assert main(["generate", "hi"]) == BAD_INPUT
    said = capsys.readouterr().err
    if rank:
        assert said == ""
    else:
        assert said.count("\n") == 1
        assert "started by mpirun with 2 processes, but mpi4py cannot be used" in said
