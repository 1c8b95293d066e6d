"""``specinfer inspect``: what a model computes, as operators and as launches; reads no weights."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from specinfer.models.fetch import home_from_environment
from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.cli import draft_options, options
from specinfer.scheduler.cli.bring import bring

if TYPE_CHECKING:  # these import torch: only when the command runs
    from specinfer.runtime.inspection import Repeated
    from specinfer.scheduler.cli.fetch import Subparsers
    from specinfer.scheduler.config import ServingConfig
    from specinfer.scheduler.plan import Plan

_EPILOG = """\
examples:
  specinfer inspect
  specinfer inspect qwen2.5-coder-0.5b --graph operators
  specinfer inspect --dot - | dot -Tsvg > tasks.svg
"""
BYTES = {"float32": 4, "bfloat16": 2}
PRIVILEGE = r"(?<==)(R|RW|WD|Reduce\(.*?\))(?= )"
WAITS = r"\bafter [0-9, ]+(\(\+ [0-9]+ for memory\)|for memory)?$"
INDENT = " " * 7
"""Of the lines that a launch or an operator goes on in, where one is not enough."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "inspect",
        help="show what a model computes: operators, launches, dependences",
        description="Show a model's parameters, its operator graph, and the task graph of a decode"
        " step: each launch with its privileges and the launches it waits for. Reads no weights.",
        epilog=_EPILOG,
    )
    options.add_model_options(parser, positional=True)
    draft_options.add_draft_options(parser)
    options.add_configuration_options(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--all", action="store_true", help="all layers, not only the first")
    group.add_argument(
        "--graph", choices=("operators", "tasks"), help="only one of the two (DOT: tasks)"
    )
    group.add_argument(
        "--dot", type=Path, metavar="FILE", help="write the LLM's graph in DOT; `-`: print it"
    )
    group.add_argument("--json", action="store_true", help="print JSON, with all layers")
    group.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what the options say.

    Args:
        args: as :func:`add_parser` defines them.

    Returns:
        The exit code, 0.

    Raises:
        SpecInferError: a model or configuration that cannot be used.
    """
    config, plans = _open(args)
    if args.dot:
        _write_dot(plans[0], args.dot, args.graph or "tasks", is_all=args.all)
    elif args.json:
        print(json.dumps([_record(plan) for plan in plans], indent=2))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for plan in plans:
            _print(plan, config.dtype, args.graph, console, is_all=args.all)
    return 0


def _open(args: argparse.Namespace) -> tuple[ServingConfig, list[Plan]]:
    """The LLM, and what it and its SSMs compute."""
    config, home = options.serving_config(args), home_from_environment()
    is_quiet = args.quiet or not sys.stderr.isatty()
    bring(config.model, home, quiet=is_quiet)

    from specinfer.scheduler.llm import LLM

    llm = LLM(config.model, definition=config.definition or None, dtype=config.dtype, home=home)
    models = [model for maker in llm.makers(config.drafts) for model in maker.models]
    return config, [llm.plan(), *(plan for plan, _ in models)]


def _write_dot(plan: Plan, path: Path, which: str, *, is_all: bool) -> None:
    from specinfer.models.compiler import compile_graph
    from specinfer.models.inspection import node_kind, operator_graph, record_step
    from specinfer.runtime.inspection import find_repeated, fold, launch_kind, to_dot

    if which == "operators":
        drawn = operator_graph(plan.graph)
        names = [node.out.name for node in plan.graph.nodes]
        kinds = [node_kind(node) for node in plan.graph.nodes]
    else:
        drawn = record_step(compile_graph(plan.graph))
        names = list(drawn)
        launches = [drawn.nodes[name]["launch"] for name in names]
        kinds = [launch_kind(launch) for launch in launches]
        for name, launch in zip(names, launches, strict=True):
            drawn.nodes[name]["label"] = f"{name} {launch.task.name}"
    repeated = None if is_all else find_repeated(kinds)
    if repeated:
        drawn = fold(drawn, [names[i] for i in repeated.folded], _alike(repeated, plan))
    text = to_dot(drawn, f"{plan.graph.name}.{which}")
    if str(path) == "-":
        print(text, end="")
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _record(plan: Plan) -> dict[str, Any]:
    from specinfer.models.compiler import compile_graph
    from specinfer.models.inspection import record_step
    from specinfer.runtime.inspection import launch_record

    graph = plan.graph
    tasks = record_step(compile_graph(graph))
    return {
        "name": plan.name,
        "model": str(plan.checkpoint.path),
        "definition": plan.definition.name,
        "parameters": plan.parameters,
        "weights": {name: list(shape) for name, shape in graph.weights.items()},
        "operators": [str(node) for node in graph.nodes],
        "launches": [launch_record(tasks, id) for id in tasks],
    }


def _print(plan: Plan, dtype: str, which: str | None, console: Console, *, is_all: bool) -> None:
    from specinfer.models.compiler import compile_graph
    from specinfer.models.inspection import node_kind, record_step
    from specinfer.runtime.inspection import describe_launch, find_repeated, launch_kind

    graph = plan.graph
    count = sum(math.prod(shape) for shape in graph.weights.values())
    console.print(Text(plan.name, "bold"))
    console.print(
        f"  {len(graph.weights)} weights, {count / 1e6:.1f} million numbers,"
        f" {count * BYTES[dtype] / 1e6:.0f} MB in {dtype}",
        f"  {plan.checkpoint.path}",
        sep="\n",
        markup=False,
    )
    _head(console, f"parameters of {plan.definition.name}")
    for name, value in plan.parameters.items():
        console.print(Text.assemble((f"  {name:<12}", "dim"), str(value)))
    if which != "tasks":
        _head(console, f"operators: {len(graph.nodes)}")
        repeated = None if is_all else find_repeated([node_kind(node) for node in graph.nodes])
        _print_lines(console, [f"  {node}" for node in graph.nodes], repeated, plan)
    if which != "operators":
        tasks = record_step(compile_graph(graph))
        _head(console, f"launches of a decode step: {len(tasks)}")
        kinds = [launch_kind(tasks.nodes[id]["launch"]) for id in tasks]
        repeated = None if is_all else find_repeated(kinds)
        _print_lines(console, [describe_launch(tasks, id) for id in tasks], repeated, plan)
    console.print()


def _head(console: Console, text: str) -> None:
    console.print(Text.assemble("\n", (text, "bold")))


def _print_lines(
    console: Console, lines: Sequence[str], repeated: Repeated | None, plan: Plan
) -> None:
    folded = repeated.folded if repeated else range(0)
    for number, line in enumerate(lines):
        if repeated and folded and number == folded.start:
            console.print(Text(f"     … {_alike(repeated, plan)}", "dim"))
        if number not in folded:
            for piece in wrapped(line, console.width):
                text = Text(piece)
                text.highlight_regex(PRIVILEGE, "magenta")
                text.highlight_regex(WAITS, "cyan")
                console.print(text)


def wrapped(line: str, width: int) -> list[str]:
    """A line in pieces that fit; what belongs together stays so, if it fits at all.

    >>> wrapped("  7 add(x=R x, y=R y, out=WD z) after 2, 3 (+ 9 for memory)", 24)
    ['  7 add(x=R x, y=R y,', '       out=WD z)', '       after 2, 3 (+ 9 for memory)']
    """
    glue = "\N{NO-BREAK SPACE}"
    line = re.sub(f"{PRIVILEGE} ", rf"\1{glue}", line)
    line = re.sub(WAITS, lambda found: found[0].replace(" ", glue), line)
    pieces = textwrap.wrap(
        line,
        width,
        subsequent_indent=INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [piece.replace(glue, " ") for piece in pieces]


def _alike(repeated: Repeated, plan: Plan) -> str:
    if repeated.count == plan.parameters.get("layers"):
        return "layer 1 alike" if repeated.count == 2 else f"layers 1..{repeated.count - 1} alike"
    return f"the same {repeated.count - 1} more times"
