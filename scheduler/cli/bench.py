"""``specinfer bench``: how fast steps, attention, iterations and texts are on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from specinfer.models.fetch import home_from_environment
from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.cli.bench_options import (
    add_common_options,
    check_common,
    names,
    numbers,
    shown,
)
from specinfer.scheduler.cli.bring import bring

if TYPE_CHECKING:  # these import torch: only when the command runs
    from specinfer.scheduler.bench.report import Row
    from specinfer.scheduler.bench.timing import Tell
    from specinfer.scheduler.cli.fetch import Subparsers

_EPILOG = """\
examples:
  specinfer bench step --shapes llama-7b --device cuda
  specinfer bench attention --device cuda --rows 64 --contexts 1024,8192
  specinfer bench iteration --llm llama-7b --ssm llama-68m --device cuda
  specinfer bench generate --llm llama-7b --ssm llama-68m --device cuda
  specinfer bench generate --llm qwen2.5-coder-1.5b --ssm qwen2.5-coder-0.5b --file prompts.jsonl

`specinfer bench WHAT --help` explains each.
"""
_FLOOR = (
    "The floor is what reading and multiplying takes at least, at the speeds of a plain read and of"
    " a large product, which the same run measures."
)
_RANDOM = "llama-7b, llama-68m, qwen2.5-1.5b, qwen2.5-0.5b or tiny"
"""The names of `scheduler.bench.shapes`, which is imported only when the command runs."""
_ROWS = (1, 8, 16, 32, 64, 128)
_STEPS = 10
_ITERATIONS = 64
DEFAULT_LLM = "smollm2-135m"
WIDE = 200
"""Characters of a line that goes to a file or another program."""

Measured = tuple[Sequence[str], "list[Row]"]
"""What the parts of the names are, and the figures."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "bench",
        help="measure how fast this machine is at it",
        description="Measure how fast steps, tree attention, iterations or whole texts are on this"
        " machine, beside what the machine could do.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers(title="what to measure", metavar="WHAT", required=True)
    _add_step(commands)
    _add_attention(commands)
    _add_iteration(commands)
    _add_generate(commands)


def _add_step(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "step",
        help="decode and verify: one step of a model",
        description="Time a step of a model: one row of a request is decoding, more are a token"
        f" tree that is verified. {_FLOOR}",
    )
    parser.add_argument(
        "--shapes",
        type=names,
        default=("llama-68m",),
        metavar="NAME,...",
        help=f"models: {_RANDOM}, which have random weights, or real ones, named as for"
        " `specinfer generate` (default: llama-68m)",
    )
    _add_sizes(parser, requests=(1,), contexts=(128, 1024), rows=_ROWS)
    add_common_options(parser, steps=_STEPS)
    parser.set_defaults(run=lambda args: _run(args, _measure_step, _plot_by("rows", "ms a step")))


def _add_attention(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "attention",
        help="tree attention alone, beside torch's",
        description="Time tree attention of one layer beside torch's scaled_dot_product_attention"
        " with a mask, and on a GPU flex_attention, whose K/V need not be looked up in pages."
        f" {_FLOOR}",
    )
    _add_sizes(parser, requests=(1, 8), contexts=(1024,), rows=(1, 64))
    parser.add_argument("--heads", type=int, default=32, help="of queries (default: 32)")
    parser.add_argument(
        "--kv-heads", type=numbers, default=(8,), metavar="N,...", help="of K/V (default: 8)"
    )
    parser.add_argument("--head-size", type=int, default=128, help="features (default: 128)")
    add_common_options(parser, steps=_STEPS)
    parser.set_defaults(
        run=lambda args: _run(args, _measure_attention, _plot_by("rows", "us a layer"))
    )


def _add_iteration(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "iteration",
        help="an iteration that waits for nobody, by its parts",
        description="Time iterations of an engine over lanes, the same without the engine, and of"
        " them drafting and the LLM's pass alone, each issued back to back; and on a GPU count what"
        " blocks the host. The time that the engine takes in addition is the host's.",
    )
    group = parser.add_argument_group(f"models: {_RANDOM}, of random weights")
    group.add_argument("--llm", default="tiny", metavar="NAME", help="default: tiny")
    group.add_argument("--ssm", default="tiny", metavar="NAME", help="that guesses (default: tiny)")
    _add_shares(group)
    group.add_argument(
        "--tree",
        action="append",
        type=numbers,
        metavar="K1,K2,...",
        help="children of each node by level; repeatable (default: 3,2,2,1,1,1)",
    )
    _add_requests(group)
    add_common_options(parser, steps=_ITERATIONS)
    parser.set_defaults(run=lambda args: _run(args, _measure_iteration, _plot_bars("ms")))


