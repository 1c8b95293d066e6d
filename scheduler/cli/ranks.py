"""The ranks of a command that ``mpirun`` started: all work, the first one speaks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from specinfer.runtime.errors import SpecInferError
from specinfer.runtime.machine.start import num_processes, rank_here, without_mpi4py

if TYPE_CHECKING:
    from specinfer.runtime.machine import Machine
    from specinfer.runtime.profile.profiler import Profiler
    from specinfer.runtime.profile.record import Profile

Value = TypeVar("Value")


@contextmanager
def speaking_once() -> Iterator[None]:
    """Only the first rank writes to standard output, and what all raise alike is said once.

    Raises:
        ConfigError: several ranks, but no mpi4py.
    """
    if num_processes() == 1:
        yield
        return
    try:
        from specinfer.runtime.machine.reporting import reporting_once
    except (ImportError, RuntimeError) as error:
        raise without_mpi4py(error) from None

    with ExitStack() as held:
        if rank_here() > 0:
            nowhere = held.enter_context(open(os.devnull, "w"))
            held.enter_context(redirect_stdout(nowhere))
        with reporting_once():
            yield


def on_first(machine: Machine, make: Callable[[], Value]) -> Value:
    """What the first rank makes, on all ranks: of what only one can read, or should fetch.

    Raises:
        SpecInferError: what it raised there, on all ranks.
    """
    outcome: tuple[Value | None, SpecInferError | None] = (None, None)
    if 0 in machine.ranks:
        try:
            outcome = (make(), None)
        except SpecInferError as error:
            outcome = (None, error)
    value, failed = machine.send_value(outcome, 0)
    if failed is not None:
        raise failed
    made: Value = value
    return made


def log_path(path: Path, machine: Machine) -> Path:
    """Where this process writes its log: of several, each has a file of its own."""
    if machine.num_ranks == 1:
        return path
    return path.with_name(f"{path.name}.{machine.ranks[0]}")


def gather_profile(machine: Machine, profiler: Profiler) -> Profile | None:
    """The profile of all ranks on the first one, None on the others."""
    profile = profiler.profile()
    if machine.num_ranks == 1:
        return profile
    from mpi4py import MPI

    from specinfer.runtime.profile.clock import MPILink, gather

    return gather(profile, MPILink(MPI.COMM_WORLD), machine.ranks[0], machine.num_ranks)
