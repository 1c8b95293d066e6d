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
from specinfer.scheduler.cli.draft_options import drafts_of

if TYPE_CHECKING:  # the configuration's defaults import torch: only when a command runs
    from specinfer.scheduler.config import ServingConfig

_FLAGS = {
    "model": ("model",),
    "definition": ("definition",),
    "dtype": ("dtype",),
    "executor": ("executor",),
    "device": ("device",),
    "numerics": ("numerics",),
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
    group.add_argument("--device", metavar="NAME", help="cpu (default) or cuda: one GPU")
    group.add_argument(
        "--numerics",
        metavar="NAME",
        help="fast (default), or invariant: speculation changes no bit, in bfloat16 either",
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
    if (drafts := drafts_of(args)) is not None:
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
