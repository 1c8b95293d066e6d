"""Python sources on this machine that may be learned from, and the prompts that are made of them.

Taken are the standard library and installed packages whose metadata name a permissive licence. A
prompt is the head of a function with its docstring, as in HumanEval: the rest is for the LLM.
"""

from __future__ import annotations

import ast
import os
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import Distribution, distributions
from itertools import chain
from pathlib import Path

from specinfer.runtime.errors import ConfigError

PYTHON = "python"
"""What stands for this interpreter's library and packages."""
_PERMISSIVE = ("apache", "bsd", "mit", "psf", "python software foundation", "isc")
_NOT_PERMISSIVE = ("gpl", "proprietary", "commercial")
_MAX_BYTES = 200_000
"""Of a file: larger ones are tables, mostly."""
_DOC_CHARACTERS = range(20, 900)
_TYPING = ("Any", "Callable", "Dict", "Iterable", "List", "Optional", "Sequence", "Tuple", "Union")
_FEW_FILES = 200


def python_files(sources: Sequence[str]) -> list[Path]:
    """All Python files, sorted.

    Args:
        sources: folders, or :data:`PYTHON`.

    Raises:
        ConfigError: there is no such folder.
    """
    found: set[Path] = set()
    for source in sources:
        if source == PYTHON:
            found.update(_standard_library(), _packages())
        elif (folder := Path(source).expanduser()).is_dir():
            found.update(folder.rglob("*.py"))
        else:
            raise ConfigError(f"prompts.sources: {source}: expected a folder or `{PYTHON}`")
    return sorted(path for path in found if _is_usable(path))


def read_source(path: Path) -> str:
    """A file's text; empty if it is no UTF-8."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def function_heads(files: Sequence[Path]) -> list[str]:
    """Heads with docstrings of all functions in these files, each once, in order."""
    workers = len(os.sched_getaffinity(0))
    if len(files) < _FEW_FILES or workers == 1:
        found = [_heads_of_file(file) for file in files]
    else:
        with ProcessPoolExecutor(workers) as pool:
            found = list(pool.map(_heads_of_file, files, chunksize=64))
    return list(dict.fromkeys(chain.from_iterable(found)))


def heads_of(source: str) -> Iterator[str]:
    """Heads with docstrings of the functions of one source, as far as it can be parsed."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    lines = source.splitlines(keepends=True)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        doc, first = ast.get_docstring(node), node.body[0]
        if doc is None or len(doc) not in _DOC_CHARACTERS or len(node.body) < 2:
            continue
        head = textwrap.dedent("".join(lines[node.lineno - 1 : first.end_lineno]))
        if head.startswith("def "):
            yield _imports(head) + head


def _imports(head: str) -> str:
    """The import line that a head needs for its annotations."""
    names = [name for name in _TYPING if f"{name}[" in head.partition('"""')[0]]
    return f"from typing import {', '.join(names)}\n\n\n" if names else ""


def _heads_of_file(path: Path) -> list[str]:
    return list(heads_of(read_source(path)))


def _standard_library() -> Iterator[Path]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    for path in folder.rglob("*.py"):
        if "site-packages" not in path.parts and "dist-packages" not in path.parts:
            yield path


def _packages() -> Iterator[Path]:
    for package in distributions():
        if is_permissive(package):
            for file in package.files or ():
                if file.suffix == ".py":
                    yield Path(str(package.locate_file(file)))


def is_permissive(package: Distribution) -> bool:
    """Whether a package's metadata name a permissive licence, and no other."""
    said = package.metadata
    texts = [*(said.get_all("License-Expression") or ()), *(said.get_all("License") or ())]
    texts = [text[:200] for text in texts]  # some have all of the licence there
    texts += [c for c in said.get_all("Classifier") or () if c.startswith("License ::")]
    licence = " ".join(texts).lower()
    return any(word in licence for word in _PERMISSIVE) and not any(
        word in licence for word in _NOT_PERMISSIVE
    )


def _is_usable(path: Path) -> bool:
    try:
        return path.stat().st_size <= _MAX_BYTES
    except OSError:
        return False
