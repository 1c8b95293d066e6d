"""Options that say who speculates, and what they are in a configuration."""

from __future__ import annotations

import argparse
from typing import Any

from specinfer.runtime.errors import ConfigError


def add_draft_options(parser: argparse.ArgumentParser) -> None:
    """Options that say who speculates."""
    group = parser.add_argument_group("speculation")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--draft",
        action="append",
        metavar="DRAFT",
        help="a speculator: `ngram` or `ngram:NODES` (the text so far), `prefix:LAYERS` (the LLM's"
        " own first layers), `python:PACKAGE.MODULE:CLASS` (a class of yours), or a small model's"
        " name or path; repeated, their trees are merged (default: ngram)",
    )
    choice.add_argument(
        "--no-speculation", action="store_true", help="one token at a time, without guesses"
    )
    group.add_argument(
        "--expansion",
        metavar="K1,K2,...",
        help="children of each node by level, for drafts with a model (default: 1,1,3,1,1,1,1,1)",
    )
    group.add_argument(
        "--corpus",
        action="append",
        metavar="FILE",
        help="texts that `--draft ngram` searches, too: plain text; in a .jsonl file one a line: a"
        " text, or an object with `text`; repeatable",
    )
    group.add_argument(
        "--verifier",
        metavar="NAME",
        help="of texts that are sampled: coupled (default: the text of a seed is that without"
        " speculation), mss, mss_without_replacement or naive",
    )


def drafts_of(args: argparse.Namespace) -> list[dict[str, Any]] | None:
    """The speculators of the flags; None where no flag says anything about them.

    Raises:
        ConfigError: a flag that cannot be used, or that nothing uses.
    """
    drafts = [_draft(text) for text in args.draft or (["ngram"] if args.corpus else [])]
    if args.expansion is not None:
        expansion = _expansion(args.expansion)
        shaped = [draft for draft in drafts if "model" in draft or "prefix_layers" in draft]
        if not shaped:
            raise ConfigError(
                "--expansion: shapes the tree of `--draft MODEL` and `--draft prefix:N`"
            )
        for draft in shaped:
            draft["expansion"] = expansion
    if args.corpus:
        searching = [draft for draft in drafts if "ngram" in draft]
        if not searching or args.no_speculation:
            raise ConfigError("--corpus: is searched by `--draft ngram`")
        for draft in searching:
            draft["corpus"] = list(args.corpus)
    if args.no_speculation:
        return []
    return drafts or None


def _draft(text: str) -> dict[str, Any]:
    from specinfer.scheduler.config import NGram

    kind, colon, rest = text.partition(":")
    match kind, colon:
        case "ngram", "":
            return {"ngram": NGram().ngram}
        case "ngram", _:
            return {"ngram": _count(rest, text, "nodes")}
        case "prefix", ":":
            return {"prefix_layers": _count(rest, text, "layers")}
        case "python", ":":
            return {"plugin": rest}
        case "planted", _:
            raise ConfigError("--draft planted: is for benchmarks, and is had from Python only")
        case "", _:
            raise ConfigError(f"--draft {text!r}: expected ngram, prefix:LAYERS or a model")
    return {"model": text}


def _count(number: str, text: str, what: str) -> int:
    if not number.isdecimal() or int(number) < 1:
        raise ConfigError(f"--draft {text}: expected a number of {what}, at least 1")
    return int(number)


def _expansion(text: str) -> list[int]:
    widths = [part.strip() for part in text.split(",")]
    for width in widths:
        if not width.isdecimal() or int(width) < 1:
            raise ConfigError(
                f"--expansion {text!r}: found {width!r}, expected numbers of at least 1 with commas"
                " between, such as 1,1,3,1"
            )
    return [int(width) for width in widths]
