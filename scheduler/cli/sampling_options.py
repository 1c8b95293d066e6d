"""Options that say how tokens are picked, and when a text ends."""

from __future__ import annotations

import argparse
from typing import Any

NUMBERS = (
    ("temperature", float, "T", "0 (default): the likeliest token; above: draw, 1 as the LLM says"),
    ("top_k", int, "K", "only the K likeliest tokens (default: all)"),
    ("top_p", float, "P", "only the likeliest tokens that together have probability P"),
    ("min_p", float, "P", "only tokens with at least P times the likeliest one's probability"),
    ("typical_p", float, "P", "only the most typical tokens that together have probability P"),
    (
        "repetition_penalty",
        float,
        "R",
        "above 1: tokens of prompt and output are less likely to come again",
    ),
    ("presence_penalty", float, "X", "taken from the logits of tokens in the output"),
    ("frequency_penalty", float, "X", "the same, for each time a token stands there"),
)
FLAGS = (
    *(name for name, *_ in NUMBERS),
    "logit_bias",
    "bad_words",
    "seed",
    "n",
    "logprobs",
    "min_new_tokens",
    "stop",
    "stop_token_ids",
)
"""All of them, as keys of the configuration's ``generation``."""


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Options that say how tokens are picked."""
    group = parser.add_argument_group("sampling")
    for name, kind, letter, text in NUMBERS:
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, type=kind, metavar=letter, help=text)
    group.add_argument(
        "--logit-bias",
        action=_Biases,
        metavar="TOKEN=VALUE",
        help="add to the logit of a token id; -inf bans it; repeatable",
    )
    group.add_argument(
        "--bad-word",
        action="append",
        dest="bad_words",
        metavar="TEXT",
        help="do not write this; repeatable",
    )
    group.add_argument(
        "--seed", type=int, metavar="N", help="the same texts each time (default: told with them)"
    )
    group.add_argument("-n", "--n", type=int, metavar="N", help="texts behind each prompt")
    group.add_argument(
        "--logprobs",
        type=int,
        metavar="K",
        help="with --json: log-probabilities of each token and of the K likeliest",
    )


def add_stopping_options(group: argparse._ArgumentGroup) -> None:
    """Options that say when a text ends."""
    group.add_argument(
        "--min-new-tokens", type=int, metavar="N", help="tokens before which no text ends"
    )
    group.add_argument(
        "--stop", action="append", metavar="TEXT", help="end the text before this; repeatable"
    )
    group.add_argument(
        "--stop-token-ids", type=_ids, metavar="ID,ID,...", help="end the text before these tokens"
    )


class _Biases(argparse.Action):
    """Collects ``TOKEN=VALUE`` in a mapping."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        token, _, bias = values.partition("=")
        try:
            pair = {int(token): float(bias)}
        except ValueError:
            raise argparse.ArgumentError(
                self, f"{values!r}, expected TOKEN=VALUE, such as 42=-1.5"
            ) from None
        setattr(namespace, self.dest, (getattr(namespace, self.dest) or {}) | pair)


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}, expected token ids with commas between, such as 13,198"
        ) from None
