"""``specinfer generate``: write texts, speculatively, and show how the guessing went."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.style import Style

from specinfer.models.fetch import home_from_environment
from specinfer.runtime.errors import ConfigError
from specinfer.runtime.machine.start import machine_here
from specinfer.runtime.oplog import OperationLog
from specinfer.runtime.profile.profiler import Profiler
from specinfer.runtime.profile.record import TRACE_HITS, TRACE_MISSES
from specinfer.runtime.profile.timeline import write_profile
from specinfer.scheduler.cli import draft_options, options
from specinfer.scheduler.cli.bring import bring
from specinfer.scheduler.cli.progress import progress_bar
from specinfer.scheduler.cli.prompts import read_prompts
from specinfer.scheduler.cli.ranks import gather_profile, log_path, on_first

if TYPE_CHECKING:  # these import torch: only when the command runs
    from specinfer.scheduler.cli.fetch import Subparsers
    from specinfer.scheduler.config import ServingConfig
    from specinfer.scheduler.engine import Event
    from specinfer.scheduler.llm import LLM, Prompt
    from specinfer.scheduler.request import Request

_EPILOG = """\
examples:
  specinfer generate "Why is the sky blue?"
  specinfer generate --draft prefix:4 --draft ngram --stats "Count to 20."
  specinfer generate --temperature 0.8 --top-p 0.95 -n 3 "A haiku about rain."
  specinfer generate --raw --show-tree 3 "def fibonacci(n):"
  specinfer generate --file prompts.jsonl --json > answers.json
  git diff | specinfer generate --max-new-tokens 64
"""
_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("tokens, {task.fields[gain]:.2f} per LLM pass"),
    TimeElapsedColumn(),
)
MAX_HEAD = 100


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "generate",
        help="write the text behind a prompt, or behind many at once",
        description="Write the text behind a prompt. Several prompts are served as one batch.",
        epilog=_EPILOG,
    )
    group = parser.add_argument_group("prompts")
    group.add_argument("prompts", nargs="*", metavar="PROMPT", help="`-`: read standard input")
    group.add_argument(
        "--file",
        type=Path,
        help="one prompt; in a .jsonl file one a line: a text, or an object with `prompt` or"
        " `turns`",
    )
    group.add_argument("--raw", action="store_true", help="do not put prompts into a chat")
    options.add_model_options(parser)
    draft_options.add_draft_options(parser)
    options.add_generation_options(parser)
    options.add_configuration_options(parser)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="tokens that were guessed right, in a text that is written as it comes",
    )
    group.add_argument("--stats", action="store_true", help="tables about the guessing, at the end")
    group.add_argument(
        "--show-tree",
        type=int,
        default=0,
        metavar="N",
        help="draw the token trees of the first N steps",
    )
    group.add_argument(
        "--tree-dot",
        type=Path,
        metavar="FILE",
        help="write the token trees of all steps, or of those of --show-tree, as Graphviz's DOT",
    )
    group.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="write what ran when, for `specinfer profile` and ui.perfetto.dev",
    )
    group.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help="write each operation, for `specinfer validate`; of several ranks FILE.0, FILE.1, ...",
    )
    group.add_argument("--json", action="store_true", help="print one JSON object")
    group.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what the options say.

    Args:
        args: as :func:`add_parser` defines them.

    Returns:
        The exit code, 0.

    Raises:
        SpecInferError: a model, configuration or prompt that cannot be used.
    """
    config = options.serving_config(args)
    if args.show_tree < 0:
        raise ConfigError(f"--show-tree is {args.show_tree}, expected at least 0")
    paths = {"--profile": args.profile, "--tree-dot": args.tree_dot, "--log": args.log}
    for option, path in paths.items():
        if path and not path.absolute().parent.is_dir():
            raise ConfigError(f"{option} {path}: there is no such folder")
    if config.device != "cpu":  # before models are fetched
        from specinfer.runtime.executor.gpu_check import check_gpu

        check_gpu()
    machine = machine_here()
    rank = machine.ranks[0]
    prompts = on_first(machine, lambda: read_prompts(args.prompts, args.file, sys.stdin))
    profiler = Profiler(rank) if args.profile else None
    is_quiet = args.quiet or not sys.stderr.isatty() or rank > 0
    on_first(machine, lambda: _bring(config, quiet=is_quiet))
    log = OperationLog(machine.ranks, log_path(args.log, machine)) if args.log else None
    llm = _load(config, prompts, profiler, log, is_raw=args.raw, is_quiet=is_quiet)
    console = _console(args.color, stderr=True)
    console.quiet = rank > 0
    requests = llm.submit(_inputs(llm, prompts, is_raw=args.raw))
    events = _events(llm, requests, args.tree_dot if rank == 0 else None, args.show_tree)
    if args.json or len(requests) > 1:
        _serve(llm, events, requests, console, args.show_tree, is_quiet=is_quiet)
        if args.json:
            _print_json(llm, config, prompts, requests)
        else:
            _print_texts(llm, prompts, requests, _console(args.color))
    else:
        is_coloured = _is_coloured(_console(args.color))
        _stream(llm, events, console, args.show_tree, is_coloured=is_coloured)
        _say_seed(config, requests[0], console, is_quiet=args.quiet)
    if not (args.stats or args.quiet):
        _say_if_by_host(llm, console)
    if args.stats:
        from specinfer.scheduler.cli.stats_view import print_stats

        print_stats(llm.stats, console)
    if profiler:
        profiler.count(TRACE_HITS, sum(trace.stats.replayed for trace in llm.traces))
        profiler.count(TRACE_MISSES, sum(trace.stats.analysed for trace in llm.traces))
        profile = gather_profile(machine, profiler)
        if profile is not None:
            write_profile(profile, args.profile)
    if log:
        log.close()
    return 0