def _add_shares(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--shares",
        metavar="P1,P2,...",
        help="of tokens whose successor such an SSM has at rank 1, 2, ... (default: 0.7,0.1,0.05)",
    )


def _add_requests(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--requests",
        type=numbers,
        default=(1,),
        metavar="N,...",
        help="texts written at once (default: 1)",
    )


def _add_generate(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "generate",
        help="whole texts: plain, by sequences, by trees",
        description="Time greedy texts without speculation, with sequences and with trees, behind"
        " their prompts' own pass, and count how many are those of plain decoding. Efficiency is"
        " what is left of a step's tokens as speed-up.",
    )
    group = parser.add_argument_group("models")
    group.add_argument(
        "--llm",
        default=DEFAULT_LLM,
        metavar="NAME",
        help=f"a model as for `specinfer generate`; or {_RANDOM}, which have random weights, with"
        f" an acceptance that is chosen (default: {DEFAULT_LLM})",
    )
    group.add_argument("--ssm", metavar="NAME", help="that guesses, of the same kind")
    group.add_argument(
        "--pad-layers",
        type=int,
        default=0,
        metavar="N",
        help="give the LLM N more layers that change nothing: it costs what a larger one costs",
    )
    _add_shares(group)
    group = parser.add_argument_group("speculation")
    group.add_argument(
        "--tree",
        action="append",
        type=numbers,
        metavar="K1,K2,...",
        help="children of each node by level; 1,1,1,1 is a sequence; repeatable (default: four of"
        " them)",
    )
    group.add_argument(
        "--ngram",
        nargs="?",
        type=int,
        const=16,
        default=None,
        metavar="NODES",
        help="guess by n-grams, too (default without --ssm: 16 nodes)",
    )
    group = parser.add_argument_group("texts")
    group.add_argument("--file", type=Path, help="prompts, as for `specinfer generate`")
    group.add_argument("--raw", action="store_true", help="do not put prompts into a chat")
    group.add_argument(
        "--prompts", type=int, metavar="N", help="the first N of them (default: all)"
    )
    group.add_argument(
        "--groups",
        type=int,
        metavar="N",
        help="as many times so many at once, at most, so that fewer at once take no longer"
        " (default: until all are written)",
    )
    group.add_argument(
        "--max-new-tokens", type=int, default=128, metavar="N", help="of a text (default: 128)"
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on behind the end of the text")
    _add_requests(group)
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--against",
        choices=("transformers",),
        help="write with the same weights by other software, too",
    )
    add_common_options(parser)
    parser.add_argument(
        "--warm", type=int, metavar="N", help="rounds that do not count (default: 3 on a GPU, or 1)"
    )
    parser.set_defaults(run=lambda args: _run(args, _measure_generate, _plot_bars("tokens/s")))


def _add_sizes(parser: argparse.ArgumentParser, **defaults: tuple[int, ...]) -> None:
    what = {
        "requests": "requests in a step",
        "contexts": "committed tokens of each request",
        "rows": "rows of each request: nodes of its tree",
    }
    for name, default in defaults.items():
        parser.add_argument(
            f"--{name}",
            type=numbers,
            default=default,
            metavar="N,...",
            help=f"{what[name]} (default: {shown(default)})",
        )


def _run(
    args: argparse.Namespace,
    measure: Callable[[argparse.Namespace, Tell], Measured],
    plot: Callable[[Path, Sequence[str], list[Row]], None],
) -> int:
    """Measure, and bring the figures to where they are wanted.

    Args:
        args: as the command's parser gave them.
        measure: takes them, and what is told of progress.
        plot: draws the figures.

    Returns:
        The exit code, 0.

    Raises:
        SpecInferError: what cannot be measured.
    """
    check_common(args)
    with _bar(is_quiet=args.quiet) as tell:
        try:
            heads, rows = measure(args, tell)
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
                raise
            raise ConfigError(
                f"{args.device} has not the memory: {str(error).partition('.')[0]}; expected "
                "smaller models, fewer requests or shorter texts"
            ) from None
    from specinfer.scheduler.bench.report import device, result, write_result
    from specinfer.scheduler.cli.bench_view import print_result

    if args.output:
        write_result(args.output, rows)
    if args.plot:
        plot(args.plot, heads, rows)
    if args.json:
        print(json.dumps(result(rows), indent=1))
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = WIDE  # nobody's lines are broken by it
        print_result(console, device(), heads, rows)
    return 0


