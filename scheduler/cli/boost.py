"""``specinfer boost``: make SSMs for an LLM, one trained behind the other."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from specinfer.runtime.errors import ConfigError

if TYPE_CHECKING:  # generic in the type stubs only; watch and tuning import torch
    from specinfer.scheduler.boost.watch import Watch
    from specinfer.scheduler.cli.fetch import Subparsers

_EPILOG = """\
examples:
  specinfer boost examples/boost.yaml
  specinfer boost examples/boost.yaml --until writing
  specinfer boost examples/boost.yaml --resume --device cuda --seconds 540
"""
LINE_SECONDS = 10.0
"""Between lines where no terminal shows bars."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "boost",
        help="train small models that guess a large one's tokens",
        description="Train SSMs for an LLM on its own continuations: the first on all prompts, each"
        " next one on those that no earlier one reproduces. Their folders then serve as --draft.",
        epilog=_EPILOG,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="what to do, in YAML")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where (default: cpu)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with what is in the folder")
    parser.add_argument(
        "--until",
        default="",
        metavar="PHASE",
        help="stop behind prompts, writing, base, ssm-1, ...",
    )
    parser.add_argument(
        "--seconds", type=float, default=0.0, metavar="N", help="stop then; --resume goes on"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one value of the configuration, as YAML: `training.seconds=60`; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what the options say.

    Args:
        args: as :func:`add_parser` defines them.

    Returns:
        The exit code, 0; also where a budget ended the run.

    Raises:
        SpecInferError: a configuration, model or file that cannot be used.
    """
    from specinfer.models.fetch import home_from_environment
    from specinfer.runtime.config import from_mapping, read_yaml
    from specinfer.scheduler.boost.config import BoostConfig, load_boost_config
    from specinfer.scheduler.boost.tuning import Tuning
    from specinfer.scheduler.boost.watch import Budget
    from specinfer.scheduler.cli.options import put_values

    budget = Budget(args.seconds)
    config = load_boost_config(args.config)
    if args.set:
        data: dict[str, Any] = read_yaml(args.config)
        put_values(data, args.set)
        config = from_mapping(BoostConfig, data)
    if args.seconds < 0:
        raise ConfigError(f"--seconds is {args.seconds:g}, expected at least 0")
    _check_device(args.device)
    out = Path(config.out)
    if not args.resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: expected no such folder, or an empty one, or --resume")
    try:
        with _shown(is_quiet=args.quiet) as watch:
            tuning = Tuning(config, home_from_environment(), device=args.device, watch=watch)
            is_done = tuning.run(budget, args.until)
    except OSError as error:
        raise ConfigError(f"{out}: {error}") from error
    report = tuning.report() | {"done": is_done}
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    return 0


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no GPU here")


@contextmanager
def _shown(*, is_quiet: bool) -> Iterator[Watch]:
    """Bars on a terminal; elsewhere a line now and then."""
    console = Console(stderr=True, quiet=is_quiet)
    if not console.is_terminal:
        yield _Lines(is_quiet=is_quiet)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    with Bars(*columns, TextColumn("[dim]{task.fields[note]}"), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def move(what: str, done: float, total: float, note: str) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, note="")
            bars.update(tasks[what], completed=done, total=total, note=note)

        yield move


class _Lines:
    """A line for each phase's begin and end, and one every few seconds."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._is_quiet = is_quiet
        self._start = monotonic()
        self._what, self._next = "", 0.0

    def __call__(self, what: str, done: float, total: float, note: str) -> None:
        now = monotonic()
        if self._is_quiet or (what == self._what and now < self._next and done < total):
            return
        self._what, self._next = what, now + LINE_SECONDS
        share = f"{done / total:4.0%}" if total else "    "
        print(f"{now - self._start:6.1f} s  {what}  {share}  {note}", file=sys.stderr, flush=True)


def _print(report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    for name, size in report["sets"].items():
        console.print(f"{name}: {size['texts']:,} texts, {size['tokens']:,} tokens of the LLM")
    if report["ssms"]:
        table = Table("set", "SSMs", "top-1", "chain", "tree", "chain, merged", "tree, merged")
        for name, found in report["measured"].items():
            for number, top in enumerate(found["top1"]):
                figures = [
                    found[shape][kind][number]
                    for kind in ("each", "merged")
                    for shape in ("chain", "tree")
                ]
                table.add_row(name, str(number + 1), f"{top:.3f}", *(f"{f:.2f}" for f in figures))
        table.caption = "tokens per step: of each SSM, and of it merged with those before it"
        console.print(table)
        console.print(f"prompts marked by SSM: {report['marked']}, left: {report['left']:,}")
        for folder in report["ssms"]:
            console.print(f"--draft {folder}")
    if not report["done"]:
        console.print("stopped before the end: --resume goes on")