def _bring(config: ServingConfig, *, quiet: bool) -> None:
    """Have all models on this machine."""
    home = home_from_environment()
    bring(config.model, home, quiet=quiet)
    for draft in config.drafts:
        if name := getattr(draft, "model", None):
            bring(name, home, quiet=quiet)


def _load(
    config: ServingConfig,
    prompts: Sequence[str],
    profiler: Profiler | None,
    log: OperationLog | None,
    *,
    is_raw: bool,
    is_quiet: bool,
) -> LLM:
    """Open the model, refuse prompts that it cannot serve, and only then read the weights."""
    bar = progress_bar("reading weights", Console(stderr=True, quiet=is_quiet), transient=True)
    with bar as progress:
        from specinfer.scheduler.llm import LLM

        llm = LLM(
            config.model,
            definition=config.definition or None,
            dtype=config.dtype,
            home=home_from_environment(),
            progress=progress,
        )
        llm.check(_inputs(llm, prompts, is_raw=is_raw), config.generation, batch=config.batch)
        llm.compile(
            config.generation,
            ssms=config.drafts,
            speculation=config.speculation,
            batch=config.batch,
            executor=config.executor,
            device=config.device,
            numerics=config.numerics,
            parallel=config.parallel,
            memory=config.memory,
            profiler=profiler,
            log=log,
        )
    return llm


def _inputs(llm: LLM, prompts: Sequence[str], *, is_raw: bool) -> list[Prompt]:
    if is_raw or llm.tokenizer.chat_template is None:
        return list(prompts)
    return [[{"role": "user", "content": prompt}] for prompt in prompts]


def _events(
    llm: LLM, requests: Sequence[Request], dot: Path | None, num_trees: int
) -> Iterator[Event]:
    """Serve what was submitted, and write its trees down if they are wanted."""
    if dot is None:
        return llm.run()
    from specinfer.scheduler.cli.tree_dot import written
    from specinfer.scheduler.cli.tree_view import token_as_text

    words = token_as_text(llm.tokenizer)
    return written(llm.run(), dot, words, _numbers(requests), num_trees)


def _numbers(requests: Sequence[Request]) -> dict[int, int]:
    return {request.id: number for number, request in enumerate(requests)}


