"""How a program on several ranks ends with an error: told once, and with no rank left behind."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
from mpi4py import MPI

from specinfer.runtime.errors import SpecInferError

EXIT_CODE = 2
"""Of a program that ends with an error of its own."""


@contextmanager
def reporting_once(
    comm: MPI.Intracomm | None = None, *, patience_seconds: float = 3.0
) -> Iterator[None]:
    """Run a program on every rank; what goes wrong is printed, not raised.

    An error that all ranks raise alike is printed by the first one, as a line, and every rank exits
    with 2. If others go on, or raise something else, each failing rank prints its own, and the job
    is ended. So it is with errors that are no :class:`SpecInferError`, with their tracebacks.

    Args:
        comm: the ranks, which all enter here; by default all processes of ``mpirun``.
        patience_seconds: how long to wait for the others to raise the same.

    Raises:
        SystemExit: with 2, after an error that all ranks raised.
    """
    ranks = (comm or MPI.COMM_WORLD).Dup()
    try:
        yield
    except SpecInferError as error:
        line = f"{type(error).__name__}: {error}"
        if _all_raise(ranks, line, patience_seconds):
            if ranks.rank == 0:
                print(
                    f"specinfer: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True
                )
            ranks.Free()
            raise SystemExit(EXIT_CODE) from None
        print(f"specinfer: rank {ranks.rank}: {line}", file=sys.stderr, flush=True)
        ranks.Abort(EXIT_CODE)
    except Exception:
        story = traceback.format_exc()
        if _all_raise(ranks, story, patience_seconds):
            if ranks.rank == 0:
                print(f"specinfer: on every rank:\n{story}", file=sys.stderr, flush=True)
            ranks.Free()
            raise SystemExit(1) from None
        print(f"specinfer: rank {ranks.rank}:\n{story}", file=sys.stderr, flush=True)
        ranks.Abort(1)
    else:
        ranks.Free()


def _all_raise(ranks: MPI.Intracomm, story: str, patience_seconds: float) -> bool:
    """Whether every rank raises the same; waits a little for those that do so later."""
    own = np.frombuffer(blake2b(story.encode(), digest_size=8).digest(), np.int64).copy()
    all_digests = np.zeros(ranks.size, np.int64)
    request = ranks.Iallgather(own, all_digests)
    end = time.monotonic() + patience_seconds
    while not request.Test():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    if len(set(all_digests.tolist())) == 1:
        return True
    # Every rank fails, each in its own way: none may end the job before the others have spoken.
    time.sleep(min(patience_seconds, 0.3))
    return False
