"""Whether speculation, a batch and a lost K/V cache leave every token of every text as it was.

Each prompt is written at temperature 0, and sampled with a seed of its own and the verifier
``coupled``. What it is held against is written without speculation, by an engine that serves this
one request and no other. Then the same texts are written

* ``alone``: one request in an engine of its own,
* ``batch``: all requests in one queue, so many at once,
* ``preempted``: the same with so few pages that requests lose theirs, and are computed again,

with every set of speculators, and with trees of a fixed size and adaptive ones. Where a text
differs, the two tokens are looked at: float32 may swap them if their scores are nearer than
:data:`benchmarks.exactness.TIE`. That is listed as a tie, and anything else as a mismatch; then the
exit code is 1.

    python -m benchmarks.identity --model smollm2-135m --write
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice, product, zip_longest
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from benchmarks.cache import Cache
from benchmarks.exactness import TIE, first_difference
from benchmarks.prompts import SETS, prompt_set
from benchmarks.report import Row, markdown, write
from benchmarks.sampled_texts import seed_of
from benchmarks.writing import STDERR, load
from specinfer.models.batch import BatchLimits
from specinfer.models.compiler import Program, compile_graph
from specinfer.models.model import Model, weight_regions
from specinfer.models.packing import factors, pack_weights
from specinfer.ops.noise import finish_times, key_of
from specinfer.runtime.region import Region
from specinfer.scheduler.adaptive import AdaptiveTrees
from specinfer.scheduler.assembly import new_runtime
from specinfer.scheduler.config import SSM, Draft, NGram, PrefixSSM
from specinfer.scheduler.decoder import Decoder, Work
from specinfer.scheduler.drafting import Drafting, FixedTrees
from specinfer.scheduler.engine import Engine
from specinfer.scheduler.kv_pages import KVPages, num_pages
from specinfer.scheduler.llm import LLM
from specinfer.scheduler.plan import Plan
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.sampling.process import Row as Probabilities
from specinfer.scheduler.sampling.process import distribution
from specinfer.scheduler.speculators.making import Parts
from specinfer.scheduler.step_cost import FREE, StepCost, measure_step_cost
from specinfer.scheduler.verifiers.chance import NEXT

VERIFIER = "coupled"
RULES = ("greedy", "coupled")
MODES = ("alone", "batch", "preempted")
TREES = ("fixed", "adaptive")
MAX_ROWS = 256

DRAFTS: dict[str, dict[str, tuple[Draft, ...]]] = {
    "smollm2-135m": {
        "none": (),
        "n-gram": (NGram(),),
        "SSM": (PrefixSSM(6, (2, 1)),),
        "two SSMs": (PrefixSSM(6, (2, 1)), PrefixSSM(10, (1, 2))),
        "SSM, n-gram": (PrefixSSM(6, (2, 1)), NGram()),
    },
    "qwen2.5-coder-1.5b": {
        "none": (),
        "n-gram": (NGram(),),
        "SSM": (SSM("qwen2.5-coder-0.5b", (1, 2, 1)),),
        "two SSMs": (SSM("qwen2.5-coder-0.5b", (1, 1)), PrefixSSM(4, (2,))),
        "SSM, n-gram": (SSM("qwen2.5-coder-0.5b", (1, 2, 1)), NGram(8)),
    },
}
"""Sets of speculators, merged, by model."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way to write all texts.

    Attributes:
        drafts: name of the speculators.
        is_adaptive: whether trees are as large as they turn out to be worth.
        mode: of :data:`MODES`.
    """

    drafts: str
    is_adaptive: bool
    mode: str

    @property
    def name(self) -> str:
        """For people, and for the result file."""
        trees = "adaptive" if self.is_adaptive else "fixed"
        return f"{self.drafts}/{'-' if self.drafts == 'none' else trees}/{self.mode}"


def cases(model: str, trees: Sequence[str]) -> Iterator[Case]:
    """All of them but that which the others are held against; trees are some of :data:`TREES`."""
    for mode in MODES[1:]:
        yield Case("none", False, mode)
    guessing = [drafts for drafts, speculators in DRAFTS[model].items() if speculators]
    for size, drafts, mode in product(trees, guessing, MODES):
        yield Case(drafts, size == "adaptive", mode)


@dataclass(frozen=True, slots=True)
class Text:
    """One text to write.

    Attributes:
        key: set and id of its prompt.
        rule: of :data:`RULES`.
        prompt: its token ids.
    """

    key: str
    rule: str
    prompt: Sequence[int]

    @property
    def name(self) -> str:
        """Unlike that of all others."""
        return f"{self.rule}/{self.key}"

    @property
    def sampling(self) -> SamplingParams:
        """How its tokens are picked."""
        if self.rule == "greedy":
            return SamplingParams()
        return SamplingParams(temperature=1.0, top_p=0.95, seed=seed_of(self.key))


class Bench:
    """Makes engines of a model and its speculators; all weights are read once.

    Args:
        name: of the LLM.
        length: most tokens of a text.
    """

    def __init__(self, name: str, length: int) -> None:
        self.front = LLM(name)
        self._name, self._length = name, length
        self._runtime = new_runtime("serial", torch.float32)
        self._loaded: dict[str, dict[str, Region]] = {}
        self._programs: dict[str, Program] = {}

    def engine(self, case: Case, drafts: Sequence[Draft], requests: int, pages: int = 0) -> Engine:
        """A new engine, whose caches are empty.

        Args:
            case: says how trees are sized.
            drafts: its speculators.
            requests: most at once.
            pages: of each model's K/V pool; 0: enough for all.
        """
        makers = self.front.makers(drafts, VERIFIER)
        decoder = partial(self._decoder, requests=requests, pages=pages)
        plan = self.front.plan()
        model = decoder(plan, sum(maker.num_nodes for maker in makers))
        cost = self._cost if drafts else FREE
        parts = Parts(model.model.vocabulary, FREE if case.is_adaptive else cost, decoder)
        speculators = [maker.make(parts) for maker in makers]
        drafting: Drafting = FixedTrees(speculators)
        if case.is_adaptive:
            drafting = AdaptiveTrees(
                speculators, cost, model.model.limits.rows, self._runtime.agree
            )
        return Engine(model, speculators, drafting, verifier=VERIFIER)

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """(vocabulary,) behind a text, computed alone and at once."""
        decoder = self._decoder(self.front.plan(), 0, requests=1, pages=0, rows=self._length)
        decoder.slots.reserve(0, len(tokens))
        step = decoder.step([Work(request=0, chain=tokens)])
        row: torch.Tensor = self._runtime.read(step)[0].clone()
        return row

    def _decoder(
        self, plan: Plan, nodes: int, *, requests: int, pages: int, rows: int = MAX_ROWS
    ) -> Decoder:
        rows = max(rows, requests * (1 + nodes))
        limits = BatchLimits(
            rows=rows,
            requests=requests,
            context=self._length,
            nodes=rows,
            logit_rows=requests * (1 + nodes),
        )
        pages = pages or requests * (num_pages(self._length) + 1)
        slots = KVPages(pages, requests, max(1, nodes))
        program, weights = self._program(plan), self._weights(plan)
        model = Model(self._runtime, program, weights, limits, slots.num_slots, torch.float32)
        return Decoder(model, slots)

    def _program(self, plan: Plan) -> Program:
        if plan.name not in self._programs:
            self._programs[plan.name] = compile_graph(plan.graph)
        return self._programs[plan.name]

    def _weights(self, plan: Plan) -> dict[str, Region]:
        """Those of a plan's checkpoint; the LLM's own first layers are the LLM's."""
        name = self._name if plan.layers else plan.name
        if name not in self._loaded:
            loaded = load(name)
            packed = pack_weights(loaded.program, loaded.weights)
            self._loaded[name] = weight_regions(self._runtime, packed, f"{name}.")
        return self._loaded[name]

    @cached_property
    def _cost(self) -> StepCost:
        plan = self.front.plan()
        names, weights = factors(self._program(plan)), self._weights(plan)
        arrays = [self._runtime.read(weights[name].part()) for name in names]
        return measure_step_cost([array for array in arrays if isinstance(array, torch.Tensor)])


