"""Tokenizers out of GGUF metadata: byte-level BPE (``gpt2``) with a named pre-tokenizer.

GGUF stores a pre-tokenizer as a name whose meaning is code in llama.cpp. The names known here are
those whose rule was checked; a guess would give wrong tokens in silence, so the others are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from specinfer.models.errors import CheckpointError
from specinfer.models.tokenizer import Tokenizer

_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_KNOWN_PRE = ("qwen2", "smollm")

# Control tokens that end a text whatever the one eos id in the file says: a chat model that
# continues a raw text ends it as its base model did. llama.cpp has the same rule.
_END_TOKENS = ("<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>")


def tokenizer_from_gguf(metadata: Mapping[str, Any], path: Path) -> Tokenizer:
    """Build the tokenizer that a GGUF file describes.

    Args:
        metadata: the file's keys and values.
        path: the file, for messages.

    Raises:
        CheckpointError: a key is missing, or the kind or pre-tokenizer is not known here.
    """

    def key(name: str) -> Any:
        if (full := f"tokenizer.ggml.{name}") not in metadata:
            raise CheckpointError(f"{path}: expected the key {full}, found none")
        return metadata[full]

    if (model := key("model")) != "gpt2":
        raise CheckpointError(f"{path}: expected a tokenizer of kind gpt2, found {model!r}")
    pre = key("pre")
    if pre not in _KNOWN_PRE:
        raise CheckpointError(
            f"{path}: expected a pre-tokenizer of {', '.join(_KNOWN_PRE)}, found {pre!r}"
        )
    tokens: list[str] = key("tokens")
    types: list[int] = key("token_type")
    try:
        backend = _backend(tokens, types, key("merges"), pre)
        eos = _end_ids(tokens, types) | {key("eos_token_id")}
        names = {
            f"{role}_token": tokens[index]
            for role in ("bos", "eos")
            if (index := metadata.get(f"tokenizer.ggml.{role}_token_id")) is not None
        }
        if metadata.get("tokenizer.ggml.add_bos_token", False):
            bos = names["bos_token"]
            backend.post_processor = processors.TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, key("bos_token_id"))]
            )
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises nothing narrower
        raise CheckpointError(f"{path}: expected a vocabulary with merges: {error!r}") from error
    return Tokenizer(
        backend,
        eos_ids=eos,
        chat_template=metadata.get("tokenizer.chat_template"),
        template_tokens=names,
    )


def _end_ids(tokens: list[str], types: list[int]) -> set[int]:
    return {
        index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == gguf.TokenType.CONTROL and token in _END_TOKENS
    }


def _backend(
    tokens: list[str], types: list[int], merges: list[str], pre: str
) -> tokenizers.Tokenizer:
    # Unused ids only pad the vocabulary to a round number: without them the vocabulary is the one
    # that the same model has as a Hugging Face folder.
    vocabulary = {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind != gguf.TokenType.UNUSED
    }
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    backend.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
        steps = [
            pre_tokenizers.Split(Regex(_QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    else:
        steps = [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    kinds = (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)
    backend.add_tokens(
        [
            AddedToken(token, special=kind == gguf.TokenType.CONTROL, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind in kinds
        ]
    )
    return backend
