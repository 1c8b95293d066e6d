"""The kernels of lanes in Numba's simulator do what their references do.

The simulator is chosen when Numba is imported, so the comparison has a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys

# The last seed's trees are nearly full: their bits take two words.
PROGRAM = """
from lane_cases import Sizes, compare
compare(range(5), Sizes(lanes=3, nodes=6, context=24, chain=3, vocabulary=3))
compare([2], Sizes(lanes=1, nodes=70, context=90, vocabulary=90))
"""


def test_kernels_do_what_their_references_do() -> None:
    environment = os.environ | {
        "NUMBA_ENABLE_CUDASIM": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