def serve(bench: Bench, engine: Engine, texts: Sequence[Text], tokens: int) -> dict[str, list[int]]:
    """Write texts in one queue; returns the outputs by name."""
    requests = {
        text.name: Request(
            id=number,
            prompt=text.prompt,
            max_new_tokens=tokens,
            eos_ids=bench.front.tokenizer.eos_ids,
            sampling=text.sampling,
        )
        for number, text in enumerate(texts)
    }
    for request in requests.values():
        engine.submit(request)
    for _ in engine.run():
        pass
    return {name: request.output for name, request in requests.items()}


def write_texts(
    bench: Bench, case: Case, texts: Sequence[Text], options: argparse.Namespace
) -> dict[str, Any]:
    """Write texts as a case says.

    Returns:
        ``outputs`` by name, and over all engines ``preempted``, ``cached_tokens``, ``steps``
        and ``step_tokens``.
    """
    drafts = DRAFTS[options.model][case.drafts]
    queues = [[text] for text in texts] if case.mode == "alone" else [texts]
    requests = 1 if case.mode == "alone" else options.requests
    pages = options.pages if case.mode == "preempted" else 0
    found: dict[str, Any] = {"outputs": {}}
    counts = dict.fromkeys(("preempted", "cached_tokens", "steps", "step_tokens"), 0)
    for queue in queues:
        engine = bench.engine(case, drafts, requests, pages)
        found["outputs"] |= serve(bench, engine, queue, options.tokens)
        for name in counts:
            counts[name] += getattr(engine.stats, f"num_{name}")
        del engine
        gc.collect()
    return found | counts


