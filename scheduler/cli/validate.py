"""``specinfer validate``: what logs of operations show that should not be so."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from specinfer.runtime.validator import validate_files

if TYPE_CHECKING:  # generic in the type stubs only
    from specinfer.scheduler.cli.fetch import Subparsers

_EPILOG = """\
examples:
  specinfer generate --log log.jsonl "Why is the sky blue?"
  specinfer validate log.jsonl
  mpirun -n 2 specinfer generate --set parallel.tensor=2 --log log.jsonl "Hi"
  specinfer validate log.jsonl.0 log.jsonl.1

Logs take some 100 KB a token. Other programs write them with
specinfer.runtime.oplog.
"""
FOUND = 1
"""The exit code where there are errors."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "validate",
        help="check logs of operations for bugs of the runtime",
        description="Check the logs of a program, one of each of its processes: that what waited"
        " for what covers every conflict, that every read saw the right version, that ranks met in"
        " the same transfers, and that everything ended. The exit code is 1 if something is wrong.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="a log of `generate --log`"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what the options say.

    Args:
        args: as :func:`add_parser` defines them.

    Returns:
        The exit code: 1 if there are errors, else 0.

    Raises:
        ConfigError: a file that is no log, or logs that do not belong together.
    """
    findings = validate_files(args.files)
    counts = Counter(finding.severity for finding in findings)
    if args.json:
        fields = ("severity", "kind", "text")
        told = [{name: getattr(finding, name) for name in fields} for finding in findings]
        print(json.dumps(told, ensure_ascii=False, indent=2))
    else:
        for finding in findings:
            print(finding)
        print(f"{counts['error']} errors, {counts['warning']} warnings, {counts['note']} notes")
    return FOUND if counts["error"] else 0
