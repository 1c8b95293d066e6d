"""Where prompts come from: arguments, a file, or standard input."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from specinfer.scheduler.errors import RequestError


def read_prompts(texts: Sequence[str], file: Path | None, stdin: TextIO) -> list[str]:
    """The prompts, at least one, none of them empty.

    Args:
        texts: the arguments; ``-`` alone stands for standard input.
        file: one prompt, or one a line if its name ends in ``.jsonl``.
        stdin: read if there is nothing else, unless a person sits at it.

    Raises:
        RequestError: no prompt, an empty one, or a file that cannot be read.
    """
    if texts and file:
        raise RequestError("give prompts as arguments or with --file, not both")
    if file:
        prompts = _from_file(file)
    elif list(texts) == ["-"] or (not texts and not stdin.isatty()):
        prompts = [_from_stdin(stdin)]
    else:
        prompts = list(texts)
    if not prompts:
        raise RequestError("no prompt: give one as an argument, with --file, or on standard input")
    for number, prompt in enumerate(prompts, start=1):
        if not prompt.strip():
            raise RequestError(f"prompt {number}: expected some text, found {prompt!r}")
        if not _is_unicode(prompt):
            raise RequestError(f"prompt {number}: expected UTF-8, found other bytes")
    return prompts


def _from_stdin(stdin: TextIO) -> str:
    try:
        return _unended(stdin.read())
    except UnicodeDecodeError as error:
        raise RequestError(f"standard input: {error}") from None


def _from_file(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if path.suffix == ".jsonl":
        return list(_json_lines(text, path))
    return [_unended(text)]


def _json_lines(text: str, path: Path) -> Iterator[str]:
    # Not str.splitlines: JSON may hold U+2028 as it is.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _json_prompt(line, f"{path}:{number}")


def _json_prompt(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise RequestError(f"{where}: not JSON: {error}") from None
    if isinstance(value, dict):
        turns = value.get("turns")
        value = value.get("prompt", turns[0] if isinstance(turns, list) and turns else None)
    if not isinstance(value, str):
        raise RequestError(f"{where}: expected a text, or an object with `prompt` or `turns`")
    return value


def _unended(text: str) -> str:
    """Without the newline that ends a text file."""
    return text.removesuffix("\n").removesuffix("\r")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of the command line that were no text
        return False
    return True
