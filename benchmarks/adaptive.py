"""What adaptive trees cost where guesses are never right, and what they yield where they are.

The drafter runs the LLM's own first layers, and then proposes what it was told to: tokens that are
never right, though it claims 80 %, or the LLM's own text as often as it claims. Engines write the
same text in turns, some tokens each, so that a machine that slows down slows down all of them; the
figures are ratios of tokens per second against no speculation.

    python -m benchmarks.adaptive                # never right: 2,000 tokens behind the warm-up
    python -m benchmarks.adaptive --good         # right: against fixed trees, by number of requests
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import mean, stdev
from time import perf_counter

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.report import Row, markdown, write
from specinfer.models.progress import silent
from specinfer.scheduler.assembly import Assembly, new_runtime
from specinfer.scheduler.config import BatchConfig, PrefixSSM
from specinfer.scheduler.engine import Engine
from specinfer.scheduler.llm import LLM
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators.making import Maker
from specinfer.scheduler.speculators.planted import PlantedMaker, Told
from specinfer.scheduler.verifiers.choice import AUTO

PROMPT = "Once upon a time there was a"
CLAIM = 0.8
CHAIN = (1,) * 8
TREE = (1, 1, 3, 1, 1, 1, 1, 1)
FIXED: Mapping[str, tuple[int, ...]] = {
    "chain of 1": (1,),
    "chain of 2": (1,) * 2,
    "chain of 4": (1,) * 4,
    "chain of 8": CHAIN,
    "the paper's tree": TREE,
}
GOAL = 0.97
"""Of the speed without speculation, where nothing is ever right."""
STDERR = Console(stderr=True)


@dataclass
class Writer:
    """An engine amid its texts.

    Attributes:
        engine: writes them.
        requests: the texts.
        rates: tokens in a second, of each turn.
        seconds: of all turns that counted.
        tokens: of all turns that counted.
    """

    engine: Engine
    requests: Sequence[Request]
    rates: list[float] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0

    @property
    def num_written(self) -> int:
        """Tokens so far, of all texts."""
        return sum(len(request.output) for request in self.requests)

    @property
    def rate(self) -> float:
        """Tokens in a second."""
        return self.tokens / self.seconds

    def go_on(self, until: int) -> None:
        """Write up to so many tokens; the turn counts."""
        start, before = perf_counter(), self.num_written
        while self.num_written < until:
            self.engine.step()
        seconds, tokens = perf_counter() - start, self.num_written - before
        if tokens:
            self.rates.append(tokens / seconds)
            self.seconds += seconds
            self.tokens += tokens

    def warm_up(self, until: int) -> None:
        """Write up to so many tokens; they do not count."""
        while self.num_written < until:
            self.engine.step()


class Bench:
    """An LLM, and engines of it.

    Args:
        model: its name.
        requests: texts at once.
        length: tokens of each, with the prompt.
    """

    def __init__(self, model: str, requests: int, length: int) -> None:
        self.llm = LLM(model)
        self._batch = BatchConfig(max_requests=requests, max_length=length)
        tokens = self.llm.encode(PROMPT)
        self.prompts = [tokens[: len(tokens) - n] for n in range(requests)]
        self._tokens = length - len(tokens)

    def writer(self, maker: Maker | None = None, *, is_adaptive: bool = False) -> Writer:
        """An engine that has been given its texts."""
        runtime = new_runtime("serial", torch.float32)
        assembly = Assembly(runtime, self._batch, self._batch.max_length, torch.float32)
        drafts = [maker] if maker else []
        engine = assembly.engine(self.llm.plan(), drafts, AUTO, silent, is_adaptive=is_adaptive)
        found = [
            Request(id=number, prompt=prompt, max_new_tokens=self._tokens)
            for number, prompt in enumerate(self.prompts)
        ]
        for request in found:
            engine.submit(request)
        return Writer(engine, found)

    def maker(self, layers: int, expansion: Sequence[int], told: Told) -> PlantedMaker:
        """Of a drafter that claims the same of each first child, and shares the rest."""
        acceptance = [[CLAIM, *[(1 - CLAIM) / 4] * (width - 1)] for width in expansion]
        plan = self.llm.plan(PrefixSSM(layers))
        return PlantedMaker(plan, tuple(expansion), acceptance=acceptance, told=told)


def in_turns(writers: Sequence[Writer], warm_up: int, tokens: int, turn: int) -> None:
    """Have all write as much, one after the other, some tokens at a time."""
    for writer in track(writers, "warm-up", console=STDERR):
        writer.warm_up(warm_up)
    for start in track(range(0, tokens, turn), "turns", console=STDERR):
        for writer in writers:
            writer.go_on(warm_up + min(start + turn, tokens))


def against(writer: Writer, plain: Writer) -> tuple[float, float]:
    """The ratio of tokens per second, and its standard error over turns."""
    ratios = [a / b for a, b in zip(writer.rates, plain.rates, strict=False)]
    return writer.rate / plain.rate, stdev(ratios) / sqrt(len(ratios)) if len(ratios) > 1 else 0.0


def never_right(options: argparse.Namespace) -> list[Row]:
    """Adaptive trees and a fixed one whose nodes are all wrong, against no speculation."""
    rows = []
    for layers in options.layers:
        bench = Bench(options.model, 1, options.warm_up + options.tokens + 64)
        plain = bench.writer()
        adaptive = bench.writer(bench.maker(layers, TREE, {}), is_adaptive=True)
        in_turns([plain, adaptive], options.warm_up, options.tokens, options.turn)
        ratio, spread = against(adaptive, plain)
        stats = adaptive.engine.stats
        rows.append(
            Row(
                name=f"{options.model}/never right/{layers} layers",
                value=ratio,
                unit="of the speed without speculation",
                spread=spread,
                against={"goal": GOAL, "nodes a step": stats.num_nodes / stats.num_steps},
            )
        )
    return rows


def right(options: argparse.Namespace) -> list[Row]:
    """Adaptive trees against fixed ones, of a drafter that is as good as it claims."""
    rows, layers = [], options.layers[0]
    for requests in options.requests:
        warm_up, tokens = options.warm_up * requests, options.tokens * requests
        bench = Bench(options.model, requests, options.warm_up + options.tokens + 64)
        teller = bench.writer()
        for _ in track(teller.engine.run(), "the LLM's own texts", console=STDERR):
            pass
        told = {tuple(request.prompt): request.output for request in teller.requests}
        plain = bench.writer()
        writers = {"adaptive": bench.writer(bench.maker(layers, TREE, told), is_adaptive=True)}
        for name, expansion in FIXED.items():
            writers[name] = bench.writer(bench.maker(layers, expansion, told))
        in_turns([plain, *writers.values()], warm_up, tokens, options.turn * requests)
        best = max(against(writers[name], plain)[0] for name in FIXED)
        for name, writer in writers.items():
            ratio, spread = against(writer, plain)
            rows.append(
                Row(
                    name=f"{options.model}/right/{requests} requests/{name}",
                    value=ratio,
                    unit="of the speed without speculation",
                    spread=spread,
                    against={
                        "best fixed": best,
                        "tokens a step": writer.engine.stats.tokens_per_step,
                        "turns, mean": mean(writer.rates),
                    },
                )
            )
    return rows


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--good", action="store_true", help="a drafter that is right")
    parser.add_argument(
        "--layers", nargs="+", type=int, default=[2], help="layers that the drafter runs"
    )
    parser.add_argument("--requests", nargs="+", type=int, default=[1], help="with --good")
    parser.add_argument("--tokens", type=int, help="of each text, that count (2000; 300 if good)")
    parser.add_argument("--warm-up", type=int, default=150, help="tokens before them")
    parser.add_argument("--turn", type=int, default=50, help="tokens that an engine writes at once")
    parser.add_argument("--write", action="store_true", help="write the result file")
    options = parser.parse_args()
    options.tokens = options.tokens or (300 if options.good else 2000)
    torch.set_grad_enabled(False)
    rows = right(options) if options.good else never_right(options)
    header = ["", "speed", "standard error"]
    print(markdown(header, [[row.name, row.value, row.spread or 0.0] for row in rows]))
    if options.write:
        print(write("adaptive_good" if options.good else "adaptive_zero", rows))


if __name__ == "__main__":
    main()
