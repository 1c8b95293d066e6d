"""Options that make up one serving configuration.

What stands later wins: defaults, then ``--config FILE``, then flags, then ``--set``. All of it ends
in one mapping, which is read as strictly as a file is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specinfer.runtime.config import from_mapping, parse_yaml, read_yaml
from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.cli import sampling_options

if TYPE_CHECKING:  # the configuration's defaults import torch: only when a command runs
    from specinfer.scheduler.config import ServingConfig

_FLAGS = {
    "model": ("model",),
    "definition": ("definition",),
    "dtype": ("dtype",),
    "executor": ("executor",),
    "verifier": ("speculation", "verifier"),
    "max_requests": ("batch", "max_requests"),
    "max_new_tokens": ("generation", "max_new_tokens"),
    "ignore_eos": ("generation", "ignore_eos"),
    **{name: ("generation", name) for name in sampling_options.FLAGS},
}
"""Where a flag's value goes in the configuration."""


def add_model_options(parser: argparse.ArgumentParser, *, positional: bool = False) -> None:
    """Options that say what the LLM is, its name as ``MODEL`` or as ``--model``."""
    group = parser.add_argument_group("model")
    what = "a name of `specinfer fetch --list`, OWNER/NAME on the hub, a .gguf file or a folder"
    if positional:
        group.add_argument("model", nargs="?", metavar="MODEL", help=what)
    else:
        group.add_argument("--model", metavar="MODEL", help=what)
    group.add_argument(
        "--definition",
        metavar="YAML",
        help="a model definition of your own (default: by the model's type)",
    )
    group.add_argument("--dtype", metavar="TYPE", help="float32 (default) or bfloat16")


def add_speculation_options(parser: argparse.ArgumentParser) -> None:
    """Options that say who speculates."""
    group = parser.add_argument_group("speculation")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--draft",
        action="append",
        metavar="DRAFT",
        help="a speculator: `ngram` or `ngram:NODES` (the text so far), `prefix:LAYERS` (the LLM's"
        " own first layers), or a small model's name or path; repeated, their trees are merged"
        " (default: ngram)",
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
        "--verifier",
        metavar="NAME",
        help="of texts that are sampled: coupled (default: the text of a seed is that without"
        " speculation), mss, mss_without_replacement or naive",
    )


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    """Options that say how much is written, and how its tokens are picked."""
    group = parser.add_argument_group("generation")
    group.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="most tokens of a text (default: 128)"
    )
    group.add_argument(
        "--ignore-eos", action="store_true", default=None, help="go on behind the end of the text"
    )
    sampling_options.add_stopping_options(group)
    group.add_argument(
        "--max-requests", type=int, metavar="N", help="texts written at once (default: 16)"
    )
    sampling_options.add_sampling_options(parser)


def add_configuration_options(parser: argparse.ArgumentParser) -> None:
    """Options for everything, through a file or by key."""
    group = parser.add_argument_group("configuration (defaults < --config < flags < --set)")
    group.add_argument(
        "--executor", metavar="NAME", help="serial (default), or threads: independent tasks at once"
    )
    group.add_argument("--config", type=Path, metavar="YAML", help="a serving configuration")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one value of it, as YAML: `batch.max_rows=256`, `drafts=[{ngram: 8}]`; repeatable",
    )


def serving_config(args: argparse.Namespace) -> ServingConfig:
    """The configuration that the options describe.

    Args:
        args: what the options of this module were parsed to; any of them may be absent.

    Raises:
        ConfigError: a file, flag or value that cannot be used.
    """
    from specinfer.scheduler.config import ServingConfig

    given = vars(args)
    data: dict[str, Any] = {}
    if path := given.get("config"):
        data = read_yaml(path)
        from_mapping(ServingConfig, data, where=f"{path}: config")
    for flag, keys in _FLAGS.items():
        if given.get(flag) is not None:
            _put(data, keys, given[flag], f"--{flag.replace('_', '-')}")
    if (drafts := _drafts(args)) is not None:
        data["drafts"] = drafts
    put_values(data, given.get("set") or ())
    return from_mapping(ServingConfig, data)


def put_values(data: dict[str, Any], texts: Sequence[str]) -> None:
    """Put what ``--set KEY=VALUE`` says into a configuration's mapping.

    Raises:
        ConfigError: a text that says nothing of the kind.
    """
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--set {text}: expected KEY=VALUE, such as batch.max_rows=256")
        _put(data, key.split("."), parse_yaml(value, f"--set {text}"), f"--set {text}")


def _put(data: dict[str, Any], keys: Sequence[str], value: Any, said: str) -> None:
    """Set a value of nested mappings; those on the way are made."""
    *outer, last = keys
    for number, key in enumerate(outer, start=1):
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{said}: {'.'.join(keys[:number])} is {data!r}, not a mapping")
    data[last] = value


def _drafts(args: argparse.Namespace) -> list[dict[str, Any]] | None:
    """The speculators of the flags; None where no flag says anything about them."""
    expansion = None if args.expansion is None else _expansion(args.expansion)
    drafts = [_draft(text, expansion) for text in args.draft or ()]
    if expansion is not None and all("ngram" in draft for draft in drafts):
        raise ConfigError("--expansion: shapes the tree of `--draft MODEL` and `--draft prefix:N`")
    if args.no_speculation:
        return []
    return drafts or None


def _draft(text: str, expansion: list[int] | None) -> dict[str, Any]:
    from specinfer.scheduler.config import NGram

    kind, colon, number = text.partition(":")
    shape = {} if expansion is None else {"expansion": expansion}
    match kind, colon:
        case "ngram", "":
            return {"ngram": NGram().ngram}
        case "ngram", _:
            return {"ngram": _count(number, text, "nodes")}
        case "prefix", ":":
            return {"prefix_layers": _count(number, text, "layers"), **shape}
        case "", _:
            raise ConfigError(f"--draft {text!r}: expected ngram, prefix:LAYERS or a model")
    return {"model": text, **shape}


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
