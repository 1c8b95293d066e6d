"""Reads the texts that an n-gram speculator searches: plain text, or JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from specinfer.runtime.errors import ConfigError


def read_texts(path: Path) -> list[str]:
    """The texts of a file: one, or one a line if its name ends in ``.jsonl``.

    A line of JSON is a text, or an object with a ``text``.

    Raises:
        ConfigError: the file cannot be read, or has no text.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"corpus {path}: {getattr(error, 'strerror', None) or error}") from None
    texts = list(_lines(content, path)) if path.suffix == ".jsonl" else [content]
    if not any(text.strip() for text in texts):
        raise ConfigError(f"corpus {path}: expected some text, found none")
    return texts


def _lines(content: str, path: Path) -> Iterator[str]:
    # Not str.splitlines: JSON may hold U+2028 as it is.
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield _text(line, f"corpus {path}:{number}")


def _text(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: not JSON: {error}") from None
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise ConfigError(f"{where}: expected a text, or an object with `text`")
    return text
