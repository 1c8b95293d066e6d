"""Tokenizers out of Hugging Face folders: ``tokenizer.json`` and the files that go with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from specinfer.models.errors import CheckpointError
from specinfer.models.tokenizer import Tokenizer


def tokenizer_from_folder(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer of a Hugging Face folder.

    Args:
        folder: holds ``tokenizer.json``; ``tokenizer_config.json``, ``generation_config.json`` and
            ``chat_template.jinja`` are read where they are.
        config: the folder's ``config.json``.

    Raises:
        CheckpointError: there is no ``tokenizer.json``, or a file cannot be read.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a tokenizer, found no such file")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path}: expected a tokenizer, cannot read it: {error}") from error
    settings = read_json(folder / "tokenizer_config.json", {})
    texts = {
        key: text
        for key in ("bos_token", "eos_token", "pad_token", "unk_token")
        if (text := _token_text(settings.get(key))) is not None
    }
    generation = read_json(folder / "generation_config.json", {})
    eos = {
        *_ids(generation.get("eos_token_id")),
        *_ids(config.get("eos_token_id")),
        *_ids(backend.token_to_id(texts["eos_token"]) if "eos_token" in texts else None),
    }
    return Tokenizer(
        backend,
        eos_ids=eos,
        chat_template=_chat_template(folder, settings),
        template_tokens=texts,
    )


def read_json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """A JSON object from a file; ``default``, if given, where there is no such file.

    Raises:
        CheckpointError: there is no file and no default, or no JSON object in it.
    """
    if default is not None and not path.is_file():
        return default
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected a JSON object, cannot read it: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(found).__name__}")
    return found


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if template is None and (path := folder / "chat_template.jinja").is_file():
        template = path.read_text("utf-8")
    return template


def _token_text(value: Any) -> str | None:
    if isinstance(value, Mapping):  # an AddedToken, written out
        value = value.get("content")
    return value if isinstance(value, str) else None


def _ids(value: Any) -> list[int]:
    """An id, several, or none: all three are in use."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
