"""How fast whole texts are written: without speculation, with sequences, with trees.

All ways of writing (:class:`Writer`) write the same prompts greedily, in turn, repeat by repeat. A
prompt's own pass is not timed: the clock starts when all texts that are written at once have their
first token. What is written is compared with plain decoding, text by text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from time import perf_counter
from typing import Protocol

from specinfer.scheduler.adaptive import AdaptiveTrees
from specinfer.scheduler.assembly import cost_of_steps
from specinfer.scheduler.bench.loading import Loaded
from specinfer.scheduler.bench.report import Row, repeated
from specinfer.scheduler.bench.timing import Tell, silent
from specinfer.scheduler.drafting import Drafting
from specinfer.scheduler.engine import Engine
from specinfer.scheduler.errors import RequestError
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.speculators.proposals import ReducedVocabulary
from specinfer.scheduler.speculators.ssm import SSMSpeculator, level_sizes
from specinfer.scheduler.step_cost import FREE, measure_step_cost

HEADS = ("LLM", "requests", "mode")
"""What the parts of a row's name are."""
PLAIN = "plain"
ADAPTIVE = "adaptive"
"""The largest tree and n-grams, or what part of them is worth its time."""
EXPANSIONS = ((1,) * 4, (1,) * 8, (2, 2, 1, 1, 1), (3, 2, 2, 1, 1, 1))
"""Children of each node, by level: two sequences, and trees of 18 and of 57 nodes."""
AHEAD = 1
"""Iterations that are issued before the last was read, on a GPU."""

Prompt = Sequence[int]


@dataclass(frozen=True, slots=True)
class Written:
    """Texts that were written at once.

    Attributes:
        texts: tokens, by prompt.
        tokens: how many of them were timed.
        seconds: that they took.
        steps: of the LLM for the tokens behind the first of each text, over all of them; 0: nobody
            counted.
        step_tokens: what these yielded.
    """

    texts: list[list[int]]
    tokens: int
    seconds: float
    steps: int = 0
    step_tokens: int = 0


class Writer(Protocol):
    """Writes texts in some way."""

    def write(self, prompts: Sequence[Prompt]) -> Written:
        """Write the texts behind these prompts, all at once."""
        ...


