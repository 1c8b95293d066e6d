"""The machine of this process is found out from what launchers tell the processes they start."""

from __future__ import annotations

import sys

import pytest

from specinfer.runtime.errors import ConfigError
from specinfer.runtime.machine.one import OneRank
from specinfer.runtime.machine.start import RANKS, SIZES, machine_here, num_processes, rank_here


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*RANKS, *SIZES):
        monkeypatch.delenv(name, raising=False)


def test_a_process_that_no_launcher_started_is_alone() -> None:
    assert (num_processes(), rank_here()) == (1, 0)
    assert isinstance(machine_here(), OneRank)


@pytest.mark.parametrize(
    ("rank", "size"),
    [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE")],
    ids=["Open MPI", "MPICH"],
)
def test_launchers_tell_rank_and_size(
    monkeypatch: pytest.MonkeyPatch, rank: str, size: str
) -> None:
    monkeypatch.setenv(rank, "2")
    monkeypatch.setenv(size, "4")
    assert (num_processes(), rank_here()) == (4, 2)


def test_what_is_no_number_is_no_word_of_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "many")
    assert num_processes() == 1


def test_several_processes_need_mpi4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "4")
    monkeypatch.setitem(sys.modules, "specinfer.runtime.machine.mpi", None)  # cannot be imported
    message = r"started by mpirun with 4 processes, but mpi4py cannot be used .*; expected `pip ins"
    with pytest.raises(ConfigError, match=message):
        machine_here()
