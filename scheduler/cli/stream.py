"""A text on its way to the reader, with what was guessed right set apart."""

from __future__ import annotations

from collections import deque
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
        self._pieces: deque[tuple[str, bool]] = deque()
        self._num_taken = 0
        self._held: list[str] = []
        self._ends_line = False

    def add(self, tokens: Sequence[int], num_guessed: int, num_sure: int | None = None) -> None:
        """Take the next tokens.

        Args:
            tokens: of the text.
            num_guessed: how many of them, the first ones, had been guessed.
            num_sure: characters of the whole text that may be shown; None: all.
        """
        for number, token in enumerate(tokens):
            self._pieces.append((self._stream.feed([token]), number < num_guessed))
        self._take(num_sure)

    def flush(self) -> None:
        """Write what has come so far."""
        self._out.write("".join(self._held))
        self._out.flush()
        self._held.clear()

    def finish(self, num_sure: int | None = None) -> None:
        """Write the rest, and end the line unless the text did."""
        self._pieces.append((self._stream.finish(), False))
        self._take(num_sure)
        if not self._ends_line:
            self._held.append("\n")
        self.flush()

    def _take(self, num_sure: int | None) -> None:
        """Hand out the pieces up to there, and a part of the next one."""
        while self._pieces:
            piece, is_guessed = self._pieces.popleft()
            room = len(piece) if num_sure is None else num_sure - self._num_taken
            self._hand_out(piece[:room], is_guessed=is_guessed)
            if room < len(piece):
                self._pieces.appendleft((piece[room:], is_guessed))
                return

    def _hand_out(self, text: str, *, is_guessed: bool) -> None:
        if not text:
            return
        self._num_taken += len(text)
        self._ends_line = text.endswith("\n")
        if self._is_coloured and is_guessed:
            is_blank = text.isspace() and "\n" not in text
            text = (GUESSED_BLANK if is_blank else GUESSED).render(text)
        self._held.append(text)
