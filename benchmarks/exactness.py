"""Does speculation change nothing, and is the text that of an independent implementation?

Three greedy texts of every prompt are compared token for token: (a) ours without speculation, (b)
ours with it, (c) the committed reference, computed in float64 with other software. Ours is float32,
so a choice between two tokens whose float64 logits lie within 1e-3 of each other may fall
otherwise: such a difference is listed as a tie. Any other is a mismatch, and the exit code is 1.

    python -m benchmarks.exactness smollm2-135m [--device cuda]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cache import Cache
from benchmarks.prompts import Reference, prompt_set, references
from benchmarks.report import Row, markdown, write
from benchmarks.writing import generate
from specinfer.scheduler.config import (
    SSM,
    Draft,
    NGram,
    PrefixSSM,
)
from specinfer.scheduler.llm import LLM

TIE = 1e-3
"""Two logits nearer than this in float64 may change places in float32."""

DRAFTS: dict[str, tuple[Draft, ...]] = {
    "smollm2-135m": (NGram(), PrefixSSM(prefix_layers=10, expansion=(2, 1, 1))),
    "qwen2.5-coder-1.5b": (NGram(), SSM("qwen2.5-coder-0.5b")),
}
PAIRS = {
    "plain / reference": ("plain", "reference"),
    "speculative / reference": ("speculative", "reference"),
    "speculative / plain": ("speculative", "plain"),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two texts of one prompt part.

    Attributes:
        position: of the first token that differs, counted from the first output token.
        gap: float64 gap of the reference there; None if the texts had left the reference before.
    """

    position: int
    gap: float | None

    @property
    def is_tie(self) -> bool:
        """Whether rounding alone explains it."""
        return self.gap is not None and self.gap < TIE


def first_difference(left: Sequence[int], right: Sequence[int]) -> int | None:
    """The first position at which two texts differ; one may also end before the other.

    >>> first_difference([1, 2, 3], [1, 5, 3]), first_difference([1, 2], [1, 2, 3])
    (1, 2)
    """
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return None if len(left) == len(right) else min(len(left), len(right))


def compare(
    left: Sequence[int], right: Sequence[int], reference: Sequence[int], gaps: Sequence[float]
) -> Difference | None:
    """Compare two texts of one prompt by the tie rule.

    Args:
        left: one text.
        right: the other; it may be the reference itself.
        reference: the text in float64.
        gaps: for each token of it, the logit less the second largest.

    >>> compare([4, 5, 6], [4, 5, 7], [4, 5, 7], [1.0, 0.5, 2e-4])
    Difference(position=2, gap=0.0002)
    """
    position = first_difference(left, right)
    if position is None:
        return None
    if position >= len(gaps) or list(left[:position]) != list(reference[:position]):
        return Difference(position, None)
    return Difference(position, gaps[position])


def chosen(model: str, options: argparse.Namespace) -> dict[str, list[Reference]]:
    """The reference entries to check: the file's own smaller choice, or all of them."""
    sets, meta = references(model)
    exact = {name: {str(i) for i in ids} for name, ids in meta["exactness"].items()}
    found = {}
    for name, entries in sets.items():
        kept = [e for e in entries if options.all or e.id in exact.get(name, ())]
        if kept:
            found[name] = kept[: options.limit or None]
    return found


