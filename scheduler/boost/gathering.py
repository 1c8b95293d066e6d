"""Prompts of a boost-tuning, by set: what is trained on, and what is only measured on."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from specinfer.models.tokenizer import Tokenizer
from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.boost.config import EvaluationConfig, PromptConfig
from specinfer.scheduler.boost.corpus import Corpus, Text
from specinfer.scheduler.boost.sources import function_heads, python_files, read_source
from specinfer.scheduler.boost.tasks import task_heads

TRAIN, HELD_OUT = "train", "held-out"
_ASK = "Complete this Python function.\n\n```python\n{head}```"


def gather(
    config: PromptConfig, evaluation: EvaluationConfig, tokenizer: Tokenizer
) -> dict[str, Corpus]:
    """Prompts by set, as texts without outputs; ``train`` is the last.

    Raises:
        ConfigError: a source or file that cannot be read, or too few prompts.
    """
    chance = random.Random(config.seed)
    measured = {
        Path(file).name.partition(".")[0]: _file_prompts(file, tokenizer)
        for file in evaluation.files
    }
    if clash := measured.keys() & {TRAIN, HELD_OUT}:
        raise ConfigError(f"evaluation.files: {clash.pop()}: expected another name of a file")
    texts = [text for file in config.files for text in _file_prompts(file, tokenizer)]
    if config.functions:
        heads = function_heads(python_files(config.sources))
        chance.shuffle(heads)
        for head in heads[: config.functions]:
            is_chat = tokenizer.chat_template is not None and chance.random() < config.chat
            texts.append(_chat(head, tokenizer) if is_chat else head)
    texts += task_heads(config.tasks, config.seed)
    never = {text for prompts in measured.values() for text in prompts}
    texts = [text for text in dict.fromkeys(texts) if text not in never]
    chance.shuffle(texts)
    # Some leave room: not all are short enough.
    tokens = [t for t in tokenizer.encode_all(texts) if 0 < len(t) <= config.max_tokens]
    held, trained = tokens[: evaluation.held_out], tokens[evaluation.held_out :]
    if not trained:
        raise ConfigError(
            f"prompts: expected more than evaluation.held_out = {evaluation.held_out} of at most "
            f"{config.max_tokens} tokens, found {len(tokens)}"
        )
    sets = {name: _corpus(tokenizer.encode_all(prompts)) for name, prompts in measured.items()}
    if held:
        sets[HELD_OUT] = _corpus(held)
    return sets | {TRAIN: _corpus(trained)}


def gather_text(
    sources: Sequence[str], num_tokens: int, length: int, tokenizer: Tokenizer, seed: int
) -> Corpus:
    """Whole source files in random order, cut into texts of at most ``length`` tokens."""
    files = python_files(sources)
    random.Random(seed).shuffle(files)
    texts: list[Text] = []
    total = 0
    for start in range(0, len(files), 256):
        for tokens in tokenizer.encode_all([read_source(f) for f in files[start : start + 256]]):
            for first in range(0, len(tokens), length):
                piece = tokens[first : first + length]
                if len(piece) > 1:
                    texts.append(Text(np.array(piece, np.int32), 1))
                    total += len(piece)
        if total >= num_tokens:
            break
    return Corpus.of(texts)


def _corpus(prompts: Sequence[Sequence[int]]) -> Corpus:
    return Corpus.of([Text(np.array(tokens, np.int32), len(tokens)) for tokens in prompts])


def _chat(head: str, tokenizer: Tokenizer) -> str:
    return tokenizer.chat([{"role": "user", "content": _ASK.format(head=head)}])


def _file_prompts(file: str, tokenizer: Tokenizer) -> list[str]:
    try:
        data = Path(file).expanduser().read_bytes()
        text = (gzip.decompress(data) if file.endswith(".gz") else data).decode()
        return list(_lines(text, file, tokenizer))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {getattr(error, 'strerror', None) or error}") from None


def _lines(text: str, file: str, tokenizer: Tokenizer) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{file}:{number}: not JSON: {error}") from None
        match value:
            case str(prompt) | {"prompt": str(prompt)} if prompt:
                yield prompt
            case {"turns": [str(turn), *_]} if tokenizer.chat_template is not None:
                yield tokenizer.chat([{"role": "user", "content": turn}])
            case _:
                raise ConfigError(
                    f"{file}:{number}: expected a text, or an object with `prompt` or `turns`"
                )
