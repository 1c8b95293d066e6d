"""Texts sampled from the LLM, and what SSM and LLM say of each of their tokens.

The texts are written at temperature 1 by our own engine; then both models read along. Of the two
rows of probabilities at each position a few small numbers are kept, which tell how often any
verifier accepts (:mod:`benchmarks.acceptance_law`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from benchmarks.acceptance_law import among, independent, multi_step, without_replacement
from benchmarks.cache import Cache
from benchmarks.prompts import read_json, write_json_gz
from benchmarks.step_law import Rates
from benchmarks.writing import STDERR, follow, load
from specinfer.scheduler.decoder import Decoder, Work
from specinfer.scheduler.engine import Engine
from specinfer.scheduler.llm import LLM, Prompt
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.sampling.process import distribution
from specinfer.scheduler.speculators import Context, Speculator
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.speculators.ssm import SSMSpeculator
from specinfer.scheduler.verifiers.chance import SeededChance

WIDEST = 5
CAP = 16
"""Ranks stop here: this one stands for all that are as large."""
HISTORIES = 8
NGRAM_NODES = 8


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of one text; lists have an entry for each of its tokens.

    Attributes:
        multi_step: acceptance of the first 1 to 5 independent draws by ``mss``.
        without_replacement: the same by ``mss_without_replacement``.
        errors: standard error of the last number of each of these.
        likely: the SSM's probability of the token.
        rank: how many tokens the SSM holds likelier.
        race: how many tokens are before it in the race of the position's noise, run with the SSM's
            probabilities.
        reach: how many levels of an n-gram tree behind the tokens before it agree with the text; 0
            for the first token.
        strays: positions where the noise and the LLM's probabilities, as read, pick another token.
    """

    multi_step: list[list[float]]
    without_replacement: list[list[float]]
    errors: list[float]
    likely: list[float]
    rank: list[int]
    race: list[int]
    reach: list[int]
    strays: int

    def __len__(self) -> int:
        """Tokens of the text."""
        return len(self.rank)

    def rates(self, way: str) -> Rates:
        """Acceptance by trials, for one of :data:`WAYS`."""
        if way == "mss":
            return self.multi_step
        if way == "mss_without_replacement":
            return self.without_replacement
        if way == "naive, draws":
            return [independent(likely, WIDEST) for likely in self.likely]
        ranks = self.rank if way == "naive, likeliest" else self.race
        return [among(rank, WIDEST) for rank in ranks]


WAYS = ("mss", "mss_without_replacement", "naive, draws", "naive, likeliest", "coupled")
"""Verifiers, and for naive sampling how the children were drawn."""

Readings = Mapping[str, Mapping[str, Reading]]
"""By prompt id, by set."""


def seed_of(key: str) -> int:
    """The seed of a prompt's text: always the same one."""
    return zlib.crc32(key.encode())


def _sampling(key: str) -> SamplingParams:
    return SamplingParams(temperature=1.0, seed=seed_of(key))


class Pair:
    """The LLM and the SSM, read when first asked for.

    Args:
        llm: its name.
        ssm: its name.
        requests: most requests at once.
        nodes: most nodes of a tree; a text that is read is one, too.
    """

    def __init__(self, llm: str, ssm: str, requests: int, nodes: int) -> None:
        self._names = llm, ssm
        self._room = {"requests": requests, "nodes": nodes}
        self._front = LLM(llm)

    @cached_property
    def llm(self) -> Decoder:
        """The LLM."""
        return load(self._names[0]).decoder(**self._room)

    @cached_property
    def ssm(self) -> Decoder:
        """The SSM."""
        return load(self._names[1]).decoder(**self._room)

    def speculators(self, widths: Sequence[int], *, with_ngram: bool = False) -> list[Speculator]:
        """The SSM with an expansion, and an n-gram tree behind it."""
        found: list[Speculator] = [SSMSpeculator(self._names[1], self.ssm, widths)]
        return [*found, NGramSpeculator(NGRAM_NODES)] if with_ngram else found

    def write(
        self,
        prompts: Mapping[str, Prompt],
        tokens: int,
        cache: Cache,
        speculators: Sequence[Speculator] = (),
        verifier: str = "coupled",
    ) -> None:
        """Write the texts that the cache does not have."""
        missing = {key: prompt for key, prompt in prompts.items() if key not in cache}
        if not missing:
            return
        engine = Engine(self.llm, speculators, verifier=verifier)
        eos = self._front.tokenizer.eos_ids
        for number, (key, prompt) in enumerate(missing.items()):
            ids = self._front.encode(prompt)
            engine.submit(
                Request(
                    id=number,
                    prompt=ids,
                    max_new_tokens=tokens,
                    eos_ids=eos,
                    sampling=_sampling(key),
                )
            )
        follow(engine.run(), dict(enumerate(missing)), cache)

    def read(
        self, prompts: Mapping[str, Prompt], texts: Cache, tokens: int, cache: Cache
    ) -> dict[str, Reading]:
        """Read the texts along, but those that the cache has.

        Args:
            prompts: by key.
            texts: as :meth:`write` leaves them.
            tokens: most tokens that a text could have had.
            cache: of readings.
        """
        missing = [key for key in prompts if key not in cache]
        for key in track(missing, "reading", console=STDERR):
            prompt, output = self._front.encode(prompts[key]), texts[key]["output"]
            rows = (_logits(self.llm, prompt, output), _logits(self.ssm, prompt, output))
            reach = ngram_reach(prompt, output, tokens)
            cache[key] = asdict(reading(prompt, output, *rows, reach, key))
        return {key: Reading(**cache[key]) for key in prompts}


