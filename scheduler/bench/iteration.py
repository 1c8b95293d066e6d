"""Where an iteration over lanes spends its time.

An engine writes texts, and the clock runs over iterations in the middle of a stretch. The same
iterations, from the same texts, are issued back to back without an engine, which leaves what the
device takes; what the engine takes in addition is the host's, exposed. So are drafting and the
LLM's pass alone. All is measured in turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
from statistics import median
from time import perf_counter
from typing import Protocol

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.bench.blocking import blocking_calls
from specinfer.scheduler.bench.generate import AHEAD, Prompt, label, slack
from specinfer.scheduler.bench.lane_parts import DraftPart, IterationPart, StepPart, Texts
from specinfer.scheduler.bench.loading import Loaded
from specinfer.scheduler.bench.report import Row, repeated
from specinfer.scheduler.bench.timing import WARM, Clock, waiter
from specinfer.scheduler.engine import Engine
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators.ssm import SSMSpeculator, level_sizes

HEADS = ("LLM", "requests", "trees", "part")
"""What the parts of a row's name are."""
DRAFT, STEP, ITERATION, WRITTEN = "draft", "step", "iteration", "written"
EXPOSED, SYNCS = "host exposed", "blocking syncs"
CHAIN = (1,) * 8
"""Drawn alone, too: how long eight levels of an SSM take."""
LEFT_OUT = 8
"""Iterations of a stretch before the clock: traces are recorded, verified, and then replayed."""


class Part(Protocol):
    """Something that can be issued again and again."""

    def loaded(self, texts: Texts) -> AbstractContextManager[None]:
        """Have everything ready for these texts."""
        ...

    def issue(self, lanes: int) -> None:
        """Issue it for so many texts."""
        ...


