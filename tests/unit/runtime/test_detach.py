"""Memory that is given back is the program's alone."""

import numpy as np
import pytest
from numpy.typing import NDArray

from specinfer.runtime.context import Runtime
from specinfer.runtime.executor.shuffled import ShuffledExecutor
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.task import task


@task(x=R, y=WD)
def copy(x: NDArray[np.int64], y: NDArray[np.int64]) -> None:
    y[:] = x


@pytest.mark.parametrize("seed", range(8))
def test_who_reads_it_has_run_before_it_is_given_back(seed: int) -> None:
    with Runtime(ShuffledExecutor(seed)) as runtime:
        x = runtime.region("x", (3,), {"v": "int64"}, {"v": np.ones(3, int)})
        y = runtime.region("y", (3,), {"v": "int64"})
        runtime.launch(copy, x=x, y=y)
        array = runtime.detach(x, "v")
        array[:] = 7
        assert runtime.read(y.part()).tolist() == [1, 1, 1]
