"""``specinfer fetch``: bring a model into the cache, or list those that can be brought."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table

from specinfer.models.catalogue import Catalogue, load_catalogue
from specinfer.models.fetch import home_from_environment, locate
from specinfer.scheduler.cli.bring import bring

if TYPE_CHECKING:  # generic in the type stubs only
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "fetch",
        help="bring a model into the cache",
        description="Bring a model into the cache and print where it is.",
    )
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="a name of `--list`, or OWNER/NAME on the Hugging Face hub (default: the smallest)",
    )
    parser.add_argument("--home", type=Path, help="the cache (default: SPECINFER_HOME)")
    parser.add_argument(
        "--list",
        action="store_true",
        help="show what has a short name; with --json also its source",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what the options say.

    Args:
        args: ``name``, ``home``, ``list`` and ``json``, as :func:`add_parser` defines them.

    Returns:
        The exit code, 0.

    Raises:
        FetchError: the model could not be had.
    """
    home = args.home or home_from_environment()
    catalogue = load_catalogue()
    if args.list:
        _list(catalogue, home, as_json=args.json)
        return 0
    name = args.name or catalogue.default
    path = bring(name, home)
    print(json.dumps({"name": name, "path": str(path)}) if args.json else path)
    return 0


def _list(catalogue: Catalogue, home: Path, *, as_json: bool) -> None:
    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "title": entry.title,
            "licence": entry.licence,
            "bytes": entry.num_bytes,
            "source": entry.source,
            "upstream": entry.upstream,
            "default": entry.name == catalogue.default,
            "cached": locate(entry.name, home) is not None,
        }
        for entry in catalogue.entries.values()
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    columns = (
        Column("name", no_wrap=True),
        "title",
        "licence",
        Column("size", justify="right", no_wrap=True),
        "cached",
    )
    table = Table(*columns, box=None, pad_edge=False, header_style="dim")
    for row in rows:
        table.add_row(
            row["name"],
            row["title"],
            row["licence"],
            f"{row['bytes'] / 1e6:.0f} MB",
            "yes" if row["cached"] else "no",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\n{catalogue.default}: where no name is given; --json: with their sources")
