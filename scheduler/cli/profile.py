"""``specinfer profile``: what a profile shows, as tables or as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.bar import Bar
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from specinfer.runtime.errors import ConfigError
from specinfer.runtime.profile.summary import NameSummary, Summary, summarize
from specinfer.runtime.profile.timeline import read_profile

if TYPE_CHECKING:  # generic in the type stubs only
    from specinfer.scheduler.cli.fetch import Subparsers

_EPILOG = """\
examples:
  specinfer generate --profile run.json "Why is the sky blue?"
  specinfer profile run.json

The file also opens at https://ui.perfetto.dev.
"""
NAME_WIDTH, NUMBER_WIDTH, BAR_WIDTH, DEFAULT_TOP = 24, 9, 16, 10


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "profile",
        help="sum up a profile that `generate --profile` wrote",
        description="Sum up a profile: how busy each row was, the critical path, the tasks that"
        " took the most time, communication, and time in which only the host was at work.",
        epilog=_EPILOG,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the profile")
    parser.add_argument(
        "--top",
        type=int,
        default=DEFAULT_TOP,
        metavar="N",
        help=f"tasks to show (default: {DEFAULT_TOP})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with all tasks")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what the options say.

    Args:
        args: as :func:`add_parser` defines them.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: the file cannot be read, or is no profile.
    """
    if args.top < 1:
        raise ConfigError(f"--top is {args.top}, expected at least 1")
    summary = summarize(read_profile(args.file))
    if args.json:
        print(json.dumps(summary.as_dict(), ensure_ascii=False, indent=2))
    else:
        print_summary(summary, Console(highlight=False), args.top)
    return 0


def print_summary(summary: Summary, console: Console, top: int = DEFAULT_TOP) -> None:
    """Print where the time went, then what it was spent on.

    Args:
        summary: of a profile.
        console: where to.
        top: most lines of a table of tasks.
    """
    ranks = "1 rank" if len(summary.ranks) == 1 else f"{len(summary.ranks)} ranks"
    console.print(f"[bold]{_ms(summary.total_ns)} ms[/] of {ranks}")
    if summary.num_dropped:
        console.print(f"[yellow]{summary.num_dropped} events came when the profiler was full[/]")
    console.print(_ranks(summary), _rows(summary))
    path = summary.critical_path
    console.print(
        f"\ncritical path: [bold]{_ms(path.total_ns)} ms[/], {len(path.operations)} operations, "
        f"{_share(path.total_ns, summary.total_ns)} of the time"
    )
    console.print(_names("on the path", path.names, top, path.total_ns))
    work = sum(task.total_ns for task in summary.tasks)
    console.print(_names("task", summary.tasks, top, work))
    if summary.requests:
        console.print(_names("phase of requests", summary.requests, top))
    if summary.trace_hit_rate is not None:
        console.print(f"\ntraces replayed: [bold]{summary.trace_hit_rate:.1%}[/] of the tries")
    if summary.counters:
        console.print(_counters(summary))
    if summary.instants:
        console.print(_instants(summary, top))


def _ranks(summary: Summary) -> Table:
    table = _table("rank", "ms", "tasks", "commun.", "exposed", "host only")
    for rank in summary.ranks:
        times = (
            rank.task_ns,
            rank.communication_ns,
            rank.exposed_communication_ns,
            rank.exposed_host_ns,
        )
        shares = (_share(time, rank.total_ns) for time in times)
        table.add_row(f"rank {rank.rank}", _ms(rank.total_ns), *shares)
    return table


def _rows(summary: Summary) -> Table:
    table = _table("row", "spans", "busy ms", "busy")
    table.add_column("")
    for row in summary.rows:
        name = row.row if len(summary.ranks) == 1 else f"{row.rank}: {row.row}"
        bar = Bar(1.0, 0.0, min(row.utilisation, 1.0), width=BAR_WIDTH, color="green")
        share = f"{row.utilisation:.1%}"
        table.add_row(escape(name), str(row.count), _ms(row.busy_ns), share, bar)
    return table


def _names(what: str, names: Sequence[NameSummary], top: int, whole: int = 0) -> Table:
    table = _table(what, "count", "ms", "mean us", *(["share"] if whole else []))
    for name in names[:top]:
        share = [_share(name.total_ns, whole)] if whole else []
        mean = f"{name.mean_ns / 1e3:.1f}"
        table.add_row(escape(name.name), str(name.count), _ms(name.total_ns), mean, *share)
    if len(names) > top:
        table.add_row(f"[dim]… {len(names) - top} more[/]")
    return table


def _counters(summary: Summary) -> Table:
    table = _table("counter", "last", "highest")
    for counter in summary.counters:
        name = counter.name if len(summary.ranks) == 1 else f"{counter.rank}: {counter.name}"
        table.add_row(escape(name), f"{counter.last:g}", f"{counter.highest:g}")
    return table


def _instants(summary: Summary, top: int) -> Table:
    table = _table("event", "count")
    table.add_column("reason")
    for instant in summary.instants[:top]:
        table.add_row(escape(instant.name), str(instant.count), escape(instant.reason))
    if len(summary.instants) > top:
        table.add_row(f"[dim]… {len(summary.instants) - top} more[/]")
    return table


def _table(name: str, *numbers: str) -> Table:
    """A table whose columns stand below those of the others."""
    columns: Iterable[Column] = (
        Column(number, justify="right", min_width=NUMBER_WIDTH) for number in numbers
    )
    return Table(
        Column(f"\n{name}", min_width=NAME_WIDTH, vertical="bottom"),
        *columns,
        box=None,
        pad_edge=False,
        header_style="dim",
    )


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.3f}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole if whole else 0.0:.1%}"
