"""How many tokens a verification step yields when the LLM samples.

Texts are sampled from the LLM once. Two rows of probabilities at each position, the LLM's and the
SSM's, tell how likely each verifier accepts the token that stands there, and so the mean number of
steps of any tree: exactly, given the text (:mod:`benchmarks.acceptance_law`,
:mod:`benchmarks.step_law`). Some prompts are then really generated, their texts read in the same
way, and the engine's steps held against mean and standard deviation.

    python -m benchmarks.stochastic            # with the models
    python -m benchmarks.stochastic --replay   # from the committed readings
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

from benchmarks.acceptance import LARGE, RANKS, SMALL, prompts_of, read_ranks
from benchmarks.cache import Cache
from benchmarks.replay import EXPANSIONS, WIDTHS, expansion, label, replay
from benchmarks.report import DATA, RESULTS, Row, commit, device, markdown, write
from benchmarks.sampled_texts import (
    HISTORIES,
    NGRAM_NODES,
    WAYS,
    Pair,
    Reading,
    Readings,
    by_set,
    read_back,
    save,
)
from benchmarks.step_law import Law, expansion_law, merged_law, steps
from specinfer.scheduler.speculators.ssm import level_sizes

READINGS = DATA / "stochastic_qwen2.5-coder.json.gz"
CHAIN = (1,) * 8
PAPER_TOP = dict(zip(WIDTHS, (0.55, 0.82, 0.91, 0.95, 0.97), strict=True))
PAPER_MSS = dict(zip(WIDTHS, (1.67, 1.93, 2.08, 2.15, 2.21), strict=True))
PAPER_NAIVE, PAPER_GAIN = 1.73, 1.28
"""PIQA, stochastic, of the paper's tables 1 to 3: LLaMA-7B with LLaMA-68M."""
LIVE = (
    ("mss", 1, False),
    ("mss", 3, False),
    ("mss_without_replacement", 3, False),
    ("naive", 1, False),
    ("naive", 3, False),
    ("coupled", 1, False),
    ("coupled", 3, False),
    ("mss", 1, True),
    ("coupled", 1, True),
)
"""Verifier, width of the third level, and whether an n-gram tree is merged with the SSM's."""
TOSSED = 3
"""Times as many prompts where coins decide."""


def tree_law(text: Reading, way: str, widths: Sequence[int]) -> Law:
    """Steps of an expansion."""
    return expansion_law(text.rates(way), widths)


def chains_law(text: Reading, way: str, chains: int, *, with_ngram: bool) -> Law:
    """Steps of a merge of independent chains, and perhaps an n-gram tree."""
    reach = text.reach if with_ngram else [0] * len(text)
    return merged_law(text.rates(way), text.likely, chains, len(CHAIN), reach)


