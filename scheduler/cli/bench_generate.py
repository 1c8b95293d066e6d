"""``specinfer bench generate``: which models write, which prompts, and in which ways."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from specinfer.models.fetch import home_from_environment
from specinfer.models.padding import PaddedCheckpoint
from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.bench.ceilings import measure_ceilings
from specinfer.scheduler.bench.generate import (
    EXPANSIONS,
    HEADS,
    Prompt,
    Ways,
    make_writers,
    measure_texts,
    usable,
)
from specinfer.scheduler.bench.loading import Loaded, Place, label_of, load_plan
from specinfer.scheduler.bench.planted import SHARES, load_planted, prompts
from specinfer.scheduler.bench.report import Row
from specinfer.scheduler.bench.shapes import SHAPES, config_of
from specinfer.scheduler.bench.timing import Clock, Tell, reading
from specinfer.scheduler.cli.bring import bring
from specinfer.scheduler.cli.prompts import read_prompts
from specinfer.scheduler.config import SSM
from specinfer.scheduler.llm import LLM

DEFAULT_PROMPTS = (
    "Why is the sky blue?",
    "Write Python functions add, subtract, multiply and divide, each with a docstring.",
    "Count from one to thirty in words, with commas between.",
    "Explain what a hash table is to a child of ten years.",
)
PLANTED_PROMPTS = 4
WARM = {"cuda": 3, "cpu": 1}
"""Rounds that do not count: a GPU's steps are recorded, captured, and only then replayed."""
CEILING_STEPS = 5


@dataclass(frozen=True, slots=True)
class _Pair:
    """What writes, and what is written.

    Attributes:
        llm: the model whose texts they are.
        ssm: that guesses, if there is one.
        configs: of both, for other software.
        prompts: token ids.
        eos_ids: tokens that end a text.
        most: tokens that a text may have.
    """

    llm: Loaded
    ssm: Loaded | None
    configs: Sequence[Any]
    prompts: Sequence[Prompt]
    eos_ids: Collection[int]
    most: int


def measure_generate(args: argparse.Namespace, tell: Tell) -> tuple[Sequence[str], list[Row]]:
    """Do what the options say.

    Args:
        args: of the command.
        tell: is told of progress.

    Returns:
        What the parts of names are, and the figures.

    Raises:
        SpecInferError: models, prompts or numbers that cannot be used.
    """
    _check(args)
    dtype = getattr(torch, args.dtype)
    ceilings = measure_ceilings(args.device, dtype, Clock(CEILING_STEPS, args.repeats, tell))
    place = Place.new(args.device, dtype, args.numerics)
    rows = list(ceilings.rows)
    with place.runtime:
        pair = _planted(args, place) if args.llm in SHAPES else _real(args, place, tell)
        length = max(map(len, pair.prompts)) + args.max_new_tokens
        if length > pair.most:
            raise ConfigError(
                f"prompts and texts have up to {length} tokens, but the model was made for "
                f"{pair.most}: expected shorter prompts, or fewer --max-new-tokens"
            )
        ngram = (0 if pair.ssm else 16) if args.ngram is None else args.ngram
        ways = Ways(
            args.tree or EXPANSIONS,
            ngram,
            max(args.requests),
            length,
            args.max_new_tokens,
            pair.eos_ids,
        )
        own = make_writers(pair.llm, pair.ssm, ways)
        for requests in args.requests:
            writers = own | (_others(args, pair, requests) if args.against else {})
            rows += measure_texts(
                pair.llm.name,
                writers,
                pair.prompts,
                requests,
                warm=WARM[args.device] if args.warm is None else args.warm,
                repeats=args.repeats,
                most=args.groups,
                tell=tell,
            )
    return HEADS, rows


def _check(args: argparse.Namespace) -> None:
    least = {"prompts": 1, "groups": 1, "max_new_tokens": 2, "pad_layers": 0, "ngram": 0, "warm": 0}
    for name, number in least.items():
        if (value := getattr(args, name)) is not None and value < number:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}, expected at least {number}")
    is_random = args.llm in SHAPES
    if args.ssm is not None and (args.ssm in SHAPES) != is_random:
        raise ConfigError(
            f"--llm is {args.llm} and --ssm {args.ssm}: expected two models of random weights "
            f"({', '.join(SHAPES)}), or two real ones"
        )
    if is_random:
        for option in ("file", "raw", "pad_layers"):
            if getattr(args, option):
                raise ConfigError(
                    f"--{option.replace('_', '-')}: is for real models, and {args.llm} has random "
                    "weights"
                )
    elif args.shares:
        raise ConfigError(f"--shares: are for models of random weights: {', '.join(SHAPES)}")
    if args.tree and args.ssm is None:
        raise ConfigError("--tree: is drawn by an SSM, expected --ssm, too")
    if args.against:
        from specinfer.scheduler.bench.against_transformers import check_transformers

        check_transformers()


