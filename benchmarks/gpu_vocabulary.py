"""What runs over the vocabulary on a GPU: likeliest tokens, and acceptance of all trees at once.

Each figure is the median of replays of a CUDA graph of many launches, over logits that differ from
launch to launch and are not in the card's cache. The floor is the time to read what must be read at
the speed of a plain read; beside it, what torch takes for the same in the same run: argmax, topk
with logsumexp, argmax of all rows for a greedy walk, and for samples what most do: softmax, sort,
sums up to top_p and a draw, of the rows that are looked at only, without a word on proposals. At
each node of a sampled walk one proposal is rejected, and the next one accepted; the last token is
drawn.

    python -m benchmarks.gpu_vocabulary --write
    python -m benchmarks.gpu_vocabulary --only mss_walk/64x64
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from statistics import median, stdev

import torch
from torch import Tensor

from benchmarks.report import Row, markdown, write
from specinfer.ops import sample
from specinfer.ops.kernels import vocabulary_cuda as cuda

READ_SPEED = 3.1e12
"""Bytes a second of a plain read on an H100."""
CACHE_BYTES = 128 << 20
"""More than the card's cache has."""
MOST_BYTES = 3 << 30
"""Of logits that a case has."""
MOST_LAUNCHES = 32
LIKELIEST = ((1, 32000), (64, 32000), (1, 151936), (64, 151936), (1024, 128256), (4096, 128256))
"""Rows and vocabulary."""
TOP_K = ((1, 32000, 8), (64, 32000, 4), (1, 151936, 8), (64, 151936, 1), (64, 151936, 8))
"""Rows, vocabulary and k."""
WALKS = ((1, 64, 128256), (4, 64, 128256), (8, 64, 128256), (64, 64, 128256))
"""Trees, nodes of each, and vocabulary."""
SAMPLES = ((1, 32000), (64, 32000), (64, 128256))
"""Rows and vocabulary."""
SAMPLED_WALKS = ((1, 64, 128256), (64, 64, 128256))
PARAMS = {
    "usual": (0.8, 0, 0.9, 0.0),
    "top_p": (1.0, 0, 0.9, 0.0),
    "top_k": (1.0, 50, 0.9, 0.0),
    "all": (1.0, 0, 1.0, 0.0),
}
"""Temperature, top_k, top_p and min_p."""
ACCEPTED = 4
"""Nodes of each tree."""