def swap_gap(
    logits: torch.Tensor, sampling: SamplingParams, place: int, left: int, right: int
) -> float:
    """How much rounding it takes for one token to come out instead of another.

    Args:
        logits: (vocabulary,) behind the text that both follow.
        sampling: how the token is picked, without penalties.
        place: number of the token in its text, prompt included.
        left: token of one text.
        right: that of the other.

    Returns:
        The distance of two logits that must change places: those of the tokens, behind the noise of
        this place if there is any, or that of one of them and of another at the edge of ``top_p``.

    >>> swap_gap(torch.tensor([1.0, 3.0, 2.5]), SamplingParams(), 7, 1, 2)
    0.5
    """
    if sampling.is_greedy:
        return abs(float(logits[left] - logits[right]))
    assert sampling.seed is not None
    whole = SamplingParams(temperature=sampling.temperature)
    p = distribution(logits, whole, [], []).numpy()
    times = finish_times(key_of(sampling.seed, NEXT, place), p)
    gap = abs(math.log(times[left]) - math.log(times[right]))
    if sampling.top_p < 1:
        gap = min(gap, *(edge_gap(p, token, sampling.top_p) for token in (left, right)))
    return gap * sampling.temperature


def edge_gap(p: Probabilities, token: int, top_p: float) -> float:
    """Twice how far logits must move for a token to be kept by ``top_p`` or not, as they like.

    Args:
        p: (vocabulary,) probabilities.
        token: that is in doubt.
        top_p: the tokens that are likelier have less than this together if it is kept.

    >>> p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).numpy()
    >>> edge_gap(p, 1, top_p=0.5) < 1e-6, edge_gap(p, 1, top_p=0.6) > 0.1
    (True, True)
    """
    low, high = 0.0, 64.0
    while high - low > 1e-9:
        gap = (low + high) / 2
        least = p[p > p[token] * math.exp(gap)].sum() * math.exp(-gap)
        most = (p[p >= p[token] * math.exp(-gap)].sum() - p[token]) * math.exp(gap)
        low, high = (low, gap) if least < top_p <= most else (gap, high)
    return high


def compared(
    bench: Bench, texts: Sequence[Text], plain: Mapping[str, Any], found: Mapping[str, Any]
) -> dict[str, tuple[int, float]]:
    """Where texts differ, and by which :func:`swap_gap`; by name, equal ones left out."""
    differences = {}
    for text in texts:
        left, right = plain["outputs"][text.name], found["outputs"][text.name]
        at = first_difference(left, right)
        if at is None:
            continue
        gap = math.inf  # one of them ended where the other went on
        if at < min(len(left), len(right)):
            before = [*text.prompt, *left[:at]]
            logits = bench.logits(before)
            gap = swap_gap(logits, text.sampling, len(before), left[at], right[at])
        differences[text.name] = at, gap
    return differences


