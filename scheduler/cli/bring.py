"""Having a model on this machine, and saying so while it comes."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from specinfer.models.fetch import describe, fetch, locate
from specinfer.scheduler.cli.progress import progress_bar


def bring(name: str, home: Path, *, quiet: bool = False) -> Path:
    """Find a model, or fetch it; says on standard error where it comes from.

    Args:
        name: a path, a catalogue name or ``owner/name``.
        home: of the cache.
        quiet: draw no progress bar.

    Raises:
        FetchError: there is no such model, or it could not be had.
    """
    path = locate(name, home)
    if path is None:
        print(describe(name), file=sys.stderr)
        with progress_bar(name, Console(stderr=True, quiet=quiet)) as progress:
            path = fetch(name, home, progress)
    return path
