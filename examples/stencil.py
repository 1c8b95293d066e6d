"""A heat stencil. Alone or on several ranks: the program is the same, and so are its results.

python examples/stencil.py
mpirun -n 4 python -m mpi4py examples/stencil.py
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specinfer.runtime.context import Runtime
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.machine.start import machine_here, rank_here
from specinfer.runtime.partition import ID, equal, restricted
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.task import task

Numbers = NDArray[np.float64]
POINTS, PARTS, STEPS = 32, 4, 50
BLOCK = POINTS // PARTS


@task(near=R, new=WD)
def spread(near: Numbers, new: Numbers, part: int) -> float:
    """Move every point towards its neighbours; the ends of the rod keep their heat.

    Args:
        near: the part with its halo, one point on each side, but not beyond the rod.
        new: the part.
        part: which one.
    """
    start = 0 if part == 0 else 1  # where the part begins in `near`
    old = near[start : start + BLOCK]
    new[:] = old
    low = 1 if part == 0 else 0
    high = BLOCK - 1 if part == PARTS - 1 else BLOCK
    middle = slice(start + low, start + high)
    left = slice(start + low - 1, start + high - 1)
    right = slice(start + low + 1, start + high + 1)
    new[low:high] += 0.25 * (near[left] - 2 * near[middle] + near[right])
    return float(np.abs(new - old).max())


heat = np.zeros(POINTS)
heat[POINTS // 2 - 2 : POINTS // 2 + 2] = 100

with Runtime(machine=machine_here()) as runtime:
    one = runtime.region("one", (POINTS,), {"heat": "float64"}, {"heat": heat})
    two = runtime.region("two", (POINTS,), {"heat": "float64"})
    block = IndexSpace((0,), (BLOCK,))
    for step in range(STEPS):
        # Points are spread over the ranks there are. Where a part lies on another rank than the
        # points next to it, two numbers move at each step: the runtime sees that from the halo.
        old, new = (one, two) if step % 2 == 0 else (two, one)
        near = restricted(old, PARTS, block, stride=BLOCK, reach=1)
        changes = runtime.index_launch(spread, PARTS, near=near, new=equal(new, PARTS), part=ID)
        if (step + 1) % 10 == 0:
            change = changes.reduce(max)
            if rank_here() == 0:
                print(f"step {step + 1}: largest change {change:.4f}")
    result = runtime.read(new.part())
    if rank_here() == 0:
        for value in result[::2]:
            print(f"{value:7.3f} {'#' * round(value)}".rstrip())

# Prints:
# step 10: largest change 2.4027
# step 20: largest change 1.0312
# step 30: largest change 0.5998
# step 40: largest change 0.4028
# step 50: largest change 0.2941
#   0.000
#   0.874 #
#   2.493 ##
#   5.608 ######
#  10.718 ###########
#  17.545 ##################
#  24.655 #########################
#  29.774 ##############################
#  30.917 ###############################
#  27.610 ############################
#  21.198 #####################
#  13.979 ##############
#   7.906 ########
#   3.821 ####
#   1.542 ##
#   0.391
