"""Progress bars on standard error, for whatever counts bytes.

Standard output stays free for results, so that a command's output can be piped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress

from specinfer.models.progress import Progress

WIDE = 120
"""Characters a line that there is room in for what is at hand; else only its bytes are shown."""


@contextmanager
def progress_bar(
    title: str, console: Console | None = None, *, transient: bool = False
) -> Iterator[Progress]:
    """Draw a bar as long as the block runs; the block gets the callback that moves it.

    Args:
        title: stands before the bar.
        console: where to draw; standard error by default.
        transient: leave nothing behind.

    >>> with progress_bar("loading", Console(quiet=True)) as progress:
    ...     progress("model.norm.weight", 1, 2)
    """
    columns: tuple[ProgressColumn, ...] = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = console or Console(stderr=True)
    if console.width >= WIDE:
        columns += (TextColumn("[dim]{task.fields[what]}"),)
    with RichProgress(*columns, console=console, transient=transient) as bar:
        task = bar.add_task(title, total=None, what="")

        def move(what: str, done_bytes: int, total_bytes: int) -> None:
            bar.update(task, completed=done_bytes, total=total_bytes or None, what=what)

        yield move
