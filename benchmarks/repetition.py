"""How often does a text go on as it did before?

For every token of the reference outputs, the earlier place in prompt and output that agrees with
the last tokens for longest is looked up. The share of places behind which the same token follows,
by the length of the agreement, is what the n-gram speculator takes for its confidence. No model is
run.

    python -m benchmarks.repetition
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from benchmarks.prompts import references
from benchmarks.report import Row, markdown, write

MODELS = ("smollm2-135m", "qwen2.5-coder-1.5b")
LENGTHS = (2, 3, 4, 5, 6, 8, 12, 16, 24, 32)


def agreements(prompt: Sequence[int], output: Sequence[int]) -> Iterator[tuple[int, bool]]:
    """For each output token: the longest agreement before it, and whether the same token followed.

    Positions whose last two tokens have not stood together before are left out.

    >>> list(agreements([1, 2, 3, 9, 1, 2], [3, 9, 4]))
    [(2, True), (3, True), (4, False)]
    """
    tokens = [*prompt, *output]
    ends: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for end in range(2, len(tokens)):
        pair = (tokens[end - 2], tokens[end - 1])
        if end >= len(prompt) and ends[pair]:
            length, place = max((_length(tokens, place, end), place) for place in ends[pair])
            yield length, tokens[place] == tokens[end]
        ends[pair].append(end)


def _length(tokens: Sequence[int], place: int, end: int) -> int:
    length = 2
    while (
        length < min(LENGTHS[-1], place) and tokens[place - 1 - length] == tokens[end - 1 - length]
    ):
        length += 1
    return length


def measure(model: str) -> Iterator[Row]:
    """Share of places that go on alike, by the length of the agreement, over all sets."""
    same: Counter[int] = Counter()
    seen: Counter[int] = Counter()
    total = 0
    for entries in references(model)[0].values():
        for entry in entries:
            total += len(entry.output_ids)
            for length, is_same in agreements(entry.prompt_ids, entry.output_ids):
                group = max(limit for limit in LENGTHS if limit <= length)
                seen[group] += 1
                same[group] += is_same
    for length in LENGTHS:
        if seen[length]:
            against = {"places": seen[length], "output tokens": total, "1 - 1/n": 1 - 1 / length}
            value = same[length] / seen[length]
            yield Row(name=f"{model}/{length}", value=value, unit="fraction", against=against)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args(arguments)
    rows = [row for model in MODELS for row in measure(model)]
    lines = [[row.name, row.value, row.against["1 - 1/n"], row.against["places"]] for row in rows]
    print(markdown(["model/agreement from", "same token", "1 - 1/n", "places"], lines))
    print(write("repetition", rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
