"""A text on its way to the reader, with what was guessed right set apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.style import Style

from specinfer.models.tokenizer import TextStream, Tokenizer

GUESSED = Style(color="green")
"""Tokens that a speculator guessed; the LLM's own are plain."""

GUESSED_BLANK = Style(color="green", underline=True)
"""Spaces among them, which have no colour to show."""


class StreamedText:
    """Writes one text while its tokens arrive.

    Args:
        tokenizer: the model's.
        out: where to write.
        is_coloured: whether guessed tokens are coloured.
    """

    def __init__(self, tokenizer: Tokenizer, out: TextIO, *, is_coloured: bool) -> None:
        self._stream = TextStream(tokenizer)
        self._out = out
        self._is_coloured = is_coloured
        self._held: list[str] = []
        self._ends_line = False

    def add(self, tokens: Sequence[int], num_guessed: int) -> None:
        """Take the next tokens, of which the first ``num_guessed`` had been guessed."""
        for number, token in enumerate(tokens):
            text = self._stream.feed([token])
            self._ends_line = text.endswith("\n") if text else self._ends_line
            if text and self._is_coloured and number < num_guessed:
                is_blank = text.isspace() and "\n" not in text
                text = (GUESSED_BLANK if is_blank else GUESSED).render(text)
            self._held.append(text)

    def flush(self) -> None:
        """Write what has come so far."""
        self._out.write("".join(self._held))
        self._out.flush()
        self._held.clear()

    def finish(self) -> None:
        """Write the rest, and end the line unless the text did."""
        rest = self._stream.finish()
        is_ended = rest.endswith("\n") if rest else self._ends_line
        self._held += [rest, "" if is_ended else "\n"]
        self.flush()
