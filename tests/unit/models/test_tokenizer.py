from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors
from unit.models.checkpoint_files import (
    CHATML,
    SPECIAL,
    TEXTS,
    train_backend,
    weights,
    write_folder,
    write_gguf,
)

from specinfer.models.checkpoint import open_checkpoint
from specinfer.models.errors import CheckpointError
from specinfer.models.gguf_reader import read_gguf
from specinfer.models.gguf_tokenizer import tokenizer_from_gguf
from specinfer.models.tokenizer import TextStream, Tokenizer

TRAINED = Tokenizer(train_backend(), eos_ids=[2], chat_template=CHATML)
MESSAGES = [{"role": "user", "content": "Mars is red"}]


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", weights("llama", 323))


@pytest.mark.parametrize("text", [*TEXTS, "", " ", "\n\n\t x", "12345", "\x00", "ÿ"])
def test_gguf_tokenizer_is_the_one_that_was_written(gguf_file: Path, text: str) -> None:
    tokenizer = open_checkpoint(gguf_file).tokenizer()
    assert tokenizer.encode(text) == train_backend().encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_in_a_text_are_single_ids(gguf_file: Path) -> None:
    tokenizer = open_checkpoint(gguf_file).tokenizer()
    ids = tokenizer.encode("<|im_start|>user\nMars<|im_end|><tool>")
    assert ids[0] == SPECIAL.index("<|im_start|>")
    assert ids[-2:] == [SPECIAL.index("<|im_end|>"), tokenizer.vocab_size - 1]
    assert tokenizer.decode(ids) == "user\nMars<tool>"  # control tokens are no text, <tool> is
    assert tokenizer.decode(ids, skip_special_tokens=False).startswith("<|im_start|>user")


def test_end_of_text_ends_a_generation_too(gguf_file: Path) -> None:
    assert open_checkpoint(gguf_file).tokenizer().eos_ids == {0, 2}


def test_folder_and_gguf_make_the_same_tokenizer(tmp_path: Path, gguf_file: Path) -> None:
    a = open_checkpoint(gguf_file).tokenizer()
    b = open_checkpoint(write_folder(tmp_path / "m", weights("llama", 320))).tokenizer()
    assert a.eos_ids == b.eos_ids
    assert a.chat(MESSAGES) == b.chat(MESSAGES)
    assert a.vocabulary_digest != b.vocabulary_digest  # <tool> is in the file only
    assert b.vocabulary_digest == TRAINED.vocabulary_digest


def test_digest_tells_swapped_ids_apart() -> None:
    def tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
        return Tokenizer(tokenizers.Tokenizer(models.BPE(vocabulary, [])), eos_ids=[])

    assert (
        tokenizer({"a": 0, "b": 1}).vocabulary_digest
        == tokenizer({"b": 1, "a": 0}).vocabulary_digest
    )
    assert (
        tokenizer({"a": 0, "b": 1}).vocabulary_digest
        != tokenizer({"a": 1, "b": 0}).vocabulary_digest
    )


@pytest.mark.parametrize("pre", ["qwen2", "smollm"])
def test_digits_stay_single_though_a_merge_would_join_them(gguf_file: Path, pre: str) -> None:
    metadata = dict(read_gguf(gguf_file).metadata)
    for key, more in (("pre", pre), ("tokens", "12"), ("token_type", 1), ("merges", "1 2")):
        stored = metadata[f"tokenizer.ggml.{key}"]
        metadata[f"tokenizer.ggml.{key}"] = more if key == "pre" else [*stored, more]
    tokenizer = tokenizer_from_gguf(metadata, gguf_file)
    assert tokenizer.encode("12") == tokenizer.encode("1") + tokenizer.encode("2")


def test_qwen2_composes_accents(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", weights("qwen2", 323), arch="qwen2", pre="qwen2")
    tokenizer = open_checkpoint(path).tokenizer()
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre": "mystery"}, r"expected a pre-tokenizer of qwen2, smollm, found 'mystery'"),
        ({"model": "llama"}, r"expected a tokenizer of kind gpt2, found 'llama'"),
        ({"tokens": None}, r"expected the key tokenizer\.ggml\.tokens, found none"),
        ({"token_type": [1]}, r"expected a vocabulary with merges"),
        ({"merges": ["not there"]}, r"expected a vocabulary with merges"),
    ],
)
def test_refuses_unknown_gguf_tokenizers(
    gguf_file: Path, change: dict[str, object], message: str
) -> None:
    metadata = dict(read_gguf(gguf_file).metadata)
    for key, value in change.items():
        metadata[f"tokenizer.ggml.{key}"] = value
        if value is None:
            del metadata[f"tokenizer.ggml.{key}"]
    with pytest.raises(CheckpointError, match=rf"tiny\.gguf: {message}"):
        tokenizer_from_gguf(metadata, gguf_file)