def _measure_step(args: argparse.Namespace, tell: Tell) -> Measured:
    import torch

    from specinfer.scheduler.bench.ceilings import measure_ceilings
    from specinfer.scheduler.bench.loading import Place, load_model
    from specinfer.scheduler.bench.shapes import SHAPES
    from specinfer.scheduler.bench.step import HEADS, Sizes, measure_steps
    from specinfer.scheduler.bench.timing import Clock, reading

    for name in args.shapes:
        if name not in SHAPES:
            bring(name, home_from_environment(), quiet=args.quiet)
    dtype, clock = getattr(torch, args.dtype), Clock(args.steps, args.repeats, tell)
    ceilings = measure_ceilings(args.device, dtype, clock)
    rows, sizes = list(ceilings.rows), Sizes(args.requests, args.contexts, args.rows)
    for name in args.shapes:
        place = Place.new(args.device, dtype, args.numerics)
        with place.runtime:
            model = load_model(name, place, reading(name, tell))
            rows += measure_steps(model, sizes, ceilings, clock)
            del model  # the next one may need its memory
    return HEADS, rows


def _measure_attention(args: argparse.Namespace, tell: Tell) -> Measured:
    import torch

    from specinfer.scheduler.bench.attention import HEADS, AttentionShape, measure_attention
    from specinfer.scheduler.bench.ceilings import measure_ceilings
    from specinfer.scheduler.bench.loading import Place
    from specinfer.scheduler.bench.timing import Clock

    for kv_heads in args.kv_heads:
        if args.heads < 1 or args.heads % kv_heads:
            raise ConfigError(f"--heads is {args.heads}, expected a multiple of {kv_heads}")
    if args.head_size < 2 or args.head_size % 2:
        raise ConfigError(f"--head-size is {args.head_size}, expected an even number")
    dtype, clock = getattr(torch, args.dtype), Clock(args.steps, args.repeats, tell)
    ceilings = measure_ceilings(args.device, dtype, clock)
    sizes = product(args.contexts, args.kv_heads, args.requests, args.rows)
    shapes = [
        AttentionShape(requests, rows, args.heads, kv_heads, context, args.head_size)
        for context, kv_heads, requests, rows in sizes
    ]
    new_place = partial(Place.new, args.device, dtype, args.numerics)
    measured = measure_attention(shapes, new_place, ceilings, clock)
    return HEADS, [*ceilings.rows, *measured]


def _measure_iteration(args: argparse.Namespace, tell: Tell) -> Measured:
    from specinfer.scheduler.cli.bench_iteration import measure_iteration

    return measure_iteration(args, tell)


def _measure_generate(args: argparse.Namespace, tell: Tell) -> Measured:
    from specinfer.scheduler.cli.bench_generate import measure_generate

    return measure_generate(args, tell)


def _plot_bars(unit: str) -> Callable[[Path, Sequence[str], list[Row]], None]:
    """Draws a bar for each figure of a unit."""

    def draw(path: Path, heads: Sequence[str], rows: list[Row]) -> None:
        from specinfer.scheduler.bench.plots import plot_bars

        del heads
        found = {row.name: (row.value, row.spread or 0.0) for row in rows if row.unit == unit}
        plot_bars(path, found, x=unit)

    return draw


def _plot_by(head: str, unit: str) -> Callable[[Path, Sequence[str], list[Row]], None]:
    """Draws a curve over one part of the names for each of what the others are."""

    def draw(path: Path, heads: Sequence[str], rows: list[Row]) -> None:
        from specinfer.scheduler.bench.ceilings import PREFIX
        from specinfer.scheduler.bench.plots import plot

        at, curves = heads.index(head), dict[str, dict[float, float]]()
        for row in rows:
            if not row.name.startswith(PREFIX):
                parts = row.name.split("/")
                others = [
                    f"{part} {name}" if part.isdecimal() else part
                    for name, part in zip(heads, parts, strict=True)
                    if name != head
                ]
                curves.setdefault(", ".join(others), {})[int(parts[at])] = row.value
        plot(path, curves, x=head, y=unit)

    return draw


@contextmanager
def _bar(*, is_quiet: bool) -> Iterator[Tell]:
    """A bar on standard error, and what moves it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    is_hidden = is_quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=is_hidden) as bar:
        task = bar.add_task("starting", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield tell
