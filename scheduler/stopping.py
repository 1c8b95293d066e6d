"""When a text ends, and where: tokens and strings that stop it, and its length.

Tokens are looked at one by one, so that it does not matter how many were accepted at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specinfer.models.tokenizer import TextStream


class StopText:
    """A text that arrives in tokens, cut where the first stop string begins.

    The first one is the one that is complete first; of several that end at the same character the
    longest. So the cut does not depend on how the text is divided into tokens.

    Args:
        stream: turns tokens into text; stop strings in special tokens, which it may leave out, are
            not found.
        strings: stop strings, none of them empty.

    Attributes:
        num_sure: characters that are known to stay: what lies behind them may turn out to be the
            beginning of a stop string. It never becomes less.
    """

    def __init__(self, stream: TextStream, strings: Sequence[str]) -> None:
        self.num_sure = 0
        self._stream = stream
        self._strings = tuple(strings)
        self._most = max(map(len, strings), default=1) - 1
        self._pieces: list[str] = []
        self._length = 0
        self._tail = ""

    def anew(self) -> StopText:
        """Another one of the same kind, at its beginning."""
        return StopText(self._stream.anew(), self._strings)

    @property
    def text(self) -> str:
        """The characters that are sure; once it has ended, all of the text."""
        return "".join(self._pieces)[: self.num_sure]

    def feed(self, token: int, *, may_stop: bool = True) -> bool:
        """Take the next token.

        Args:
            token: of the text.
            may_stop: whether a stop string that is complete now counts.

        Returns:
            Whether one was found; then the text is cut, and no token may follow.
        """
        return self._add(self._stream.feed([token]), may_stop)

    def finish(self, *, may_stop: bool = True) -> bool:
        """Take what of the last character is there: no token follows.

        Returns:
            Whether a stop string was found in it; else what was held back belongs to the text.
        """
        is_found = self._add(self._stream.finish(), may_stop)
        if not is_found:
            self.num_sure = self._length
        return is_found

    def _add(self, piece: str, may_stop: bool) -> bool:
        window, old = self._tail + piece, len(self._tail)
        begin = self._length - old
        self._pieces.append(piece)
        self._length += len(piece)
        # What was complete before did not count then, and does not now.
        starts = ((text, window.find(text, max(0, old - len(text) + 1))) for text in self._strings)
        found = [(start + len(text), start) for text, start in starts if start >= 0]
        if found and may_stop:
            self.num_sure = begin + min(found)[1]
            return True
        self._tail = window[-self._most :] if self._most else ""
        self.num_sure = self._length - self._num_held()
        return False

    def _num_held(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        tail = self._tail
        return next(
            (
                count
                for count in range(len(tail), 0, -1)
                if any(
                    text.startswith(tail[-count:]) for text in self._strings if len(text) > count
                )
            ),
            0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """What ends one text.

    Attributes:
        max_new_tokens: most tokens.
        min_new_tokens: tokens before which nothing else ends it.
        eos_ids: tokens that end it as the model meant it.
        stop_ids: other tokens that end it, and are no part of the text.
        text: finds stop strings; None where there are none.
    """

    max_new_tokens: int
    min_new_tokens: int = 0
    eos_ids: frozenset[int] = frozenset()
    stop_ids: frozenset[int] = frozenset()
    text: StopText | None = None

    def take(self, token: int, number: int) -> str | None:
        """Take the next token; return why the text ends with it, or None if it goes on.

        Args:
            token: of the output.
            number: how many were written before it.

        Returns:
            ``eos``, ``stop``, ``length`` or None.

        >>> stopping = Stopping(max_new_tokens=3, stop_ids=frozenset({7}), min_new_tokens=1)
        >>> [stopping.take(token, number) for number, token in enumerate([7, 7])]
        [None, 'stop']
        """
        may_stop = number >= self.min_new_tokens
        reason = None
        if may_stop and token in self.eos_ids:
            reason = "eos"
        elif may_stop and token in self.stop_ids:
            reason = "stop"
        elif number + 1 >= self.max_new_tokens:
            reason = "length"
        text = self.text
        if text is None:
            return reason
        is_found = reason != "stop" and text.feed(token, may_stop=may_stop)
        if is_found or (reason is not None and text.finish(may_stop=may_stop)):
            return "stop"
        return reason