def _planted(args: argparse.Namespace, place: Place) -> _Pair:
    """Random weights whose agreement is chosen."""
    names = [args.llm, *([args.ssm] if args.ssm else [])]
    configs = [config_of(name) for name in names]
    check_vocabularies(args.llm, args.ssm or args.llm)
    shares = shares_of(args.shares) if args.shares else SHARES
    llm = load_planted(args.llm, place, (1.0,))
    ssm = load_planted(args.ssm, place, shares) if args.ssm else None
    count = args.prompts or max(PLANTED_PROMPTS, *args.requests)
    texts = prompts(count, configs[0]["vocab_size"])
    return _Pair(llm, ssm, configs, texts, (), configs[0]["max_position_embeddings"])


def check_vocabularies(llm: str, ssm: str) -> None:
    """Refuse models of random weights that do not have as many tokens each.

    Raises:
        ConfigError: they have not.
    """
    expected, found = config_of(llm)["vocab_size"], config_of(ssm)["vocab_size"]
    if found != expected:
        raise ConfigError(f"--ssm {ssm}: has {found} tokens, expected {expected}, as {llm} has")


def shares_of(text: str) -> tuple[float, ...]:
    """Shares of tokens as the option ``--shares`` has them.

    Raises:
        ConfigError: what is no share, or more than all of them.
    """
    try:
        shares = tuple(map(float, text.split(",")))
    except ValueError:
        shares = (-1.0,)
    if min(shares) < 0 or sum(shares) > 1:
        raise ConfigError(
            f"--shares {text}: expected shares that are at most 1 together, such as 0.7,0.1,0.05"
        )
    return shares


def _real(args: argparse.Namespace, place: Place, tell: Tell) -> _Pair:
    """Models that somebody trained, and prompts for them."""
    home = home_from_environment()
    for name in (args.llm, args.ssm):
        if name:
            bring(name, home, quiet=args.quiet)
    front = LLM(args.llm, dtype=args.dtype, home=home)
    texts = read_prompts((), args.file, sys.stdin) if args.file else list(DEFAULT_PROMPTS)
    texts = texts[: args.prompts]
    is_chat = not args.raw and front.tokenizer.chat_template is not None
    encoded = [
        front.encode([{"role": "user", "content": text}] if is_chat else text) for text in texts
    ]
    plan = replace(front.plan(), name=label_of(args.llm))
    if args.pad_layers:
        padded = PaddedCheckpoint(plan.checkpoint, args.pad_layers)
        plan = replace(plan, name=f"{plan.name} + {args.pad_layers} layers", checkpoint=padded)
    drafter = front.plan(SSM(args.ssm)) if args.ssm else None  # refused before weights are read
    llm, ssm = load_plan(plan, place, reading(plan.name, tell)), None
    if drafter is not None:
        drafter = replace(drafter, name=label_of(args.ssm))
        ssm = load_plan(drafter, place, reading(drafter.name, tell))
    configs = [plan.checkpoint.config, *([drafter.checkpoint.config] if drafter else [])]
    eos_ids: Collection[int] = () if args.ignore_eos else front.tokenizer.eos_ids
    return _Pair(llm, ssm, configs, encoded, eos_ids, front.max_length)


def _others(args: argparse.Namespace, pair: _Pair, requests: int) -> dict[str, Any]:
    """Ways of other software that work here; says of the others why they do not."""
    from specinfer.scheduler.bench.against_transformers import network_of, writers_of

    @cache
    def llm() -> Any:
        return network_of(pair.configs[0], pair.llm.tensors)

    def assistant(ssm: Loaded) -> Callable[[], Any]:
        def make() -> Any:
            if ssm.draft_vocabulary is not None:  # it would take its tokens for the LLM's
                raise ConfigError("the SSM has a vocabulary of its own, expected the LLM's")
            return network_of(pair.configs[1], ssm.tensors)

        return make

    llm()  # what it cannot take at all, is an error
    writers = writers_of(
        llm,
        assistant(pair.ssm) if pair.ssm else None,
        pair.prompts,
        requests,
        args.max_new_tokens,
        pair.eos_ids,
    )
    found, refused = usable(writers, pair.prompts[:requests])
    for name, reason in refused.items():
        print(f"{name}: does not work here: {reason}", file=sys.stderr)
    return dict(found)
