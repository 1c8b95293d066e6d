"""A task, launched twice: a function that says what it does to the data that it is given.

python examples/hello_task.py
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specinfer.runtime.context import Runtime
from specinfer.runtime.privilege import RW
from specinfer.runtime.task import task


@task(letters=RW)
def write(letters: NDArray[np.str_], word: str) -> None:
    """Put a word where the launch says; the task sees nothing else of the region."""
    letters[:] = list(word)


with Runtime() as runtime:
    # A region says what data there is: twelve points, with one field. An array may be attached to
    # a field; without one it starts as zeros.
    line = runtime.region("line", (12,), {"letter": "U1"}, {"letter": np.full(12, ".")})

    # A launch names a part of the region for each argument with a privilege; other arguments are
    # values. It does not wait; `read` does.
    runtime.launch(write, letters=line.rows(0, 5), word="hello")
    print("".join(runtime.read(line.part())))

    runtime.launch(write, letters=line.rows(6, 10), word="task")
    print("".join(runtime.read(line.part())))

# Prints:
# hello.......
# hello.task..