def ratio(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """A ratio of sums over prompts, and its standard error.

    >>> ratio([(2, 1), (4, 2)])
    (2.0, 0.0)
    """
    known = list(pairs)
    above, below = sum(a for a, _ in known), sum(b for _, b in known)
    value, count = above / below, len(known)
    squares = sum((a - value * b) ** 2 for a, b in known)
    return value, sqrt(squares * count / (count - 1)) / below if count > 1 else float("nan")


def success(texts: Sequence[Reading], way: str, k: int) -> tuple[float, float]:
    """How often one of k candidates is accepted."""
    return ratio((sum(row[k - 1] for row in text.rates(way)), len(text)) for text in texts)


def _steps(texts: Sequence[Reading], laws: Sequence[Law]) -> list[float]:
    return [steps(len(text), law)[0] for text, law in zip(texts, laws, strict=True)]


def per_step(texts: Sequence[Reading], laws: Sequence[Law]) -> tuple[float, float]:
    """Tokens behind the prefill's over mean steps, pooled over prompts."""
    counts = _steps(texts, laws)
    return ratio((len(text) - 1, count) for text, count in zip(texts, counts, strict=True))


def table_rows(readings: Readings) -> Iterator[Row]:
    """What the paper's tables 1 to 3 measure, for every set and verifier."""
    for name, requests in readings.items():
        texts, is_paper = _long(requests), name == "piqa"
        for way in WAYS:
            for k in WIDTHS:
                value, error = success(texts, way, k)
                known = {"paper": PAPER_TOP[k]} if is_paper and way == "mss" else {}
                yield Row(
                    name=f"{name}/{way}/top-{k}",
                    value=value,
                    unit="fraction",
                    spread=error,
                    against=known,
                )
            for widths in EXPANSIONS:
                value, error = per_step(texts, [tree_law(text, way, widths) for text in texts])
                known = {}
                if is_paper and way == "mss" and widths in map(expansion, WIDTHS):
                    known = {"paper": PAPER_MSS[widths[2]]}
                if is_paper and way == "naive, draws" and widths == expansion(5):
                    known = {"paper": PAPER_NAIVE}
                yield Row(
                    name=f"{name}/{way}/{label(widths)}",
                    value=value,
                    unit="tokens per step",
                    spread=error,
                    against=known,
                )
        yield from _gains(name, texts)


def _gains(name: str, texts: Sequence[Reading]) -> Iterator[Row]:
    """Steps with naive sampling over steps with another verifier, at width 5."""
    widths = expansion(5)
    counts = {way: _steps(texts, [tree_law(t, way, widths) for t in texts]) for way in WAYS}
    for way in ("mss", "mss_without_replacement", "coupled"):
        for other in ("naive, draws", "naive, likeliest"):
            value, error = ratio(zip(counts[other], counts[way], strict=True))
            is_paper = name == "piqa" and way == "mss" and other == "naive, draws"
            yield Row(
                name=f"{name}/gain/{way} over {other}",
                value=value,
                unit="steps per step",
                spread=error,
                against={"paper": PAPER_GAIN} if is_paper else {},
            )


def merge_rows(readings: Readings) -> Iterator[Row]:
    """Merges against expansions with as many nodes.

    With any verifier: a chain of the SSM with an n-gram tree, against two children of the root.
    With ``mss`` also: several chains that the SSM draws on its own, against as many children.
    """
    for name, requests in readings.items():
        texts = _long(requests)
        for way in WAYS:
            laws = [chains_law(text, way, 1, with_ngram=True) for text in texts]
            nodes = len(CHAIN) + NGRAM_NODES
            yield _merge_row(f"{name}/{way}/chain and n-grams", texts, laws, nodes)
            for count in WIDTHS[1:] if way == "mss" else (2,):
                widths, nodes = (count, *CHAIN[1:]), count * len(CHAIN)
                laws = [tree_law(text, way, widths) for text in texts]
                yield _merge_row(f"{name}/{way}/{label(widths)}", texts, laws, nodes)
                if way == "mss":
                    laws = [chains_law(text, way, count, with_ngram=False) for text in texts]
                    yield _merge_row(f"{name}/{way}/{count} chains", texts, laws, nodes)


def _merge_row(name: str, texts: Sequence[Reading], laws: Sequence[Law], nodes: int) -> Row:
    value, error = per_step(texts, laws)
    return Row(
        name=f"merge/{name}",
        value=value,
        unit="tokens per step",
        spread=error,
        against={"most nodes": nodes},
    )


def _long(requests: Mapping[str, Reading]) -> list[Reading]:
    """Texts that took a step."""
    return [text for text in requests.values() if len(text) > 1]


def check_rows(readings: Readings) -> Iterator[Row]:
    """What the figures stand on: texts, tokens, rounding of models, and the estimate's error."""
    for name, requests in readings.items():
        texts = requests.values()
        tokens = sum(len(text) for text in texts)
        yield Row(
            name=f"{name}/tokens",
            value=tokens,
            unit="tokens",
            against={"prompts": len(requests), "strays": sum(text.strays for text in texts)},
        )
        error = sqrt(sum(e * e for text in texts for e in text.errors)) / tokens
        yield Row(
            name=f"{name}/error of mss_without_replacement top-5 by its histories",
            value=error,
            unit="fraction",
        )


def live(
    pair: Pair, options: argparse.Namespace, readings: Readings, folder: Path | None
) -> Iterator[Row]:
    """Steps counted by the engine, beside mean and deviation of the steps of the same texts."""
    prompts = by_set(prompts_of(0))
    tokens = options.live_tokens
    for verifier, width, with_ngram in LIVE:
        # Where the text decides there is no deviation, and a few prompts tell as much as many.
        count = options.live * (TOSSED if verifier.startswith("mss") else 1)
        chosen = {
            f"{name}/{key}": prompts[name][key]
            for name, texts in readings.items()
            for key in list(texts)[:count]
        }
        widths = expansion(width)
        what = f"{verifier}/{label(widths)}{' and n-grams' if with_ngram else ''}"
        name = f"{LARGE}-float32-live-{tokens}-{verifier}-{width}{'-ngram' * with_ngram}"
        texts = Cache(folder, name)
        speculators = pair.speculators(widths, with_ngram=with_ngram)
        pair.write(chosen, tokens, texts, speculators, verifier)
        read = pair.read(chosen, texts, tokens, Cache(folder, f"{name}-read"))
        way = "naive, likeliest" if verifier == "naive" else verifier
        yield _live_row(what, read, texts, way, widths, with_ngram=with_ngram)


def _live_row(
    what: str,
    read: Mapping[str, Reading],
    texts: Cache,
    way: str,
    widths: Sequence[int],
    *,
    with_ngram: bool,
) -> Row:
    counted = tokens = 0
    mean = variance = 0.0
    for key, text in read.items():
        law = chains_law(text, way, 1, with_ngram=True) if with_ngram else None
        expected = steps(len(text), law or tree_law(text, way, widths))
        mean, variance = mean + expected[0], variance + expected[1]
        counted += texts[key]["steps"]
        tokens += texts[key]["step_tokens"]
    deviation = sqrt(max(variance, 0.0))
    return Row(
        name=f"live/{what}",
        value=tokens / counted,
        unit="tokens per step",
        against={
            "worked out": tokens / mean,
            "steps": counted,
            "steps worked out": mean,
            "deviation of steps": deviation,
            "prompts": len(read),
        },
    )


def is_off(row: Row) -> bool:
    """Whether a live count is further from its mean than 4 deviations, or than rounding."""
    distance = abs(row.against["steps"] - row.against["steps worked out"])
    return bool(distance > 4 * row.against["deviation of steps"] + 1e-6)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 1 if a live count is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--replay", action="store_true", help="use the committed readings")
    parser.add_argument("--limit", type=int, default=0, help="only the first prompts of each set")
    parser.add_argument("--tokens", type=int, default=64, help="most new tokens")
    parser.add_argument("--requests", type=int, default=16, help="requests at once")
    parser.add_argument("--live", type=int, default=1, help="prompts of each set to generate")
    parser.add_argument("--live-tokens", type=int, default=48, help="most new tokens of these")
    parser.add_argument("--cache", type=Path, help="folder of finished prompts, to go on from")
    parser.add_argument("--readings", type=Path, default=READINGS, help="file to keep them in")
    parser.add_argument("--out", default="", help="name of the result files")
    options = parser.parse_args(arguments)
    found: list[Row] = []
    if options.replay:
        readings, _ = read_back(options.readings)
    else:
        readings, found = _run(options)
    rows = [*table_rows(readings), *merge_rows(readings), *check_rows(readings), *found]
    _print(rows, list(readings))
    name = options.out or ("stochastic_replay" if options.replay else "stochastic")
    print(write(name, rows))
    plot_cdf(RESULTS / f"{name}.png", readings)
    return 1 if any(is_off(row) for row in found) else 0


def _run(options: argparse.Namespace) -> tuple[dict[str, dict[str, Reading]], list[Row]]:
    prompts = prompts_of(options.limit)
    nodes = max(options.tokens, *(sum(level_sizes(expansion(k))) for k in WIDTHS))
    pair = Pair(LARGE, SMALL, options.requests, nodes)
    name = f"{LARGE}-float32-sampled-{options.tokens}"
    texts = Cache(options.cache, f"{name}-plain")
    pair.write(prompts, options.tokens, texts)
    read = pair.read(prompts, texts, options.tokens, Cache(options.cache, f"{name}-read"))
    readings = by_set(read)
    meta = {
        "llm": LARGE,
        "ssm": SMALL,
        "dtype": "float32",
        "temperature": 1.0,
        "tokens": options.tokens,
        "histories": HISTORIES,
        "ngram_nodes": NGRAM_NODES,
        "device": device(),
        "commit": commit(),
    }
    save(options.readings, readings, meta)
    return readings, list(live(pair, options, readings, options.cache))


def _print(rows: Sequence[Row], names: Sequence[str]) -> None:
    known = {row.name: row for row in rows}

    def table(heads: Sequence[str], columns: Sequence[str]) -> str:
        lines = [
            [way, name, *(_cell(known[f"{name}/{way}/{column}"]) for column in columns)]
            for way in WAYS
            for name in names
        ]
        return markdown(["verifier", "set", *heads], lines)

    ks = [str(k) for k in WIDTHS]
    print("Success by number of candidates:\n" + table(ks, [f"top-{k}" for k in WIDTHS]))
    trees = [label(widths) for widths in EXPANSIONS]
    print("\nTokens per step by width:\n" + table(trees, trees))
    gains = [row.name.partition("/gain/")[2] for row in rows if row.name.startswith("piqa/gain/")]
    lines = [[what, *(_cell(known[f"{name}/gain/{what}"]) for name in names)] for what in gains]
    print("\nGain at width 5:\n" + markdown(["", *names], lines))
    merges = dict.fromkeys(r.name.split("/", 2)[2] for r in rows if r.name.startswith("merge/"))
    lines = [
        [
            what,
            known[f"merge/{names[0]}/{what}"].against["most nodes"],
            *(_cell(known[f"merge/{name}/{what}"]) for name in names),
        ]
        for what in merges
    ]
    print("\nMerges and expansions:\n" + markdown(["", "most nodes", *names], lines))
    counted = [row for row in rows if row.name.startswith("live/")]
    if counted:
        lines = [
            [row.name.removeprefix("live/"), *map(_number, (row.value, *row.against.values()))]
            for row in counted
        ]
        print("\nLive:\n" + markdown(["", "tokens per step", *counted[0].against], lines))
    for row in rows:
        if row.name.endswith(("/tokens", "histories")):
            print(f"{row.name}: {row.value:.4g} {row.unit} {dict(row.against)}")


def _cell(row: Row) -> str:
    digits = 3 if row.unit == "fraction" else 2
    error = "" if row.spread is None else f" ± {row.spread:.{digits}f}"
    return f"{row.value:.{digits}f}{error}"


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def plot_cdf(path: Path, readings: Readings) -> None:
    """Which share of the prompts gets at most so many tokens per step, by width (paper, figure 9).

    Greedy above, from the committed ranks; ``mss`` below.
    """
    import matplotlib as mpl  # only plots need it

    mpl.use("Agg")
    from matplotlib import pyplot

    ranks, _ = read_ranks(RANKS)
    figure, axes = pyplot.subplots(
        2, len(readings), figsize=(4 * len(readings), 6), dpi=110, sharey=True, squeeze=False
    )
    for column, (name, requests) in enumerate(readings.items()):
        texts = _long(requests)
        for width in WIDTHS:
            widths = expansion(width)
            counts = _steps(texts, [tree_law(text, "mss", widths) for text in texts])
            sampled = [(len(t) - 1) / count for t, count in zip(texts, counts, strict=True)]
            chosen = [replay(known, widths) for known in ranks[name].values() if len(known) > 1]
            greedy = [sum(found) / len(found) for found in chosen]
            for place, values in ((axes[0][column], greedy), (axes[1][column], sampled)):
                shares = [number / len(values) for number in range(len(values) + 1)]
                ordered = [min(values), *sorted(values)]
                place.step(ordered, shares, where="post", label=f"width {width}")
        axes[0][column].set_title(f"{name}, greedy")
        axes[1][column].set_title(f"{name}, sampled, mss")
        axes[1][column].set_xlabel("tokens per LLM step")
    for place in axes.flat:
        place.set_xlim(1, len(CHAIN) + 1)
        place.grid(alpha=0.3)
    for row in axes:
        row[0].set_ylabel("share of prompts")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
