"""A witness: a small process that says where a rank was, should that be killed.

A launcher that finds one process killed kills all others at once; none of them could say anything.
The witness is a shell that waits for its rank to end: if the rank did not take leave, it prints the
last place that the rank had written down, and the time: the rank that was killed first is the
earliest, if only by a millisecond.
"""

from __future__ import annotations

import os
import subprocess
import tempfile

_WAIT = """read -r _ || {{ read -r line </dev/fd/{file}; echo "$line $(date +%T.%N)" >&2; }}"""


class Witness:
    """Of this process, until it is dismissed."""

    def __init__(self) -> None:
        self._note, name = tempfile.mkstemp(prefix="specinfer-witness-")
        os.unlink(name)
        self._written = 0
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _WAIT.format(file=self._note)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[self._note],
            start_new_session=True,  # signals to the rank's group are not for it
        )

    def note(self, line: str) -> None:
        """Write down where this process is, in place of the last time."""
        text = (line.replace("\n", " ") + "\n").encode()
        os.pwrite(self._note, text, 0)
        if len(text) < self._written:
            os.ftruncate(self._note, len(text))
        self._written = len(text)

    def dismiss(self) -> None:
        """Let it go without a word: this process ends as it should."""
        try:
            self._process.communicate(b"\n", timeout=2)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
        os.close(self._note)
