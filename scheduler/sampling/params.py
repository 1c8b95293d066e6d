"""How the next token is chosen: the numbers that turn logits into probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

MAX_SEED = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """The choice of tokens, as :mod:`specinfer.scheduler.sampling.process` carries it out.

    Every default leaves the model's own probabilities as they are, but for the temperature, which
    is greedy.

    Attributes:
        temperature: logits are divided by it; 0: always the likeliest token.
        top_k: only the k likeliest tokens; 0: all.
        top_p: only the likeliest tokens that together have this probability.
        min_p: only tokens with at least this share of the likeliest one's probability.
        typical_p: only the tokens whose surprise is closest to the average one, that together have
            this probability.
        repetition_penalty: logits of tokens in prompt or output are divided by it if they are
            positive, else multiplied; above 1 repeats less.
        presence_penalty: taken once from the logit of each token in the output.
        frequency_penalty: taken from it as often as the token stands there.
        logit_bias: what is added to the logits of some tokens, by token; ``-inf`` bans one. A
            mapping is stored as pairs in the order of tokens.
        bad_words: runs of tokens that are never completed.
        min_new_tokens: tokens that are written at least.
        end_ids: tokens that end the text: impossible before ``min_new_tokens`` are written.
        seed: what the random choices are a function of; None: not yet drawn.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    min_new_tokens: int = 0
    end_ids: frozenset[int] = frozenset()
    seed: int | None = None

    def __post_init__(self) -> None:
        biases = dict(self.logit_bias)
        check_numbers(self)
        check_logit_bias(biases)
        object.__setattr__(self, "logit_bias", tuple(sorted(biases.items())))
        for word in self.bad_words:
            if not word:
                raise ValueError("bad_words has a word without tokens, expected 1 or more")
        for token in self.named_tokens:
            if token < 0:
                raise ValueError(f"token {token}, expected at least 0")

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    @property
    def is_plain(self) -> bool:
        """Whether no logit is changed, so that the likeliest token is the model's own."""
        return (
            self.repetition_penalty == 1
            and self.presence_penalty == self.frequency_penalty == 0
            and not (self.logit_bias or self.bad_words)
            and (not self.min_new_tokens or not self.end_ids)
        )

    @property
    def named_tokens(self) -> Iterator[int]:
        """Every token that is named, which the model's vocabulary must have."""
        yield from dict(self.logit_bias)
        for word in self.bad_words:
            yield from word
        yield from self.end_ids


def check_numbers(params: object) -> None:
    """Refuse numbers outside of their range.

    Args:
        params: has the numbers of :class:`SamplingParams` as attributes.

    Raises:
        ValueError: one that is; says its name, its value, and what is expected.
    """
    for name, expected, is_right in (
        ("temperature", "at least 0, and finite", lambda value: 0 <= value < math.inf),
        ("top_k", "at least 1, or 0 for all tokens", lambda value: value >= 0),
        ("top_p", "above 0 and at most 1", lambda value: 0 < value <= 1),
        ("min_p", "0 to 1", lambda value: 0 <= value <= 1),
        ("typical_p", "above 0 and at most 1", lambda value: 0 < value <= 1),
        ("repetition_penalty", "above 0, and finite", lambda value: 0 < value < math.inf),
        ("presence_penalty", "a finite number", math.isfinite),
        ("frequency_penalty", "a finite number", math.isfinite),
        ("min_new_tokens", "at least 0", lambda value: value >= 0),
        ("seed", "0 to 2**64 - 1", lambda value: value is None or 0 <= value <= MAX_SEED),
    ):
        if not is_right(value := getattr(params, name)):
            raise ValueError(f"{name} is {value}, expected {expected}")


def check_logit_bias(biases: Mapping[int, float]) -> None:
    """Refuse what cannot be added to a logit.

    Raises:
        ValueError: no mapping of tokens to numbers, or a number that is infinitely large.
    """
    if not isinstance(biases, Mapping):
        raise ValueError(f"logit_bias is {biases!r}, expected numbers by token")
    for token, bias in biases.items():
        if type(token) is not int or token < 0:
            raise ValueError(f"logit_bias of token {token!r}, expected a token id, at least 0")
        if not isinstance(bias, (int, float)) or not bias < math.inf:
            raise ValueError(
                f"logit_bias of token {token} is {bias!r}, expected a finite number or -inf"
            )


GREEDY = SamplingParams()
"""The likeliest token of the model's own logits."""