class EngineWriter:
    """Writes with one engine.

    Args:
        engine: with or without speculators.
        max_new_tokens: of a text.
        eos_ids: tokens that end it.
    """

    def __init__(self, engine: Engine, max_new_tokens: int, eos_ids: Collection[int]) -> None:
        self._engine = engine
        self._max_new_tokens = max_new_tokens
        self._eos_ids = frozenset(eos_ids)
        self._numbers = count()

    def write(self, prompts: Sequence[Prompt]) -> Written:
        """Write the texts behind these prompts, all at once."""
        engine, stats = self._engine, self._engine.stats
        requests = [
            Request(
                id=next(self._numbers),
                prompt=prompt,
                max_new_tokens=self._max_new_tokens,
                eos_ids=self._eos_ids,
            )
            for prompt in prompts
        ]
        steps, step_tokens = stats.num_steps, stats.num_step_tokens
        for request in requests:
            engine.submit(request)
        while any(not request.output for request in requests):
            engine.step()
        first = sum(len(request.output) for request in requests)
        start = perf_counter()
        for _ in engine.run():
            pass
        seconds = perf_counter() - start
        return Written(
            [list(request.output) for request in requests],
            sum(len(request.output) for request in requests) - first,
            seconds,
            stats.num_steps - steps,
            stats.num_step_tokens - step_tokens,
        )


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways in which one pair of models is asked to write.

    Attributes:
        expansions: of the SSM's trees, if there is an SSM.
        ngram: most nodes of a tree of n-grams; 0: none are looked for.
        requests: texts at once, at most.
        length: most tokens of a text, its prompt among them.
        max_new_tokens: of a text.
        eos_ids: tokens that end it.
    """

    expansions: Sequence[Sequence[int]]
    ngram: int
    requests: int
    length: int
    max_new_tokens: int
    eos_ids: Collection[int]


def make_writers(llm: Loaded, ssm: Loaded | None, ways: Ways) -> dict[str, Writer]:
    """An engine for each way of writing; all share the models, their weights and their K/V."""
    expansions = ways.expansions if ssm else ()
    sizes = [sum(level_sizes(expansion)) for expansion in expansions]
    nodes = max(1, max(sizes, default=0) + ways.ngram)
    most = ways.length + slack([*map(len, expansions), ways.ngram])
    decoder = llm.decoder(ways.requests, nodes, most)
    is_gpu = llm.place.device != "cpu"

    # As an engine has it that serves.
    cost = cache(
        lambda: cost_of_steps(decoder, nodes) if is_gpu else measure_step_cost(llm.matrices())
    )

    def writer(*speculators: Speculator, drafting: Drafting | None = None) -> EngineWriter:
        lookahead = AHEAD if is_gpu else 0
        engine = Engine(decoder, speculators, drafting, lookahead=lookahead, lanes=is_gpu)
        return EngineWriter(engine, ways.max_new_tokens, ways.eos_ids)

    writers: dict[str, Writer] = {PLAIN: writer()}
    together: list[Speculator] = []
    if ssm:
        drafter, known = ssm.decoder(ways.requests, max(sizes), most), ssm.draft_vocabulary
        size = decoder.model.vocabulary
        vocabulary = ReducedVocabulary(known, size) if known is not None else None
        trees = {
            label(expansion): SSMSpeculator(ssm.name, drafter, expansion, vocabulary=vocabulary)
            for expansion in expansions
        }
        writers |= {name: writer(tree) for name, tree in trees.items()}
        together.append(max(trees.values(), key=lambda tree: tree.max_nodes))
    if ways.ngram:
        writers["n-grams"] = writer(NGramSpeculator(ways.ngram, cost=cost()))
        together.append(NGramSpeculator(ways.ngram, cost=FREE))
    if ssm:
        rows, agree = decoder.model.limits.rows, llm.place.runtime.agree
        drafting = AdaptiveTrees(together, cost(), rows, agree)
        writers[ADAPTIVE] = writer(*together, drafting=drafting)
    return writers


def slack(depths: Sequence[int]) -> int:
    """Tokens of K/V behind the longest text, so that iterations that are ahead find room."""
    return 2 * (1 + AHEAD) * (1 + max(depths, default=0)) + 16


def label(expansion: Sequence[int]) -> str:
    """What a tree is called.

    >>> label((1, 1, 1)), label((2, 2, 1))
    ('sequence of 3', 'tree of 10 <2,2,1>')
    """
    if set(expansion) == {1}:
        return f"sequence of {len(expansion)}"
    return f"tree of {sum(level_sizes(expansion))} <{','.join(map(str, expansion))}>"


def measure_texts(
    name: str,
    writers: Mapping[str, Writer],
    prompts: Sequence[Prompt],
    requests: int,
    *,
    warm: int,
    repeats: int,
    most: int | None = None,
    tell: Tell = silent,
) -> Iterator[Row]:
    """Have all prompts written in all ways, in turn.

    Args:
        name: of the LLM.
        writers: by what they are called; one of them is :data:`PLAIN`.
        prompts: token ids.
        requests: texts at once.
        warm: rounds before the clock counts: a step is recorded, then captured, then replayed.
        repeats: rounds that count.
        most: groups of prompts that are written at once; None: all that there are.
        tell: is told of progress.

    Yields:
        A row for each way.
    """
    groups = [prompts[at : at + requests] for at in range(0, len(prompts), requests)][:most]
    rounds: dict[str, list[_Round]] = {mode: [] for mode in writers}
    done, total = 0, (warm + repeats) * len(writers) * len(groups)
    for turn in range(warm + repeats):
        for mode, writer in writers.items():
            found = []
            for group in groups:
                found.append(writer.write(group))
                done += 1
                tell(f"{requests} at once, {mode}", done, total)
            if turn >= warm:
                rounds[mode].append(_Round.of(found))
    plain = rounds[PLAIN]
    for mode, own in rounds.items():
        speeds = [one.speed for one in own]
        # The same minute of a machine that others use, too, is compared.
        ratios = [one.speed / other.speed for one, other in zip(own, plain, strict=True)]
        gain, per_step = repeated("", ratios, "").value, own[0].tokens_per_step
        against = {
            "over plain": gain,
            "tokens per step": per_step,
            "efficiency": gain / per_step if per_step else None,
            "texts as plain": _num_equal([one.texts for one in own], plain[0].texts),
            "texts": sum(map(len, groups)),
        }
        yield repeated(f"{name}/{requests}/{mode}", speeds, "tokens/s", against)


@dataclass(frozen=True, slots=True)
class _Round:
    """All prompts, written once in one way."""

    texts: list[list[int]]
    speed: float
    tokens_per_step: float | None

    @classmethod
    def of(cls, written: Sequence[Written]) -> _Round:
        if not any(one.tokens for one in written):
            raise RequestError(
                "all texts end with their first token: expected prompts with something to write"
            )
        steps, step_tokens = sum(w.steps for w in written), sum(w.step_tokens for w in written)
        return cls(
            [text for one in written for text in one.texts],
            sum(one.tokens for one in written) / sum(one.seconds for one in written),
            step_tokens / steps if steps else None,
        )


def _num_equal(rounds: Sequence[list[list[int]]], expected: list[list[int]]) -> int:
    """Texts that were the expected ones in all rounds."""
    return sum(all(texts[at] == text for texts in rounds) for at, text in enumerate(expected))


def usable(
    writers: Mapping[str, Callable[[], Writer]], prompts: Sequence[Prompt]
) -> tuple[dict[str, Writer], dict[str, str]]:
    """Writers of other software, as far as they work here.

    Args:
        writers: what makes each.
        prompts: to be tried.

    Returns:
        Those that wrote something, and why the others did not.
    """
    found: dict[str, Writer] = {}
    refused: dict[str, str] = {}
    for name, make in writers.items():
        try:
            writer = make()
            writer.write(prompts)
            found[name] = writer
        except Exception as error:  # of whatever kind: it is not our code
            refused[name] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return found, refused
