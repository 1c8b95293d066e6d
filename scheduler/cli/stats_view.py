"""An engine's statistics as tables."""

from __future__ import annotations

from collections.abc import Iterable

from rich.bar import Bar
from rich.console import Console
from rich.table import Column, Table

from specinfer.scheduler.stats import Stats

NAME_WIDTH, NUMBER_WIDTH, BAR_WIDTH = 16, 8, 24


def print_stats(stats: Stats, console: Console) -> None:
    """Print the gain in one sentence, then what it is made of."""
    console.print(f"\n{gain(stats)}")
    if stats.num_nodes:
        depths = (
            (str(depth), stats.accepted[depth], offered)
            for depth, offered in sorted(stats.offered.items())
        )
        console.print(_rates("depth", "guessed", depths))
        names = (
            (name, stats.accepted_by[number], stats.proposed_by[number])
            for number, name in enumerate(stats.speculators)
        )
        console.print(_rates("speculator", "nodes", names))
    if stats.by_host:
        console.print(f"\n{ways(stats)}")
    if len(stats.by_nodes) > 1:
        console.print(sizes(stats))
    console.print(_times(stats))


def ways(stats: Stats) -> str:
    """How many iterations ran on the device alone, and what kept the others from it.

    >>> stats = Stats(num_by_lanes=6)
    >>> stats.by_host.update(["prompts", "sampling", "sampling"])
    >>> print(ways(stats))
    6 of 9 iterations ran on the device alone; the host conducted 2 for sampling, 1 for prompts
    """
    first, *rest = stats.by_host.most_common()
    total = stats.num_by_lanes + stats.by_host.total()
    others = "".join(f", {count} for {reason}" for reason, count in rest)
    return (
        f"{stats.num_by_lanes} of {total} iterations ran on the device alone; "
        f"the host conducted {first[1]} for {first[0]}{others}"
    )


def sizes(stats: Stats) -> str:
    """How large trees were in iterations that ran on the device alone.

    >>> stats = Stats()
    >>> stats.by_nodes.update([0, 8, 8])
    >>> print(sizes(stats))
    of these 1 guessed no nodes, 2 up to 8
    """
    parts = [f"{count} up to {nodes}" for nodes, count in sorted(stats.by_nodes.items()) if nodes]
    if none := stats.by_nodes[0]:
        parts = [f"{none} guessed no nodes", *parts]
    return f"of these {', '.join(parts)}"


def gain(stats: Stats) -> str:
    """What the trees were good for, with the speed, in one sentence.

    >>> print(gain(Stats(num_steps=4, num_step_tokens=9, seconds={"verify": 3.0})))
    each LLM pass yielded [bold]2.25[/] tokens: 9 tokens in 4 steps, [bold]3.0[/] tokens/s
    """
    return (
        f"each LLM pass yielded [bold]{stats.tokens_per_step:.2f}[/] tokens: "
        f"{stats.num_step_tokens} tokens in {stats.num_steps} steps, "
        f"[bold]{stats.tokens_per_second:.1f}[/] tokens/s"
    )


def _rates(what: str, total: str, rows: Iterable[tuple[str, int, int]]) -> Table:
    table = _table(what, "accepted", total)
    for name, part, whole in rows:
        table.add_row(name, str(part), str(whole), *_share(part, whole, "green"))
    return table


def _times(stats: Stats) -> Table:
    table = _table("phase", "", "seconds")
    total = sum(stats.seconds.values())
    for phase in ("prefill", "draft", "verify", "commit"):
        seconds = stats.seconds.get(phase, 0.0)
        table.add_row(phase, "", f"{seconds:.3f}", *_share(seconds, total, "blue"))
    return table


def _share(part: float, whole: float, colour: str) -> tuple[str, Bar]:
    share = part / whole if whole else 0.0
    return f"{share:.0%}", Bar(1.0, 0.0, share, width=BAR_WIDTH, color=colour)


def _table(name: str, *numbers: str) -> Table:
    """A table whose columns stand below those of the others."""
    columns = [Column(number, justify="right", min_width=NUMBER_WIDTH) for number in numbers]
    return Table(
        Column(f"\n{name}", min_width=NAME_WIDTH, vertical="bottom"),
        *columns,
        Column("share", justify="right"),
        "",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