def check(model: str, options: argparse.Namespace) -> tuple[list[Row], bool]:
    """Run everything for one model; return the figures, and whether all is as it should be."""
    sets = chosen(model, options)
    prompts = {
        f"{name}/{e.id}": prompt_set(name)[e.id] for name, entries in sets.items() for e in entries
    }
    label = f"{model}-{options.device}-float32-{options.tokens}"
    plain = generate(model, (), prompts, Cache(options.cache, f"{label}-plain"), options)
    drafts = DRAFTS[model]
    cache = Cache(options.cache, f"{label}-speculative")
    speculative = generate(model, drafts, prompts, cache, options)
    llm = LLM(model)
    rows, good = [], True
    for name, entries in sets.items():
        outputs = {
            "plain": {e.id: plain[f"{name}/{e.id}"]["output"] for e in entries},
            "speculative": {e.id: speculative[f"{name}/{e.id}"]["output"] for e in entries},
            "reference": {e.id: list(e.output_ids[: options.tokens]) for e in entries},
        }
        where = f"{model}/{name}"
        wrong = sum(llm.encode(prompts[f"{name}/{e.id}"]) != list(e.prompt_ids) for e in entries)
        rows.append(Row(name=f"{where}/prompts", value=len(entries), unit="prompts"))
        rows.append(Row(name=f"{where}/prompt ids differ", value=wrong, unit="prompts"))
        for pair, (left, right) in PAIRS.items():
            found = _pair_rows(f"{where}/{pair}", entries, outputs[left], outputs[right])
            rows += found
            good &= found[0].value == 0
        good &= wrong == 0
        steps = [speculative[f"{name}/{e.id}"] for e in entries]
        tokens, passes = (sum(s[k] for s in steps) for k in ("step_tokens", "steps"))
        rows.append(Row(name=f"{where}/tokens per step", value=tokens / passes, unit="tokens"))
    return rows, good


def _pair_rows(
    where: str,
    entries: Sequence[Reference],
    left: Mapping[str, Sequence[int]],
    right: Mapping[str, Sequence[int]],
) -> list[Row]:
    """Mismatches and ties of one pair over one set, then a row for each of them."""
    compared = {e.id: compare(left[e.id], right[e.id], e.output_ids, e.gaps) for e in entries}
    differences = {key: found for key, found in compared.items() if found is not None}
    ties = {key: d for key, d in differences.items() if d.is_tie}
    equal = sum(
        differences[e.id].position if e.id in differences else len(left[e.id]) for e in entries
    )
    head = Row(
        name=f"{where}/mismatches",
        value=len(differences) - len(ties),
        unit="prompts",
        against={"ties": len(ties), "prompts": len(entries), "equal tokens": equal},
    )
    listed = [
        Row(
            name=f"{where}/{'tie' if d.is_tie else 'mismatch'}/{key}",
            value=-1.0 if d.gap is None else d.gap,
            unit="logit gap in float64; -1: not known",
            against={
                "position": d.position,
                "left": list(left[key][d.position : d.position + 1]),
                "right": list(right[key][d.position : d.position + 1]),
            },
        )
        for key, d in differences.items()
    ]
    return [head, *listed]


def table(rows: Sequence[Row]) -> str:
    """The figures as markdown: a line for each set and pair, then the differences."""
    heads = [row for row in rows if row.name.endswith("/mismatches")]
    lines: list[list[object]] = [
        [
            row.name.removesuffix("/mismatches"),
            row.against["prompts"],
            row.against["equal tokens"],
            row.against["ties"],
            int(row.value),
        ]
        for row in heads
    ]
    text = markdown(["texts compared", "prompts", "equal tokens", "ties", "mismatches"], lines)
    others = [row for row in rows if row not in heads and not row.name.endswith("/prompts")]
    lines = [[row.name, f"{row.value:.4g} {row.unit}", dict(row.against)] for row in others]
    return text + "\n\n" + markdown(["figure", "value", "where"], lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", choices=sorted(DRAFTS))
    parser.add_argument("--all", action="store_true", help="every prompt of the reference file")
    parser.add_argument("--limit", type=int, default=0, help="only the first prompts of each set")
    parser.add_argument("--tokens", type=int, default=128, help="most new tokens")
    parser.add_argument("--requests", type=int, default=16, help="requests at once")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cache", type=Path, help="folder of finished prompts, to go on from")
    parser.add_argument("--out", default="", help="name of the result file")
    options = parser.parse_args(arguments)
    rows, good = check(options.model, options)
    print(table(rows))
    suffix = "" if options.device == "cpu" else f"_{options.device}"
    print(write(options.out or f"exactness_{options.model}{suffix}", rows))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
