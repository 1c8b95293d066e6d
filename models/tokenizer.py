"""Text to token ids and back: a small face over ``tokenizers.Tokenizer``.

Decided here: which special tokens are added, what ends a text, how a chat becomes a prompt, and how
text is handed out while tokens still arrive. Where a tokenizer comes from is left to
:mod:`specinfer.models.gguf_tokenizer` and :mod:`specinfer.models.hf_tokenizer`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import tokenizers

from specinfer.models.chat_template import render_chat
from specinfer.models.errors import CheckpointError

_REPLACEMENT = "\ufffd"


class Tokenizer:
    """The tokenizer of one model.

    Args:
        backend: does the work; its truncation and padding are switched off.
        eos_ids: the tokens that end a generation.
        chat_template: a Jinja program, as Hugging Face stores it; None for a base model.
        template_tokens: texts that the template may name, such as ``bos_token``.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        eos_ids: Iterable[int],
        chat_template: str | None = None,
        template_tokens: Mapping[str, str] | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._eos_ids = frozenset(eos_ids)
        self._chat_template = chat_template
        self._template_tokens = dict(template_tokens or {})
        self._prefix: list[int] = backend.encode("", add_special_tokens=True).ids

    @property
    def vocab_size(self) -> int:
        """The largest id plus one; a model's logits may be padded beyond it."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end a generation."""
        return self._eos_ids

    @property
    def chat_template(self) -> str | None:
        """The Jinja program that lays out a chat; None for a model that has none."""
        return self._chat_template

    @cached_property
    def vocabulary_digest(self) -> str:
        """Equal exactly where the same ids stand for the same tokens.

        An SSM whose digest is another than the LLM's cannot speculate for it.
        """
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        digest = hashlib.sha256()
        for token, index in sorted(vocabulary.items(), key=lambda item: item[1]):
            digest.update(f"{index}\0{token}\0".encode())
        return digest.hexdigest()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; special tokens written in it become their single ids.

        Args:
            text: a raw prompt, or what :meth:`chat` returned.
            add_special_tokens: begin as the model's texts begin (a bos token, if it was trained
                with one). A text that begins so already, as chats do, gets it once all the same.
        """
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        if add_special_tokens and ids[: len(self._prefix)] != self._prefix:
            return [*self._prefix, *ids]
        return ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, on all cores; each as :meth:`encode` gives them."""
        start = self._prefix
        found = [e.ids for e in self._backend.encode_batch(texts, add_special_tokens=False)]
        return [ids if ids[: len(start)] == start else [*start, *ids] for ids in found]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: token ids; those without a token are passed over.
            skip_special_tokens: leave out control tokens such as ``<|im_end|>``.
        """
        return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt of a chat, up to where the assistant begins to speak.

        Args:
            messages: each with ``role`` and ``content``, in order.

        Raises:
            CheckpointError: the model has no chat template, or its template refuses the messages.
        """
        if self._chat_template is None:
            raise CheckpointError("this model has no chat template: give it a raw prompt")
        return render_chat(self._chat_template, messages, self._template_tokens)


class TextStream:
    """Text of tokens that arrive one by one.

    What is handed out never changes: a character whose bytes are still incomplete waits. All that
    was handed out, with :meth:`finish` at the end, is ``tokenizer.decode`` of all tokens.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._window: list[int] = []
        # The window's first tokens are out already. They stay in it because some decoders treat
        # the first token of a text specially.
        self._num_out = 0

    def anew(self) -> TextStream:
        """Another one of the same kind, at its beginning."""
        return TextStream(self._tokenizer, skip_special_tokens=self._skip)

    def feed(self, ids: Iterable[int]) -> str:
        """Take the next tokens; return the text that is complete now, perhaps none."""
        self._window.extend(ids)
        text = self._pending()
        if not text or text.endswith(_REPLACEMENT):  # half a character, or an ill-formed one
            return ""
        self._window = self._window[self._num_out :]
        self._num_out = len(self._window)
        return text

    def finish(self) -> str:
        """Hand out what still waited: it will not become a character any more."""
        text = self._pending()
        self._window, self._num_out = [], 0
        return text

    def _pending(self) -> str:
        out = self._decode(self._window[: self._num_out])
        return self._decode(self._window)[len(out) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip)