class Writing:
    """Iterations of an engine in the middle of a stretch.

    Args:
        engine: that runs them over lanes.
        prompts: token ids.
        iterations: that are timed, at most.
        depth: most tokens that one accepts.
    """

    def __init__(
        self, engine: Engine, prompts: Sequence[Prompt], iterations: int, depth: int
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._max_new_tokens = num_tokens(iterations, depth)
        self._numbers = count()

    def seconds(self, iterations: int) -> float:
        """Of an iteration, from the reading of one to that of the next."""
        with self._begun():
            start = perf_counter()
            self._step(iterations)
            return (perf_counter() - start) / iterations

    def texts(self, iterations: int) -> tuple[list[list[int]], list[list[int]]]:
        """The texts when the clock starts to run, and so many iterations later."""
        with self._begun() as requests:
            before = [request.tokens for request in requests]
            self._step(iterations)
            return before, [request.tokens for request in requests]

    def blocking_calls(self, iterations: int) -> Counter[str]:
        """What blocks the host in so many iterations; on a GPU."""
        with self._begun(), blocking_calls() as found:
            self._step(iterations)
        return found

    @contextmanager
    def _begun(self) -> Iterator[list[Request]]:
        """Texts of which the first iterations were written; they are given up in the end."""
        engine, stats = self._engine, self._engine.stats
        requests = [
            Request(id=next(self._numbers), prompt=prompt, max_new_tokens=self._max_new_tokens)
            for prompt in self._prompts
        ]
        for request in requests:
            engine.submit(request)
        behind = stats.num_by_lanes + LEFT_OUT
        try:
            while stats.num_by_lanes < behind:
                if engine.is_idle:
                    raise self._not_by_lanes()
                engine.step()
            yield requests
        finally:
            for request in requests:
                engine.cancel(request.id)
            engine.runtime.fence()

    def _step(self, iterations: int) -> None:
        behind = self._engine.stats.num_by_lanes + iterations
        for _ in range(iterations):
            self._engine.step()
        if self._engine.stats.num_by_lanes != behind:
            raise self._not_by_lanes()

    def _not_by_lanes(self) -> ConfigError:
        reasons = ", ".join(self._engine.stats.by_host)
        return ConfigError(
            f"iterations were conducted by the host ({reasons}), expected models and trees such "
            "that they run over lanes"
        )


def num_tokens(iterations: int, depth: int) -> int:
    """How long a text must be that so many iterations are timed, and some issued ahead."""
    return (LEFT_OUT + iterations + 2 * (1 + AHEAD)) * (1 + depth)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The iterations to time.

    Attributes:
        requests: texts at once.
        expansions: of the SSM's trees.
    """

    requests: Sequence[int]
    expansions: Sequence[Sequence[int]]


def measure_iterations(
    llm: Loaded, ssm: Loaded, prompts: Sequence[Prompt], sizes: Sizes, clock: Clock
) -> Iterator[Row]:
    """Time iterations and their parts.

    Args:
        llm: the model whose texts are written; random numbers are put into its K/V.
        ssm: that guesses; as ``llm``.
        prompts: at least as many as there are texts at once.
        sizes: what to time.
        clock: how often.

    Raises:
        ConfigError: iterations that do not run over lanes.
    """
    lanes = max(sizes.requests)
    expansions = list(dict.fromkeys(map(tuple, sizes.expansions)))
    drawn = list(dict.fromkeys([*expansions, CHAIN]))
    depth = max(map(len, drawn))
    nodes = [sum(level_sizes(expansion)) for expansion in drawn]
    length = max(map(len, prompts)) + num_tokens(clock.steps, depth) + slack([depth])
    decoder, drafter = (loaded.decoder(lanes, max(nodes), length) for loaded in (llm, ssm))
    runtime = llm.place.runtime
    for model in (decoder.model, drafter.model):
        for field in ("k", "v"):
            runtime.read(model.kv.part(None, field)).normal_()
    waiter(llm.place.device)()
    ssms = {expansion: SSMSpeculator(ssm.name, drafter, expansion) for expansion in drawn}
    drafts = {expansion: DraftPart(one, lanes) for expansion, one in ssms.items()}
    for expansion in expansions:
        one = ssms[expansion]
        engine = Engine(decoder, [one], lookahead=AHEAD, lanes=True)
        parts: dict[str, Part] = {
            f"{label(expansion)}/{DRAFT}": drafts[expansion],
            f"{label(expansion)}/{STEP}": StepPart(decoder, drafts[expansion]),
            f"{label(expansion)}/{ITERATION}": IterationPart(decoder, one, lanes),
        }
        if expansion == expansions[0]:
            parts = {f"{label(CHAIN)}/{DRAFT}": drafts[CHAIN]} | parts
        for requests in sizes.requests:
            writing = Writing(engine, prompts[:requests], clock.steps, len(expansion))
            name = f"{llm.name}/{requests}"
            found = _in_turn(writing, parts, runtime, clock, f"{name}/{label(expansion)}")
            yield from _rows(name, label(expansion), found)
            if llm.place.device != "cpu":
                calls = writing.blocking_calls(clock.steps)
                yield Row(
                    name=f"{name}/{label(expansion)}/{SYNCS}",
                    value=calls.total() / clock.steps,
                    unit="an iteration",
                    against={"where": ", ".join(calls)},
                )


@dataclass(frozen=True, slots=True)
class _Found:
    """What was measured.

    Attributes:
        parts: seconds of each, by name.
        written: seconds of an iteration of the engine.
        tokens: that an iteration wrote of a text.
    """

    parts: Mapping[str, Sequence[float]]
    written: Sequence[float]
    tokens: float


def _in_turn(
    writing: Writing, parts: Mapping[str, Part], runtime: Runtime, clock: Clock, what: str
) -> _Found:
    """Time all of them in turn, for the same texts."""
    writing.seconds(WARM)  # a prompt that was computed before is found, which saves iterations
    texts, later = writing.texts(clock.steps)
    tokens = sum(map(len, later)) - sum(map(len, texts))
    for part in parts.values():
        _seconds(part, texts, runtime, WARM)
    written: list[float] = []
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    done, total = 0, clock.repeats * (1 + len(parts))
    for _ in range(clock.repeats):
        written.append(writing.seconds(clock.steps))
        clock.tell(what, done := done + 1, total)
        for name, part in parts.items():
            seconds[name].append(_seconds(part, texts, runtime, clock.steps))
            clock.tell(what, done := done + 1, total)
    return _Found(seconds, written, tokens / (len(texts) * clock.steps))


def _seconds(part: Part, texts: Texts, runtime: Runtime, runs: int) -> float:
    """Of a run of a part, of many that follow each other at once."""
    with part.loaded(texts):
        runtime.fence()
        start = perf_counter()
        for _ in range(runs):
            part.issue(len(texts))
        runtime.fence()
        return (perf_counter() - start) / runs


def _rows(name: str, trees: str, found: _Found) -> Iterator[Row]:
    """The figures of one way of drawing."""
    iteration = found.parts[f"{trees}/{ITERATION}"]
    whole = median(iteration)
    for part, seconds in found.parts.items():
        share = {"of iteration": median(seconds) / whole} if part.startswith(f"{trees}/") else {}
        yield repeated(f"{name}/{part}", [1e3 * one for one in seconds], "ms", share)
    against = {"of iteration": median(found.written) / whole, "tokens": found.tokens}
    yield repeated(f"{name}/{trees}/{WRITTEN}", [1e3 * one for one in found.written], "ms", against)
    exposed = [1e6 * (own - bare) for own, bare in zip(found.written, iteration, strict=True)]
    yield repeated(f"{name}/{trees}/{EXPOSED}", exposed, "us")
