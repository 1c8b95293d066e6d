"""A parser whose help fits the terminal, and whose errors are those of this package."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from specinfer.runtime.errors import ConfigError


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Wraps a text of one line, such as a description; of several, such as examples, none."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


class Parser(argparse.ArgumentParser):
    """Reports what it cannot parse as every other bad input is reported.

    So do its subcommands: an unknown option is told with the help of the command that has none.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter} | kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError that leads to the help."""
        raise ConfigError(f"{message} (see `{self.prog} --help`)")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, and refuse what is unknown here, before a parser above does."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._refusal(unknown))
        return known, unknown

    def _refusal(self, unknown: Sequence[str]) -> str:
        flags = [text.partition("=")[0] for text in unknown if text.startswith("-")]
        if not flags:
            return f"unexpected {' '.join(unknown)!r}"
        alike = get_close_matches(flags[0], self._option_string_actions, n=1, cutoff=0.7)
        return f"unknown option {flags[0]}" + (f", did you mean {alike[0]}?" if alike else "")