def _stream(
    llm: LLM, events: Iterable[Event], console: Console, num_trees: int, *, is_coloured: bool
) -> None:
    """Write one text as it comes; behind the trees, if those are to be seen."""
    from specinfer.scheduler.cli.stream import StreamedText
    from specinfer.scheduler.cli.tree_view import TreeView

    text = StreamedText(llm.tokenizer, sys.stdout, is_coloured=is_coloured)
    trees = TreeView(llm.tokenizer, console, num_trees)
    num_sure = None
    for event in events:
        if event.request.text is not None:
            num_sure = event.request.text.num_sure
        text.add(event.tokens, len(event.accepted), num_sure)
        trees.show(event)
        if trees.is_done:
            text.flush()
    text.finish(num_sure)


def _say_seed(config: ServingConfig, request: Request, console: Console, *, is_quiet: bool) -> None:
    """With what the same text comes again, if nobody chose it."""
    seed = request.sampling.seed
    if seed is not None and config.generation.seed is None and not is_quiet:
        console.print(f"[dim]seed {seed}[/]")


def _say_if_by_host(llm: LLM, console: Console) -> None:
    """That lanes were asked for and not used, unless that is only how texts begin and end."""
    from specinfer.scheduler.cli.stats_view import ways
    from specinfer.scheduler.lanes.reasons import PASSING

    if llm.stats.by_host.keys() - PASSING:
        console.print(f"[dim]{ways(llm.stats)}[/]")


def _serve(
    llm: LLM,
    events: Iterable[Event],
    requests: Sequence[Request],
    console: Console,
    num_trees: int,
    *,
    is_quiet: bool,
) -> None:
    """Run to the end, with a bar that counts tokens."""
    from specinfer.scheduler.cli.tree_view import TreeView

    number_of = _numbers(requests)
    trees = TreeView(llm.tokenizer, console, num_trees, len(requests))
    with Progress(*_COLUMNS, console=console, transient=True, disable=is_quiet) as bar:
        total = sum(request.max_new_tokens for request in requests)
        task = bar.add_task(f"{len(requests)} texts", total=total, gain=0.0)
        for event in events:
            done = len(event.tokens)
            if event.request.finish_reason:  # what it might have written more
                done += event.request.num_remaining
            bar.update(task, advance=done, gain=llm.stats.tokens_per_step)
            trees.show(event, number_of[event.request.id])


def _print_texts(
    llm: LLM, prompts: Sequence[str], requests: Sequence[Request], console: Console
) -> None:
    copies = len(requests) // len(prompts)
    for number, request in enumerate(requests):
        head = _head(prompts, number, copies, request.sampling.seed)
        sys.stdout.write(Style(bold=True).render(head) if _is_coloured(console) else head)
        sys.stdout.write(f"\n{llm.result(request).output_text.strip()}\n")
        sys.stdout.write("\n" if number + 1 < len(requests) else "")


def _head(prompts: Sequence[str], number: int, copies: int, seed: int | None) -> str:
    """What stands above a text: the place of its prompt, which of its texts it is, and its seed."""
    prompt, copy = divmod(number, copies)
    of_prompt = f", text {copy + 1} of {copies}" if copies > 1 else ""
    with_seed = "" if seed is None else f", seed {seed}"
    return f"[{prompt + 1}/{len(prompts)}{of_prompt}{with_seed}] {_shortened(prompts[prompt])}"


def _shortened(prompt: str) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= MAX_HEAD else f"{line[: MAX_HEAD - 1]}…"


def _print_json(
    llm: LLM, config: ServingConfig, prompts: Sequence[str], requests: Sequence[Request]
) -> None:
    copies = len(requests) // len(prompts)
    results = [
        {"prompt": prompts[number // copies]} | asdict(llm.result(request))
        for number, request in enumerate(requests)
    ]
    print(
        json.dumps(
            {
                "model": config.model,
                "dtype": config.dtype,
                "drafts": [asdict(draft) for draft in config.drafts],
                "results": results,
                "stats": llm.stats.as_dict(),
            },
            ensure_ascii=False,
            indent=2,
        )
    )


def _console(color: str, *, stderr: bool = False) -> Console:
    return Console(
        stderr=stderr,
        force_terminal=True if color == "always" else None,
        no_color=True if color == "never" else None,
        highlight=False,
    )


def _is_coloured(console: Console) -> bool:
    return console.color_system is not None and not console.no_color