def times(body: Callable[[int], None], launches: int, repeats: int) -> list[float]:
    """Microseconds of one of so many different launches, which are replayed together."""
    for number in range(launches):
        body(number)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(launches):
            body(number)
    other = torch.empty(CACHE_BYTES, dtype=torch.uint8, device="cuda")
    found = []
    for _ in range(repeats):
        other.zero_()
        start, stop = _event(), _event()
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        found.append(1e3 * start.elapsed_time(stop) / launches)
    return found


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def logits_of(rows: int, vocabulary: int, dtype: torch.dtype) -> list[Tensor]:
    """Different ones for each launch."""
    launches = min(MOST_LAUNCHES, max(2, MOST_BYTES // (rows * vocabulary * dtype.itemsize)))
    return [
        torch.randn(rows, vocabulary, dtype=dtype, device="cuda").mul_(3) for _ in range(launches)
    ]


def row_of(name: str, found: list[float], bytes_read: int, by_torch: list[float]) -> Row:
    """A figure, beside its floor and torch's."""
    floor = 1e6 * bytes_read / READ_SPEED
    against = {"floor": floor, "over floor": median(found) / floor, "torch": median(by_torch)}
    return Row(name=name, value=median(found), unit="us", spread=stdev(found), against=against)


def time_likeliest(name: str, rows: int, vocabulary: int, dtype: torch.dtype, repeats: int) -> Row:
    """The likeliest token of each row."""
    all_logits = logits_of(rows, vocabulary, dtype)
    words = _workspace(rows, vocabulary)
    tokens, theirs = (torch.full((rows,), -7, device="cuda") for _ in range(2))
    found = times(lambda i: cuda.likeliest(all_logits[i], tokens, words), len(all_logits), repeats)
    by_torch = times(lambda i: sample.likeliest(all_logits[i], theirs), len(all_logits), repeats)
    values = [all_logits[-1].gather(1, some[:, None]) for some in (tokens, theirs)]
    assert torch.equal(*values)
    return row_of(name, found, all_logits[0].nbytes, by_torch)


def time_top_k(
    name: str, rows: int, vocabulary: int, k: int, dtype: torch.dtype, repeats: int
) -> Row:
    """The k likeliest tokens of each row, with their log-probabilities."""
    all_logits = logits_of(rows, vocabulary, dtype)
    words = _workspace(rows, vocabulary, k)
    ours, theirs = (
        (
            torch.full((rows, k), -7, device="cuda"),
            torch.full((rows, k), torch.nan, device="cuda"),
        )
        for _ in range(2)
    )
    found = times(lambda i: cuda.top_k(all_logits[i], *ours, words), len(all_logits), repeats)
    by_torch = times(lambda i: sample.top_k(all_logits[i], *theirs), len(all_logits), repeats)
    torch.testing.assert_close(ours[1], theirs[1], atol=1e-5, rtol=1e-5)
    return row_of(name, found, all_logits[0].nbytes, by_torch)


def time_walk(
    name: str, trees: int, nodes: int, vocabulary: int, dtype: torch.dtype, repeats: int
) -> Row:
    """Greedy acceptance of all trees, of each so many nodes."""
    generator, rows = random.Random(trees), trees * nodes
    all_logits = logits_of(rows, vocabulary, dtype)
    tokens = torch.randint(vocabulary, (rows,), device="cuda")
    # A chain of the accepted nodes, and others below it.
    parents = [n - 1 if n <= ACCEPTED else generator.randrange(n) for n in range(nodes)] * trees
    first = torch.arange(0, rows, nodes, device="cuda")
    for logits in all_logits:
        for depth in range(ACCEPTED):
            logits[first + depth, tokens[first + depth + 1]] = 100.0
    tables = (
        torch.arange(rows, device="cuda"),
        tokens,
        torch.tensor(parents, device="cuda"),
        first,
        torch.full((trees,), nodes, device="cuda"),
    )
    path_nodes, path_tokens = (torch.full((trees, nodes), -7, device="cuda") for _ in range(2))
    counts, words = torch.full((trees,), -7, device="cuda"), _workspace(rows, vocabulary)
    found = times(
        lambda i: cuda.greedy_walk(all_logits[i], *tables, path_nodes, path_tokens, counts, words),
        len(all_logits),
        repeats,
    )
    accepted = torch.arange(1, ACCEPTED + 1, device="cuda").expand(trees, -1)
    assert torch.equal(path_nodes[:, :ACCEPTED], accepted)
    assert bool((counts == ACCEPTED + 1).all())
    theirs = torch.empty(rows, dtype=torch.int64, device="cuda")
    by_torch = times(lambda i: sample.likeliest(all_logits[i], theirs), len(all_logits), repeats)
    visited = trees * (ACCEPTED + 1) * vocabulary * dtype.itemsize
    return row_of(name, found, visited, by_torch)


def sampled_by_torch(logits: Tensor, temperature: float, tokens: Tensor) -> None:
    """Draw a token of each row from the likeliest ones that have 0.9 of the probability."""
    wide = logits.float().div_(temperature)
    ranked, order = wide.softmax(-1).sort(-1, descending=True)
    ranked[ranked.cumsum(-1) - ranked > 0.9] = 0.0
    race = ranked.div_(torch.empty_like(ranked).exponential_())
    tokens.copy_(order.gather(-1, race.argmax(-1, keepdim=True))[:, 0])


def time_samples(
    name: str, rows: int, vocabulary: int, params: str, dtype: torch.dtype, repeats: int
) -> Row:
    """A draw from each row."""
    all_logits = logits_of(rows, vocabulary, dtype)
    numbers = torch.tensor([PARAMS[params]] * rows, dtype=torch.float64, device="cuda")
    keys, tokens = torch.arange(rows, device="cuda"), torch.full((rows,), -7, device="cuda")
    found = times(
        lambda i: cuda.sample_rows(all_logits[i], numbers, keys, keys, tokens),
        len(all_logits),
        repeats,
    )
    assert bool((tokens >= 0).all())
    by_torch = times(
        lambda i: sampled_by_torch(all_logits[i], PARAMS[params][0], tokens),
        len(all_logits),
        repeats,
    )
    return row_of(name, found, all_logits[0].nbytes, by_torch)


def time_sampled_walk(
    name: str,
    trees: int,
    nodes: int,
    vocabulary: int,
    params: str,
    dtype: torch.dtype,
    repeats: int,
) -> Row:
    """Acceptance by multi-step speculative sampling; a chain of nodes is drawn from the LLM's law.

    Beside the first child of each of its nodes stands one that can hardly be drawn.
    """
    rows, visited = trees * nodes, trees * (ACCEPTED + 1)
    all_logits = logits_of(rows, vocabulary, dtype)[:2]
    first = torch.arange(0, rows, nodes, device="cuda")
    chain = first[:, None] + torch.arange(ACCEPTED, device="cuda")
    tokens = torch.randint(vocabulary, (rows,), device="cuda")
    tokens[chain + ACCEPTED + 1] = (tokens[chain + 1] + 1) % vocabulary  # siblings differ
    likely, unlikely = tokens[chain + 1], tokens[chain + ACCEPTED + 1]
    for logits in all_logits:
        # Nothing is likelier, or else it could be all that top_p leaves.
        logits[chain] = logits[chain].clamp(max=13.0)
        logits[chain, likely], logits[chain, unlikely] = 14.0, -20.0
    # Both were drawn with little luck; the LLM takes one of them to be likely.
    drawn_from = all_logits[0][chain.flatten()].float().softmax(-1)
    for drawn in (likely, unlikely):
        drawn_from.scatter_(1, drawn.flatten()[:, None], 1e-3)
    depth = torch.arange(ACCEPTED, device="cuda")
    trial_first, trial_counts, parents = (
        torch.zeros(trees, nodes, dtype=torch.int64, device="cuda") for _ in range(3)
    )
    trial_first[:, :ACCEPTED] = 2 * torch.arange(chain.numel(), device="cuda").view(trees, -1)
    trial_counts[:, :ACCEPTED] = 2
    parents[:, 1 : ACCEPTED + 1] = parents[:, ACCEPTED + 1 : 2 * ACCEPTED + 1] = depth
    trial_nodes = torch.stack([depth + ACCEPTED + 1, depth + 1], -1).flatten().repeat(trees)
    trial_rows = torch.arange(chain.numel(), device="cuda").repeat_interleave(2)
    numbers = torch.tensor([PARAMS[params]] * trees, dtype=torch.float64, device="cuda")
    keys = torch.arange(2 * trees, device="cuda").view(trees, 2)
    path_nodes, path_tokens = (torch.full((trees, nodes), -7, device="cuda") for _ in range(2))
    counts = torch.full((trees,), -7, device="cuda")
    trials = (trial_first.flatten(), trial_counts.flatten(), trial_nodes, trial_rows)
    tables = (
        torch.arange(rows, device="cuda"),
        tokens,
        parents.flatten(),
        first,
        torch.full((trees,), nodes, device="cuda"),
    )
    found = times(
        lambda i: cuda.mss_walk(
            all_logits[i],
            numbers,
            keys,
            drawn_from,
            *trials,
            *tables,
            path_nodes,
            path_tokens,
            counts,
        ),
        len(all_logits),
        repeats,
    )
    assert bool((counts == ACCEPTED + 1).all()), counts
    looked_at = [logits[:visited] for logits in all_logits]
    theirs = torch.empty(visited, dtype=torch.int64, device="cuda")
    by_torch = times(
        lambda i: sampled_by_torch(looked_at[i], PARAMS[params][0], theirs),
        len(looked_at),
        repeats,
    )
    bytes_read = visited * vocabulary * dtype.itemsize + drawn_from.nbytes
    return row_of(name, found, bytes_read, by_torch)


def _workspace(rows: int, vocabulary: int, k: int = 0) -> Tensor:
    words = cuda.workspace_words(rows, vocabulary, k)
    return torch.zeros(words, dtype=torch.int64, device="cuda")


def cases() -> Iterator[tuple[str, Callable[[str, torch.dtype, int], Row]]]:
    """All of them: what each is called, and what times it, given that, a type and repeats."""

    def timed(time: Callable[..., Row], *case: int | str) -> Callable[[str, torch.dtype, int], Row]:
        return lambda name, dtype, repeats: time(name, *case, dtype, repeats)

    for rows, vocabulary in LIKELIEST:
        yield f"likeliest/{rows}/{vocabulary}", timed(time_likeliest, rows, vocabulary)
    for rows, vocabulary, k in TOP_K:
        yield f"top_k/{rows}/{vocabulary}/{k}", timed(time_top_k, rows, vocabulary, k)
    for walk in WALKS:
        trees, nodes, vocabulary = walk
        yield f"greedy_walk/{trees}x{nodes}/{vocabulary}", timed(time_walk, *walk)
    for params in PARAMS:
        for rows, vocabulary in SAMPLES:
            name = f"sample_rows/{rows}/{vocabulary}/{params}"
            yield name, timed(time_samples, rows, vocabulary, params)
        for walk in SAMPLED_WALKS:
            trees, nodes, vocabulary = walk
            name = f"mss_walk/{trees}x{nodes}/{vocabulary}/{params}"
            yield name, timed(time_sampled_walk, *walk, params)


def measure(dtype: torch.dtype, repeats: int, only: str = "") -> list[Row]:
    """Time the cases whose names begin so."""
    return [time(name, dtype, repeats) for name, time in cases() if name.startswith(only)]


def table(rows: Sequence[Row]) -> str:
    """A line for each figure."""
    header = ["what/rows/vocabulary", "us", "spread", "floor", "over it", "torch"]
    return markdown(header, [[r.name, r.value, r.spread, *r.against.values()] for r in rows])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", default="", metavar="NAME", help="cases that begin so")
    parser.add_argument("--write", action="store_true", help="write the result file")
    options = parser.parse_args(arguments)
    if options.only and options.write:
        parser.error("--only: the result file has all cases")
    rows = measure(getattr(torch, options.dtype), options.repeats, options.only)
    if not rows:
        parser.error(f"--only {options.only}: no case begins so: {', '.join(dict(cases()))}")
    print(table(rows))
    if options.write:
        print(write("gpu_vocabulary", rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