def test_bos_is_added_once() -> None:
    backend = train_backend()
    bos = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[(SPECIAL[1], 1)])
    backend.post_processor = bos
    tokenizer = Tokenizer(backend, eos_ids=[2])
    plain = tokenizer.encode("Mars", add_special_tokens=False)
    assert tokenizer.encode("Mars") == [1, *plain]
    assert tokenizer.encode("<|im_start|>Mars") == [1, *plain]


def test_truncation_and_padding_of_a_stored_tokenizer_are_switched_off() -> None:
    backend = train_backend()
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    text = "Mars is red, Mars is dark"
    assert Tokenizer(backend, eos_ids=[2]).encode(text) == train_backend().encode(text).ids


def test_chat_ends_where_the_assistant_begins() -> None:
    expected = "<|im_start|>user\nMars is red<|im_end|>\n<|im_start|>assistant\n"
    assert TRAINED.chat(MESSAGES) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.__class__.__mro__ }}", "unsafe"),
        ("{% if %}", "refuses"),
        ("{{ messages[0].content + 1 }}", "refuses"),
    ],
)
def test_refuses_bad_chats_by_name(template: str | None, message: str) -> None:
    tokenizer = Tokenizer(train_backend(), eos_ids=[2], chat_template=template)
    with pytest.raises(CheckpointError, match=message):
        tokenizer.chat(MESSAGES)


def test_template_may_name_tokens_and_write_json() -> None:
    template = "{{ bos_token }}{{ {'a': '<é>'} | tojson }}{% if tools %}no{% endif %}"
    tokenizer = Tokenizer(
        train_backend(), eos_ids=[], chat_template=template, template_tokens={"bos_token": "<s>"}
    )
    assert tokenizer.chat(MESSAGES) == '<s>{"a": "<é>"}'


ids = st.lists(st.integers(0, TRAINED.vocab_size - 1), max_size=40)
chunks = st.lists(st.lists(st.integers(0, TRAINED.vocab_size - 1), max_size=4), max_size=12)


@given(chunks)
def test_stream_joins_to_the_whole_text(parts: list[list[int]]) -> None:
    stream = TextStream(TRAINED)
    text = "".join(stream.feed(part) for part in parts) + stream.finish()
    assert text == TRAINED.decode([token for part in parts for token in part])


@given(ids)
def test_what_a_stream_hands_out_never_changes(tokens: list[int]) -> None:
    stream = TextStream(TRAINED)
    out = ""
    for count, token in enumerate(tokens, 1):
        out += stream.feed([token])
        assert TRAINED.decode(tokens[:count]).startswith(out)
        assert TRAINED.decode(tokens).startswith(out)


@given(st.text(max_size=30))
def test_stream_of_a_text_holds_no_half_characters(text: str) -> None:
    stream = TextStream(TRAINED, skip_special_tokens=False)
    parts = [stream.feed([token]) for token in TRAINED.encode(text)]
    assert all("\ufffd" not in part for part in parts) or "\ufffd" in text
    assert "".join(parts) + stream.finish() == text


def test_stream_waits_for_a_character_of_several_tokens() -> None:
    tokens = TRAINED.encode("🪐")
    assert len(tokens) > 1
    stream = TextStream(TRAINED)
    assert [stream.feed([token]) for token in tokens] == [""] * (len(tokens) - 1) + ["🪐"]
    assert stream.finish() == ""


def test_stream_keeps_spaces_of_decoders_that_strip_the_first() -> None:
    """As SentencePiece does: a space at the start of a text is not part of it."""
    vocabulary = {"▁Mars": 0, "▁is": 1, "▁red": 2, "<0xE6>": 3, "<0x97>": 4, "<0xA5>": 5}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    stream = TextStream(Tokenizer(backend, eos_ids=[]))
    assert [stream.feed([t]) for t in range(6)] == ["Mars", " is", " red", "", "", "日"]
