"""``specinfer bench iteration``: which pair of models, and how often."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.bench.ceilings import measure_ceilings
from specinfer.scheduler.bench.generate import EXPANSIONS
from specinfer.scheduler.bench.iteration import HEADS, Sizes, measure_iterations
from specinfer.scheduler.bench.loading import Place
from specinfer.scheduler.bench.planted import SHARES, load_planted, prompts
from specinfer.scheduler.bench.report import Row
from specinfer.scheduler.bench.shapes import SHAPES, config_of
from specinfer.scheduler.bench.timing import Clock, Tell
from specinfer.scheduler.cli.bench_generate import CEILING_STEPS, check_vocabularies, shares_of


def measure_iteration(args: argparse.Namespace, tell: Tell) -> tuple[Sequence[str], list[Row]]:
    """Do what the options say.

    Args:
        args: of the command.
        tell: is told of progress.

    Returns:
        What the parts of names are, and the figures.

    Raises:
        ConfigError: models or numbers that cannot be used.
    """
    for option in ("llm", "ssm"):
        if (name := getattr(args, option)) not in SHAPES:
            raise ConfigError(
                f"--{option} is {name}, expected a model of random weights: {', '.join(SHAPES)}"
            )
    check_vocabularies(args.llm, args.ssm)
    shares = shares_of(args.shares) if args.shares else SHARES
    dtype, most = getattr(torch, args.dtype), max(args.requests)
    ceilings = measure_ceilings(args.device, dtype, Clock(CEILING_STEPS, args.repeats, tell))
    place = Place.new(args.device, dtype, args.numerics)
    with place.runtime:
        llm = load_planted(args.llm, place, (1.0,))
        ssm = load_planted(args.ssm, place, shares)
        sizes = Sizes(args.requests, args.tree or EXPANSIONS[-1:])
        clock = Clock(args.steps, args.repeats, tell)
        texts = prompts(most, config_of(args.llm)["vocab_size"])
        found = measure_iterations(llm, ssm, texts, sizes, clock)
        return HEADS, [*ceilings.rows, *found]
