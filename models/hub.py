"""A model folder from the Hugging Face hub: only what is needed to run it, through its own client.

Python code, pickled weights and other formats' files in a repository are not downloaded.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from specinfer.models.errors import FetchError
from specinfer.models.progress import Progress

_WANTED = ["*.json", "*.safetensors", "*.jinja"]

Snapshot = Callable[..., object]
"""``huggingface_hub.snapshot_download``, or what a test puts in its place."""


def fetch_snapshot(
    repo_id: str, work: Path, target: Path, progress: Progress, snapshot: Snapshot | None = None
) -> None:
    """Make the folder ``target`` out of a repository; it appears whole or not at all.

    Args:
        repo_id: ``owner/name``.
        work: a folder for what has arrived; an earlier, interrupted call's files are used again.
        target: the model folder, on the disk of ``work``.
        progress: told how many bytes are there.
        snapshot: downloads; the hub's client by default.

    Raises:
        FetchError: no network, no such repository, or no safetensors in it.
    """
    # Here and not above: the client takes a second to import, and most runs fetch nothing.
    from huggingface_hub import snapshot_download

    download = snapshot or snapshot_download
    try:
        download(
            repo_id,
            local_dir=work,
            allow_patterns=_WANTED,
            tqdm_class=_bar_class(repo_id, progress),
        )
    except Exception as error:  # its own errors, and those of whichever HTTP library it uses
        first = (str(error).strip().splitlines() or [""])[0]
        raise FetchError(
            f"{repo_id}: cannot be had from the Hugging Face hub: {type(error).__name__}: {first}"
        ) from error
    if not (work / "config.json").is_file() or not any(work.glob("*.safetensors")):
        shutil.rmtree(work)
        raise FetchError(f"{repo_id}: expected config.json and *.safetensors there, found none")
    shutil.rmtree(work / ".cache", ignore_errors=True)  # the client's notes
    work.replace(target)


def _bar_class(repo_id: str, progress: Progress) -> type:
    """What the client is to draw with: it draws nothing and passes the bytes on."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    most = 0

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"disable": True})
            self._counts_bytes = kwargs.get("unit") == "B"
            self._done = 0

        def update(self, n: float | None = 1) -> None:
            nonlocal most
            self._done += int(n or 0)
            # Newer clients have one bar for bytes received and one for bytes written.
            if self._counts_bytes and self._done > most:
                most = self._done
                progress(repo_id, most, int(self.total or 0))

    return Bar
