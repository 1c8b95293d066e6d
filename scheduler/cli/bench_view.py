"""What was measured, as a table: a line for each figure, a column for each part of its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from specinfer.scheduler.bench.ceilings import PREFIX
from specinfer.scheduler.bench.report import Row


def print_result(
    console: Console, machine: Mapping[str, Any], heads: Sequence[str], rows: Sequence[Row]
) -> None:
    """Print on what was measured, what it could do, and what it did.

    Args:
        console: where to.
        machine: its name, and what else bears on speed.
        heads: what the parts of a name are.
        rows: of the run, ceilings among them.
    """
    name = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    console.print(f"[bold]{escape(str(name))}[/], torch {machine['torch']}")
    ceilings = [row for row in rows if row.name.startswith(PREFIX)]
    console.print(
        ", ".join(
            f"{row.name.removeprefix(PREFIX)} {_number(row.value)} {row.unit}" for row in ceilings
        )
    )
    console.print(_table(heads, [row for row in rows if row not in ceilings]))


def _table(heads: Sequence[str], rows: Sequence[Row]) -> Table:
    units = list(dict.fromkeys(row.unit for row in rows))
    # Figures of several units have a column that says which.
    title, kinds = ("value", ["unit"]) if len(units) > 1 else ("".join(units), [])
    names = list(dict.fromkeys(name for row in rows for name in row.against))
    # Remarks are for the file.
    used = [name for name in names if not any(_is_text(row.against.get(name)) for row in rows)]
    titles = [*heads, title, "±", *kinds, *used]
    lines = [
        [*map(escape, row.name.split("/")), *map(_number, (row.value, row.spread))]
        + [escape(row.unit) for _ in kinds]
        + [_number(row.against.get(name)) for name in used]
        for row in rows
    ]
    columns = [
        Column(
            head,
            justify="right" if at else "left",
            vertical="bottom",
            min_width=max((len(line[at]) for line in lines), default=0),  # only titles are broken
            style="bold" if head == title else "",
        )
        for at, head in enumerate(titles)
    ]
    table = Table(*columns, box=None, pad_edge=False, header_style="dim")
    for line in lines:
        table.add_row(*line)
    return table


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> str:
    """Four digits are enough, and two of what is very small.

    >>> [_number(value) for value in (None, 3, 0.0000312, 1.23456, 12345.6)]
    ['-', '3', '3.1e-05', '1.235', '12346']
    """
    if value is None:
        return "-"
    if not isinstance(value, float):
        return escape(str(value))
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.2g}"
