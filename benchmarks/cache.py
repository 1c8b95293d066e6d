"""Finished work by prompt, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Cache:
    """Lines of JSON in one file: what was worked out for each prompt.

    Args:
        folder: where the file lies; None keeps everything in memory only.
        name: of the file; say in it whatever the values depend on.
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        self._path = folder / f"{name}.jsonl" if folder else None
        self._values: dict[str, Any] = {}
        if self._path and self._path.exists():
            for line in self._path.read_text().splitlines():
                key, value = json.loads(line)
                self._values[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._values[key] = value
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps([key, value]) + "\n")
