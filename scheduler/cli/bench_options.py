"""Options that all of ``specinfer bench`` have in common, and lists of numbers."""

from __future__ import annotations

import argparse
from pathlib import Path

from specinfer.runtime.errors import ConfigError


def numbers(text: str) -> tuple[int, ...]:
    """Numbers of at least 1 with commas between.

    >>> numbers("1,8,64")
    (1, 8, 64)

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not part.isdecimal() or int(part) < 1:
            raise argparse.ArgumentTypeError(
                f"found {part!r}, expected numbers of at least 1 with commas between, such as 1,8"
            )
    return tuple(map(int, parts))


def names(text: str) -> tuple[str, ...]:
    """Names with commas between."""
    return tuple(part.strip() for part in text.split(","))


def shown(values: tuple[int, ...]) -> str:
    """As :func:`numbers` reads them.

    >>> shown((1, 8))
    '1,8'
    """
    return ",".join(map(str, values))


def add_common_options(parser: argparse.ArgumentParser, *, steps: int = 0) -> None:
    """Options that say where and how often it is measured, and where the figures go.

    Args:
        parser: of one of the commands.
        steps: runs for a measurement, by default; 0: the command has no such option.
    """
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu; cuda: one GPU"
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="default: float32 on a CPU, bfloat16 on a GPU",
    )
    group.add_argument(
        "--repeats",
        type=int,
        default=3,
        metavar="N",
        help="measurements of each figure; all figures take turns (default: 3)",
    )
    group.add_argument(
        "--numerics",
        choices=("fast", "invariant"),
        default="fast",
        help="default: fast; invariant: what else is in a step changes no bit",
    )
    if steps:
        group.add_argument(
            "--steps",
            type=int,
            default=steps,
            metavar="N",
            help=f"runs that follow each other at once, for a measurement (default: {steps})",
        )
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print JSON instead of a table")
    group.add_argument("--output", type=Path, metavar="FILE", help="write the JSON to a file, too")
    group.add_argument("--plot", type=Path, metavar="FILE", help="draw the figures as a PNG")
    group.add_argument("--quiet", action="store_true", help="no progress")


def check_common(args: argparse.Namespace) -> None:
    """Refuse what cannot be done, before anything is measured.

    Raises:
        ConfigError: a device that is not there, a number or folder that cannot be, a plot that
            cannot be drawn.
    """
    for name in ("repeats", "steps"):
        if (value := getattr(args, name, 1)) < 1:
            raise ConfigError(f"--{name} is {value}, expected at least 1")
    for option, path in {"--output": args.output, "--plot": args.plot}.items():
        if path and not path.absolute().parent.is_dir():
            raise ConfigError(f"{option} {path}: there is no such folder")
    if args.plot:
        from specinfer.scheduler.bench.plots import check_plots

        check_plots()
    if args.device != "cpu":
        from specinfer.runtime.executor.gpu_check import check_gpu

        check_gpu()
    if args.dtype is None:
        args.dtype = "float32" if args.device == "cpu" else "bfloat16"
