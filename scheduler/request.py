"""A request: its prompt, its output so far, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from specinfer.scheduler.errors import RequestError
from specinfer.scheduler.sampling.logprobs import TokenLogprobs
from specinfer.scheduler.sampling.params import GREEDY, SamplingParams
from specinfer.scheduler.speculation import UNLIMITED, Speculation
from specinfer.scheduler.stopping import Stopping, StopText


@dataclass(slots=True, kw_only=True)
class Request:
    """One text to write.

    Attributes:
        id: its number, unique in an engine.
        prompt: token ids, at least one.
        max_new_tokens: most tokens to write, at least 1.
        eos_ids: tokens that end the text; the one met is the last of the output.
        sampling: how tokens are picked; by default the likeliest.
        stop_ids: other tokens that end the text; the one met is the last of the output, but no part
            of the text.
        num_logprobs: likeliest tokens that are told of each token that is written; 0: nothing is.
        text: the text without what is behind a stop string; None where nothing is cut.
        speculation: how much may be guessed for it.
        output: tokens written so far, all of a stop string among them.
        logprobs: what was told, for each token of the output.
        finish_reason: ``eos``, ``stop`` (a stop string or token) or ``length`` once the request has
            ended.
    """

    id: int
    prompt: Sequence[int]
    max_new_tokens: int
    eos_ids: frozenset[int] = frozenset()
    sampling: SamplingParams = GREEDY
    stop_ids: frozenset[int] = frozenset()
    num_logprobs: int = 0
    text: StopText | None = None
    speculation: Speculation = UNLIMITED
    output: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str | None = None
    _stopping: Stopping = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._stopping = Stopping(
            max_new_tokens=self.max_new_tokens,
            min_new_tokens=self.sampling.min_new_tokens,
            eos_ids=self.eos_ids,
            stop_ids=self.stop_ids,
            text=self.text,
        )

    def anew(self, id: int | None = None, output: Sequence[int] = ()) -> Request:
        """The same request, perhaps under another number, of which so much has been written."""
        text = self.text.anew() if self.text else None
        id = self.id if id is None else id
        request = replace(self, id=id, text=text, output=[], logprobs=[], finish_reason=None)
        request.take(output)
        return request

    @property
    def tokens(self) -> list[int]:
        """Prompt and output."""
        return [*self.prompt, *self.output]

    @property
    def length(self) -> int:
        """Tokens of prompt and output."""
        return len(self.prompt) + len(self.output)

    @property
    def num_remaining(self) -> int:
        """Tokens that may still be written."""
        return self.max_new_tokens - len(self.output)

    def check(self, max_length: int, vocabulary: int, who: str = "") -> None:
        """Refuse what can never be served.

        Args:
            max_length: most tokens of prompt and output together.
            vocabulary: tokens of the model.
            who: what messages call it; by default its number.

        Raises:
            RequestError: an empty prompt, a number that is no token, no token to write, or too long
                a text.
        """
        who = who or f"request {self.id}"
        length = len(self.prompt)
        for what, tokens in (
            ("", self.prompt),
            ("sampling: ", self.sampling.named_tokens),
            ("stop: ", self.stop_ids),
        ):
            for token in tokens:
                if not 0 <= token < vocabulary:
                    raise RequestError(
                        f"{who}: {what}token {token}, expected 0 to {vocabulary - 1}"
                    )
        if not length:
            raise RequestError(f"{who}: the prompt has no tokens, expected 1 or more")
        if self.max_new_tokens < 1:
            raise RequestError(
                f"{who}: max_new_tokens is {self.max_new_tokens}, expected at least 1"
            )
        if self.sampling.min_new_tokens > self.max_new_tokens:
            raise RequestError(
                f"{who}: min_new_tokens is {self.sampling.min_new_tokens}, expected at "
                f"most max_new_tokens, which is {self.max_new_tokens}"
            )
        if length + self.max_new_tokens > max_length:
            raise RequestError(
                f"{who}: {length} prompt tokens and {self.max_new_tokens} new ones, "
                f"expected at most {max_length} together (batch.max_length)"
            )

    def take(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> list[int]:
        """Append accepted tokens up to the end of the text; return those that were kept.

        Args:
            tokens: that were accepted.
            logprobs: of each of them, if the request wants to be told.

        >>> request = Request(id=0, prompt=[1], max_new_tokens=4, eos_ids=frozenset({9}))
        >>> request.take([5, 9, 7]), request.finish_reason
        ([5, 9], 'eos')
        """
        kept = []
        for token in tokens:
            kept.append(token)
            self.finish_reason = self._stopping.take(token, len(self.output))
            self.output.append(token)
            if self.finish_reason:
                break
        self.logprobs += logprobs[: len(kept)]
        return kept