def rows_of(
    model: str,
    case: Case,
    texts: Sequence[Text],
    found: Mapping[str, Any],
    differences: Mapping[str, tuple[int, float]],
) -> list[Row]:
    """A row for each rule, then one for each text that differs."""
    rows = []
    for rule in RULES:
        own = [text for text in texts if text.rule == rule]
        wrong = {t.name: differences[t.name] for t in own if t.name in differences}
        ties = sum(gap < TIE for _, gap in wrong.values())
        against = {
            "prompts": len(own),
            "tokens": sum(len(found["outputs"][text.name]) for text in own),
            "ties": ties,
            "mismatches": len(wrong) - ties,
            "preempted, both rules": found["preempted"],
            "tokens found in pages, both rules": found["cached_tokens"],
            "tokens per step, both rules": found["step_tokens"] / max(1, found["steps"]),
        }
        name = f"{model}/{case.name}/{rule}"
        equal = len(own) - len(wrong)
        rows.append(Row(name=name, value=equal, unit="equal texts", against=against))
        rows += [
            Row(
                name=f"{name}/{'tie' if gap < TIE else 'mismatch'}/{key}",
                value=gap if math.isfinite(gap) else -1.0,
                unit="gap of the two tokens; -1: one text ended there",
                against={"position": at},
            )
            for key, (at, gap) in wrong.items()
        ]
    return rows


def table(rows: Sequence[Row]) -> str:
    """The figures as markdown; a case has one line for each rule."""
    lines: list[list[object]] = []
    for row in rows:
        if "prompts" not in row.against:
            continue
        _, drafts, trees, mode, rule = row.name.split("/")
        say = row.against
        lines.append(
            [
                drafts,
                trees,
                mode,
                rule,
                f"{row.value:g} of {say['prompts']}",
                say["tokens"],
                say["ties"],
                say["mismatches"],
                say["preempted, both rules"],
                say["tokens per step, both rules"],
            ]
        )
    head = ["speculators", "trees", "mode", "rule", "equal texts", "tokens", "ties", "mismatches"]
    return markdown([*head, "preempted", "tokens per step"], lines)


def chosen(front: LLM, options: argparse.Namespace) -> list[Text]:
    """So many prompts that are not too long, from all sets in turn; all of them greedy first."""
    columns = []
    for name in SETS:
        encoded = ((f"{name}/{key}", front.encode(p)) for key, p in prompt_set(name).items())
        columns.append([(key, ids) for key, ids in encoded if len(ids) <= options.longest])
    in_turn = (one for line in zip_longest(*columns) for one in line if one is not None)
    prompts = list(islice(in_turn, options.prompts))
    return [Text(key, rule, ids) for rule in RULES for key, ids in prompts]


def check(options: argparse.Namespace) -> tuple[list[Row], bool]:
    """Run all cases; return the figures, and whether all is as it should be."""
    bench = Bench(options.model, options.longest + options.tokens)
    texts = chosen(bench.front, options)
    keys = list(dict.fromkeys(text.key for text in texts))[: options.alone]
    few = [text for text in texts if text.key in keys]
    cache = Cache(options.cache, f"identity-{options.model}")

    def written(case: Case, texts: Sequence[Text]) -> dict[str, Any]:
        if case.name not in cache:
            cache[case.name] = write_texts(bench, case, texts, options)
        found: dict[str, Any] = cache[case.name]
        return found

    plain = written(Case("none", False, "alone"), texts)
    rows, good, num_preempted = [], True, 0
    for case in track(list(cases(options.model, options.trees)), options.model, console=STDERR):
        own = few if case.mode == "alone" else texts
        found = written(case, own)
        differences = compared(bench, own, plain, found)
        rows += rows_of(options.model, case, own, found, differences)
        good &= all(gap < TIE for _, gap in differences.values())
        num_preempted += found["preempted"]
        STDERR.log(case.name, len(differences), "differ", found["preempted"], "preempted")
    return rows, good and num_preempted > 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=sorted(DRAFTS), default="smollm2-135m")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--alone", type=int, default=8, help="prompts that are written alone, too")
    parser.add_argument("--tokens", type=int, default=48, help="most new tokens")
    parser.add_argument("--longest", type=int, default=64, help="most tokens of a prompt")
    parser.add_argument("--requests", type=int, default=16, help="requests at once")
    parser.add_argument("--pages", type=int, default=24, help="of a K/V pool that is too small")
    parser.add_argument("--trees", nargs="+", choices=TREES, default=TREES)
    parser.add_argument("--cache", type=Path, help="folder of finished cases, to go on from")
    parser.add_argument("--write", action="store_true", help="write the result file")
    options = parser.parse_args(arguments)
    rows, good = check(options)
    print(table(rows))
    if options.write:
        print(write(f"identity_{options.model}", rows))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
