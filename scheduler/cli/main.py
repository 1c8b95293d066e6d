"""``specinfer``: one command, a subcommand for each thing to do.

Whatever this package refuses is one line on standard error and exit code 2, without a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from specinfer import __version__
from specinfer.runtime.errors import SpecInferError
from specinfer.runtime.machine.start import rank_here
from specinfer.scheduler.cli import bench, boost, fetch, generate, inspect, profile, validate
from specinfer.scheduler.cli.parser import Parser
from specinfer.scheduler.cli.ranks import speaking_once

BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 2, 130, 141

_EPILOG = """\
examples:
  specinfer generate "Why is the sky blue?"
  specinfer generate --file prompts.jsonl --json > answers.json
  specinfer fetch --list
  specinfer inspect
  specinfer profile run.json
  specinfer bench step

`specinfer COMMAND --help` explains a command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The exit code: 0, 2 for bad input, 130 when interrupted, 141 when nobody reads the output.
    """
    # Before torch is loaded: where another program holds a core, threads that wait for each other
    # at full speed made texts ten times slower; a short wait costs nothing where none does.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        with speaking_once():
            args = _parser().parse_args(argv)
            code: int = args.run(args)
            sys.stdout.flush()  # here, where a closed pipe is still ours to handle
        return code
    except SpecInferError as error:
        if rank_here() == 0:  # where ranks cannot talk to each other, all of them come here
            print(f"specinfer: error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes once more when it exits; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="specinfer",
        description="Speculative inference of large language models: small models guess, the large"
        " one checks whole token trees in one pass. The text is the one it would have written.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"specinfer {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (generate, fetch, inspect, boost, bench, profile, validate):
        module.add_parser(commands)
    return parser
