"""Executors around executors: what a task should have made is lost there, too."""

from __future__ import annotations

from mpi_start import mpirun

PROGRAM = """
import numpy as np

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import PoisonedError
from specinfer.runtime.executor.in_order import InOrderExecutor
from specinfer.runtime.machine.mpi import MPIRanks
from specinfer.runtime.oplog import LoggingExecutor, OperationLog
from specinfer.runtime.partition import ID, equal
from specinfer.runtime.privilege import RW
from specinfer.runtime.task import task


@task(x=RW)
def fails(x, at):
    if at == 1:
        raise ValueError("no")
    x += 1


machine = MPIRanks()
executor = LoggingExecutor(InOrderExecutor(), OperationLog(machine.ranks))
with Runtime(executor, machine=machine) as runtime:
    x = runtime.region("x", (4,), {"v": "int64"}, {"v": np.ones(4, int)})
    runtime.index_launch(fails, 2, x=equal(x, 2), at=ID)
    for wait in (runtime.fence, lambda: runtime.read(x.rows(2, 4))):
        try:
            wait()
            print("not refused")
        except PoisonedError as error:
            assert "ValueError: no" in str(error)
    assert runtime.read(x.rows(0, 2)).tolist() == [2, 2]
"""


def test_a_point_that_raised_on_one_of_two_ranks_is_lost_on_both() -> None:
    done = mpirun(2, "-m", "mpi4py", "-c", PROGRAM)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