def _logits(decoder: Decoder, prompt: Sequence[int], output: Sequence[int]) -> Any:
    """(output tokens, vocabulary): the prompt is computed as chains, the text as one path."""
    decoder.slots.reserve(0, len(prompt) + len(output))
    chunk = decoder.model.limits.nodes
    for start in range(0, len(prompt) - 1, chunk):
        chain = prompt[start : min(start + chunk, len(prompt) - 1)]
        decoder.step([Work(request=0, chain=chain, chain_logits=False)])
    path = output[:-1]
    work = Work(request=0, chain=prompt[-1:], tokens=path, parents=range(-1, len(path) - 1))
    logits = decoder.model.runtime.read(decoder.step([work])).clone()
    decoder.slots.release(0)
    return logits


def reading(
    prompt: Sequence[int],
    output: Sequence[int],
    llm_logits: Any,
    ssm_logits: Any,
    reach: Sequence[int],
    key: str,
) -> Reading:
    """Work out what is kept of a text.

    Args:
        prompt: token ids.
        output: n token ids.
        llm_logits: (n, vocabulary).
        ssm_logits: (n, vocabulary).
        reach: of :class:`Reading`.
        key: of the prompt; its seed was the text's.
    """
    params, generator = _sampling(key), np.random.default_rng(seed_of(key))
    columns: dict[str, list[Any]] = {name: [] for name in ("m", "w", "e", "l", "r", "c")}
    strays = 0
    for number, token in enumerate(output):
        before = output[:number]
        p = distribution(llm_logits[number], params, prompt, before).numpy()
        q = distribution(ssm_logits[number], params, prompt, before).numpy()
        position, chance = len(prompt) + number, SeededChance(seed_of(key))
        strays += chance.next_token(position, p) != token
        accepted, error = without_replacement(p, q, token, WIDEST, HISTORIES, generator)
        first = [other for other, _ in chance.likely_tokens(position, q, CAP)]
        columns["m"].append(_short(multi_step(p, q, token, WIDEST)))
        columns["w"].append(_short(accepted))
        columns["e"].append(round(error, 4))
        columns["l"].append(round(float(q[token]), 5))
        columns["r"].append(min(CAP, int((q > q[token]).sum())))
        columns["c"].append(first.index(token) if token in first else CAP)
    return Reading(
        multi_step=columns["m"],
        without_replacement=columns["w"],
        errors=columns["e"],
        likely=columns["l"],
        rank=columns["r"],
        race=columns["c"],
        reach=list(reach),
        strays=strays,
    )


def _short(values: Iterable[float]) -> list[float]:
    return [round(value, 4) for value in values]


def ngram_reach(prompt: Sequence[int], output: Sequence[int], tokens: int) -> list[int]:
    """How far an n-gram tree behind each prefix agrees with the text.

    Args:
        prompt: token ids.
        output: n token ids.
        tokens: most tokens that the text could have had.

    Returns:
        (n,) levels for a step whose first token is at that place of the output.
    """
    speculator = NGramSpeculator(NGRAM_NODES)
    found = [0]
    for number in range(1, len(output)):
        text = [*prompt, *output[:number]]
        (tree,) = speculator.draft([Context(0, text, tokens - number - 1, len(prompt))])
        found.append(len(tree.follow(output[number:])))
    return found


def by_set(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Values by ``set/id``, as values by id by set."""
    sets: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        name, _, prompt = key.partition("/")
        sets.setdefault(name, {})[prompt] = value
    return sets


def save(path: Path, readings: Readings, meta: Mapping[str, Any]) -> None:
    """Write readings in the form that :func:`read_back` reads."""
    sets = {
        name: [{"id": i, **asdict(text)} for i, text in texts.items()]
        for name, texts in readings.items()
    }
    write_json_gz(path, {"meta": dict(meta), "sets": sets})


def read_back(path: Path) -> tuple[dict[str, dict[str, Reading]], Mapping[str, Any]]:
    """Readings of a file by set and prompt, and its ``meta``."""
    data = read_json(path)
    sets = {
        name: {entry.pop("id"): Reading(**entry) for entry in entries}
        for name, entries in data["sets"].items()
    }
    return sets, data["meta"]
