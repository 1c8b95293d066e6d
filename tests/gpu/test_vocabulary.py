"""The CUDA kernels over the vocabulary against their definitions, in float64 on the CPU."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from specinfer.ops import sample
from specinfer.ops.kernels import vocabulary_cuda as cuda
from specinfer.ops.noise import key_of, uniform
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.sampling.process import distribution
from specinfer.scheduler.speculators.drawing import Drawn, draw, grow
from specinfer.scheduler.token_tree import TokenTree
from specinfer.scheduler.verifiers import Accepted, follow
from specinfer.scheduler.verifiers.chance import COIN, DRAW, SeededChance
from specinfer.scheduler.verifiers.mss import verify_mss
from specinfer.scheduler.verifiers.sampling import verify_naive

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")

DEVICE = "cuda"
TYPES = (torch.float32, torch.float16, torch.bfloat16)
SIZES = (1, 2, 7, 100, 8192, 8193, 32000, 50257, 128256)
LAYOUTS = {"whole": (0, 0), "slice": (32, 64), "odd": (1, 3)}
"""Columns before the logits in a wider matrix, and columns in addition."""
NAN = torch.nan

by_type = pytest.mark.parametrize("dtype", TYPES, ids=str)
by_layout = pytest.mark.parametrize("layout", LAYOUTS)


def laid(values: Tensor, dtype: torch.dtype, layout: str = "whole") -> Tensor:
    """The same (rows, vocabulary) on the card, between columns that must not be looked at."""
    before, more = LAYOUTS[layout]
    rows, vocabulary = values.shape
    wide = torch.full((rows + 1, vocabulary + more), 1e4, dtype=dtype, device=DEVICE)
    wide[:rows, before : before + vocabulary] = values.to(DEVICE, dtype)
    return wide[:rows, before : before + vocabulary]


def random_logits(rows: int, vocabulary: int, seed: int) -> Tensor:
    """Some of the rows have ties, bans, one likely token or numbers that are none."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, vocabulary, generator=generator)
    for row in range(rows):
        kind = (row + seed) % 6
        some = torch.rand(vocabulary, generator=generator)
        if kind == 1:
            logits[row] = logits[row].round()
        elif kind == 2:
            logits[row, some < 0.9] = -torch.inf
            logits[row, vocabulary // 3 :] = -torch.inf  # whole slices
        elif kind == 3:
            logits[row, some < 0.6] = NAN
        elif kind == 4:
            logits[row, int(some[0] * vocabulary)] += 30
        elif kind == 5:
            logits[row] = 0.0
            logits[row, some < 0.5] = -0.0
    return logits


def ranked(logits: Tensor) -> Tensor:
    """Tokens of each row: largest numbers first, then lowest tokens; NaN last."""
    return torch.from_numpy(np.argsort(-logits.double().cpu().numpy(), axis=-1, kind="stable"))


def workspace(rows: int, vocabulary: int, k: int = 0) -> Tensor:
    """As large as it should be."""
    return torch.zeros(cuda.workspace_words(rows, vocabulary, k), dtype=torch.int64, device=DEVICE)


def is_as_new(words: Tensor) -> bool:
    """Whether the words that must be zero between launches are."""
    return not words[: cuda.HEADER].any()


@by_type
@by_layout
@pytest.mark.parametrize("vocabulary", SIZES)
def test_likeliest_is_the_first_of_the_largest(
    vocabulary: int, layout: str, dtype: torch.dtype
) -> None:
    for rows in (1, 9):
        logits = laid(random_logits(rows, vocabulary, vocabulary), dtype, layout)
        wide, words = torch.full((rows + 1, 2), -7, device=DEVICE), workspace(rows, vocabulary)
        tokens = wide[:rows, 0]
        cuda.likeliest(logits, tokens, words)
        right = ranked(logits)[:, 0]
        nothing = ~(logits > -torch.inf).any(-1).cpu()
        assert torch.equal(tokens.cpu(), torch.where(nothing, 0, right))
        assert bool((wide[:, 1] == -7).all())
        assert wide[rows, 0] == -7
        assert is_as_new(words)


@by_type
@by_layout
@pytest.mark.parametrize("vocabulary", SIZES)
@pytest.mark.parametrize("k", [1, 3, 8, 64])
def test_top_k_are_the_likeliest_with_their_log_probabilities(
    k: int, vocabulary: int, layout: str, dtype: torch.dtype
) -> None:
    if k > vocabulary:
        return
    for rows in (1, 6):
        logits = laid(random_logits(rows, vocabulary, k), dtype, layout)
        words = workspace(rows, vocabulary, k)
        wide_tokens = torch.full((rows + 1, k + 2), -7, device=DEVICE)
        wide_log_probs = torch.full((rows + 1, k + 1), NAN, device=DEVICE)
        tokens, log_probs = wide_tokens[:rows, :k], wide_log_probs[:rows, :k]
        cuda.top_k(logits, tokens, log_probs, words)
        assert torch.equal(tokens.cpu(), ranked(logits)[:, :k])
        right = logits.double().cpu()
        right = right.gather(-1, tokens.cpu()) - right.logsumexp(-1, keepdim=True)
        torch.testing.assert_close(
            log_probs.double().cpu(), right, atol=3e-6, rtol=1e-6, equal_nan=True
        )
        assert bool((wide_tokens[rows] == -7).all())
        assert bool((wide_tokens[:, k:] == -7).all())
        assert wide_log_probs[rows].isnan().all()
        assert wide_log_probs[:, k:].isnan().all()
        assert is_as_new(words)


def test_a_row_does_not_depend_on_the_others() -> None:
    logits = laid(random_logits(40, 32000, 1), torch.bfloat16)
    words, k = workspace(40, 32000, 8), 8
    together = torch.full((40, k), -7, device=DEVICE), torch.full((40, k), NAN, device=DEVICE)
    cuda.top_k(logits, *together, words)
    for row in (0, 17, 39):
        alone = torch.full((1, k), -7, device=DEVICE), torch.full((1, k), NAN, device=DEVICE)
        cuda.top_k(logits[row : row + 1], *alone, words)
        assert torch.equal(alone[0][0], together[0][row])
        assert torch.equal(alone[1][0].isnan(), together[1][row].isnan())
        assert torch.equal(alone[1][0].nan_to_num(), together[1][row].nan_to_num())


def test_more_rows_than_the_workspace_has_room_for() -> None:
    logits = laid(random_logits(50, 100, 1), torch.float32)
    words = workspace(7, 100, 64)
    words = words[: cuda.HEADER + 7 * 65]
    tokens, log_probs = (torch.zeros(50, 64, dtype=t, device=DEVICE) for t in (torch.int64, None))
    cuda.top_k(logits, tokens, log_probs, words)
    assert torch.equal(tokens.cpu(), ranked(logits)[:, :64])


def test_tasks_take_what_fits_and_leave_the_rest_to_torch() -> None:
    logits = laid(random_logits(3, 100, 0), torch.bfloat16)
    tokens = torch.zeros(3, 4, dtype=torch.int64, device=DEVICE)
    found = {"logits": logits, "tokens": tokens}
    variant = sample.top_k.variants["cuda"]
    assert variant.accepts is not None
    assert variant.accepts(found)
    assert not variant.accepts(found | {"logits": logits.double()})
    assert not variant.accepts(found | {"tokens": tokens.new_zeros(3, 65)})
    assert not variant.accepts(found | {"logits": logits.T})


def random_tree(generator: random.Random, nodes: int, vocabulary: int) -> TokenTree:
    """Of so many nodes, the root among them, or as many as there are tokens for."""
    tree = TokenTree(generator.randrange(vocabulary))
    for _ in range(10 * nodes):
        if len(tree) < nodes:
            tree.add(
                min(generator.randrange(len(tree)), generator.randrange(len(tree))),
                generator.randrange(vocabulary),
            )
    return tree


def tables(
    rows: Sequence[int],
    tokens: Sequence[int],
    parents: Sequence[int],
    first: Sequence[int],
    counts: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """On the card."""

    def table(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=DEVICE)

    return table(rows), table(tokens), table(parents), table(first), table(counts)


class Forest:
    """Trees as kernels take them, with logits that often agree with them.

    Attributes:
        trees: of which the first may be missing: it has no nodes.
        logits: more rows than there are nodes; those of no node are NaN.
        tables: rows, tokens, parents, first, counts.
    """

    def __init__(
        self, seed: int, vocabulary: int, sizes: Sequence[int], rows: int, dtype: torch.dtype
    ) -> None:
        generator = random.Random(seed)
        self.trees = [random_tree(generator, size, vocabulary) if size else None for size in sizes]
        counts = [len(tree) if tree else 0 for tree in self.trees]
        places = generator.sample(range(rows), sum(counts))
        values = torch.full((rows, vocabulary), NAN)
        values[places] = random_logits(len(places), vocabulary, seed)
        first, at = [], 0
        for tree in self.trees:
            first.append(at)
            for node in range(len(tree) if tree else 0):
                assert tree is not None
                if (children := tree.children(node)) and generator.random() < 0.8:
                    values[places[at], tree.tokens[generator.choice(children)]] = 50.0
                at += 1
        known = [tree for tree in self.trees if tree]
        self.logits = laid(values, dtype)
        self.places = places
        self.first = first
        self.tables = tables(
            places,
            [token for tree in known for token in tree.tokens],
            [parent for tree in known for parent in tree.parents],
            first,
            counts,
        )

    def rows_of(self, number: int) -> Tensor:
        """The logits behind a tree's nodes, on the CPU."""
        tree = self.trees[number]
        assert tree is not None
        at = self.first[number]
        return self.logits[self.places[at : at + len(tree)]].cpu()


def new_path(trees: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Poison."""
    nodes, tokens = (torch.full((trees, columns), -7, device=DEVICE) for _ in range(2))
    return nodes, tokens, torch.full((trees,), -7, device=DEVICE)


def assert_path(
    path: tuple[Tensor, Tensor, Tensor], number: int, nodes: Sequence[int], tokens: Sequence[int]
) -> None:
    """Only these are there, and -1 behind them."""
    found_nodes, found_tokens, counts = path
    columns = found_nodes.shape[1]
    assert found_nodes[number].tolist() == [*nodes, *[-1] * (columns - len(nodes))]
    assert found_tokens[number].tolist() == [*tokens, *[-1] * (columns - len(tokens))]
    assert int(counts[number]) == len(tokens)


@by_type
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rows", [130, cuda.KNOWN_ROWS + 1])
def test_greedy_walks_are_those_of_the_trees(rows: int, seed: int, dtype: torch.dtype) -> None:
    vocabulary = (8, 50, 5000, 33000)[seed % 4]
    forest = Forest(seed, vocabulary, [1, 64, 0, 30, 7], rows, dtype)
    path, words = new_path(5, 70), workspace(rows, vocabulary)
    cuda.greedy_walk(forest.logits, *forest.tables, *path, words)
    accepted = 0
    for number, tree in enumerate(forest.trees):
        if tree is None:
            assert_path(path, number, [], [])
            continue
        likeliest = ranked(forest.rows_of(number))[:, 0].tolist()
        right = follow(tree, likeliest.__getitem__)
        assert_path(path, number, right.nodes, right.tokens)
        accepted += len(right.nodes)
    assert accepted > 0
    assert is_as_new(words)


@pytest.mark.parametrize("rows", [10, cuda.KNOWN_ROWS + 1])
def test_no_more_nodes_are_accepted_than_there_is_room_for(rows: int) -> None:
    chain = TokenTree(1)
    for node in range(9):
        chain.add(node, node + 2)
    logits = torch.zeros(rows, 64)
    logits[range(10), range(2, 12)] = 1.0
    given = tables(range(10), chain.tokens, chain.parents, [0], [10])
    for columns in (1, 4, 10, 12):
        path = new_path(1, columns)
        cuda.greedy_walk(laid(logits, torch.float32), *given, *path, workspace(rows, 64))
        accepted = min(columns - 1, 9)
        assert_path(path, 0, range(1, accepted + 1), range(2, accepted + 3))


@pytest.mark.parametrize("rows", [130, cuda.KNOWN_ROWS + 1])
def test_a_graph_can_hold_it(rows: int) -> None:
    forest = Forest(3, 32000, [64, 30], rows, torch.bfloat16)
    k, words = 8, workspace(rows, 32000, 8)
    tokens, log_probs = (torch.zeros(rows, k, dtype=t, device=DEVICE) for t in (torch.int64, None))
    path, likeliest = new_path(2, 70), torch.zeros(rows, dtype=torch.int64, device=DEVICE)

    params, keys = params_table(PARAMS[1:3]), chance_keys([1, 2], 0)
    other_path = new_path(2, 70)

    def body() -> None:
        cuda.naive_walk(forest.logits, params, keys, *forest.tables, *other_path)
        cuda.greedy_walk(forest.logits, *forest.tables, *path, words)
        cuda.top_k(forest.logits, tokens, log_probs, words)
        cuda.likeliest(forest.logits, likeliest, words)

    outputs = [*path, *other_path, tokens, likeliest]
    body()
    right = [tensor.clone() for tensor in outputs]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    for _ in range(3):
        for tensor in outputs:
            tensor.fill_(-7)
        graph.replay()
        assert all(map(torch.equal, outputs, right))


PARAMS = (
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.7, top_p=0.9),
    SamplingParams(temperature=1.3, top_k=40),
    SamplingParams(temperature=0.8, top_k=50, top_p=0.95, min_p=0.02),
    SamplingParams(temperature=1.0, min_p=0.1),
    SamplingParams(temperature=2.0, top_p=0.999),
    SamplingParams(temperature=1.0, top_p=0.3),
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=1.0, top_k=1),
    SamplingParams(temperature=1e-6, top_p=0.5, top_k=1),
)


def params_table(params: Sequence[SamplingParams]) -> Tensor:
    """As kernels take them."""
    numbers = [(p.temperature, p.top_k, p.top_p, p.min_p) for p in params]
    return torch.tensor(numbers, dtype=torch.float64, device=DEVICE)


def key_bits(*keys: int) -> list[int]:
    """Keys as int64."""
    bits: list[int] = np.array(keys, np.uint64).view(np.int64).tolist()
    return bits


def law(row: Tensor, params: SamplingParams) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A row's probabilities, by the host."""
    found: np.ndarray[tuple[int], np.dtype[np.float64]] = distribution(
        row.cpu(), params, [], []
    ).numpy()
    return found


def clean_logits(rows: int, vocabulary: int, seed: int) -> Tensor:
    """As :func:`random_logits`, without NaN, and with a number above -inf."""
    logits = random_logits(rows, vocabulary, seed).nan_to_num(-1.0, 0.0, -torch.inf)
    logits[:, 0] = logits[:, 0].clamp_min(-2.0)
    return logits


@by_type
@by_layout
@pytest.mark.parametrize("vocabulary", [1, 2, 33, 1000, 50257, 128256])
def test_processed_probabilities_are_the_hosts(
    vocabulary: int, layout: str, dtype: torch.dtype
) -> None:
    for seed in range(6):
        logits = laid(clean_logits(len(PARAMS), vocabulary, seed), dtype, layout)
        wide = torch.full((len(PARAMS) + 1, vocabulary + 1), NAN, device=DEVICE)
        cuda.process(logits, params_table(PARAMS), wide[:-1, :vocabulary])
        assert wide[-1].isnan().all()
        assert wide[:, vocabulary].isnan().all()
        for row, params, found in zip(logits, PARAMS, wide, strict=False):
            right, given = law(row, params), found[:vocabulary].double().cpu().numpy()
            assert not given[right == 0].any()
            assert given[right > 1e-12].all()
            np.testing.assert_allclose(given, right, rtol=1e-5, atol=1e-10)


def test_a_row_that_has_no_law_is_told() -> None:
    logits = torch.zeros(4, 100)
    logits[0] = -torch.inf
    logits[1, 3] = NAN
    logits[2, 3] = torch.inf
    params = params_table([SamplingParams(temperature=0.5, top_p=0.9, top_k=5)] * 4)
    found, tokens = torch.zeros(4, 100, device=DEVICE), torch.full((4,), -7, device=DEVICE)
    cuda.process(laid(logits, torch.float32), params, found)
    assert found.isnan().all(-1).tolist() == [True, True, True, False]
    keys = torch.arange(4, device=DEVICE)
    cuda.sample_rows(laid(logits, torch.float32), params, keys, keys, tokens)
    assert (tokens == -1).tolist() == [True, True, True, False]


@by_type
@pytest.mark.parametrize("vocabulary", [1, 33, 1000, 50257, 128256])
def test_draws_are_the_hosts_with_the_same_numbers(vocabulary: int, dtype: torch.dtype) -> None:
    params = PARAMS * 4
    keys = [key_of(vocabulary, row) for row in range(len(params))]
    logits = laid(clean_logits(len(params), vocabulary, 1), dtype)
    tokens = torch.full((len(params),), -7, device=DEVICE)
    places = torch.arange(len(params), device=DEVICE) * 1000
    keys_table = torch.tensor(key_bits(*keys), device=DEVICE)
    cuda.sample_rows(logits, params_table(params), keys_table, places, tokens)
    for number, token in enumerate(tokens.tolist()):
        sums = np.cumsum(law(logits[number], params[number]))
        u = uniform(keys[number], 1000 * number) * sums[-1]
        below = sums[token - 1] if token else 0.0
        assert below - 1e-7 <= u <= sums[token] + 1e-7
        assert sums[token] > below


class SampledForest:
    """Trees whose nodes were drawn by a drafter that thinks much as the LLM does.

    Attributes:
        trees: with a row of probabilities for each node that has drawn children.
        logits: the LLM's, a row for each node.
        rows_of: logits behind a tree's nodes.
        drawn_from: (any, vocabulary) float32.
        trials: first, counts, nodes, rows.
        tables: rows, tokens, parents, first, counts.
    """

    def __init__(self, seed: int, vocabulary: int, trees: int, dtype: torch.dtype) -> None:
        generator = random.Random(seed)
        noise = torch.Generator().manual_seed(seed)
        self.trees: list[TokenTree] = []
        values: list[Tensor] = []
        drawn_from = [torch.zeros(vocabulary)]
        at, counts, nodes, rows = list[int](), list[int](), list[int](), list[int]()
        first = []
        for number in range(trees):
            tree, frontier, chance = TokenTree(0), [0], SeededChance(seed, number, 77)
            thought = clean_logits(40, vocabulary, seed + number)
            for width in (3, 2, 1):
                below = []
                for node in frontier:
                    other = thought[node] + 0.5 * torch.randn(vocabulary, generator=noise)
                    row = law(other, SamplingParams(temperature=1.0)).astype(np.float32)
                    wide = row.astype(np.float64)
                    if generator.random() < 0.2:
                        drawn = Drawn([int(wide.argmax())], [0.0], None)
                    else:
                        drawn = draw("iid", wide, width, chance, 0)
                    below += grow(tree, node, drawn)
                frontier = below
            first.append(len(values))
            for node in range(len(tree)):
                trials = tree.trials(node)
                at.append(len(nodes))
                counts.append(len(trials))
                nodes += [trial.node for trial in trials]
                rows += [-1 if t.row is None else len(drawn_from) + t.row for t in trials]
                values.append(thought[node])
            drawn_from += [torch.from_numpy(row).float() for row in tree.rows]
            self.trees.append(tree)
        self.logits = laid(torch.stack(values), dtype)
        self.rows_of = [
            self.logits[start : start + len(tree)].cpu()
            for start, tree in zip(first, self.trees, strict=True)
        ]
        self.drawn_from = torch.stack(drawn_from).to(DEVICE)
        table = tables(at, counts, nodes, rows, [])
        self.trials = table[0], table[1], table[2], table[3]
        self.tables = tables(
            range(len(values)),
            [token for tree in self.trees for token in tree.tokens],
            [parent for tree in self.trees for parent in tree.parents],
            first,
            [len(tree) for tree in self.trees],
        )


def chance_keys(seeds: Sequence[int], position: int) -> Tensor:
    """Keys of coins and draws, as ``SeededChance(seed, position)`` has them."""
    keys = [key_bits(*(key_of(seed, use, position) for use in (COIN, DRAW))) for seed in seeds]
    return torch.tensor(keys, device=DEVICE)


@by_type
@pytest.mark.parametrize("vocabulary", [6, 200, 20000])
@pytest.mark.parametrize("seed", range(5))
def test_sampled_walks_are_the_hosts_with_the_same_numbers(
    seed: int, vocabulary: int, dtype: torch.dtype
) -> None:
    count, columns = 12, 6
    forest = SampledForest(seed, vocabulary, count, dtype)
    params = [PARAMS[(seed + number) % 7] for number in range(count)]
    keys = chance_keys(range(count), 77)
    given, accepted = (forest.logits, params_table(params), keys), 0
    mss, naive = new_path(count, columns), new_path(count, columns)
    cuda.mss_walk(*given, forest.drawn_from, *forest.trials, *forest.tables, *mss)
    cuda.naive_walk(*given, *forest.tables, *naive)
    for number, tree in enumerate(forest.trees):
        own, of_law = forest.rows_of[number], params[number]
        for verify, path in ((verify_mss, mss), (verify_naive, naive)):
            laws = [law(row, of_law) for row in own]
            right: Accepted = verify(tree, laws.__getitem__, SeededChance(number, 77), 77)
            assert_path(path, number, right.nodes, right.tokens)
            accepted += len(right.nodes)
    assert accepted > 0


class Trials:
    """Trees and proposals of any shape, as kernels take them; proposals repeat, and some are sure.

    Args:
        seed: of all that is random.
        vocabulary: numbers of a row.
        sizes: nodes of each tree, the root among them; 0: there is none.
        layout: of the logits.
        dtype: of the logits.

    Attributes:
        logits: a row for each node, in any place.
        drawn_from: (any, vocabulary) float32, parts of wider rows.
        known: the same in float64, on the CPU.
        trials: first, counts, nodes, rows.
        tables: rows, tokens, parents, first, counts.
    """

    def __init__(
        self, seed: int, vocabulary: int, sizes: Sequence[int], layout: str, dtype: torch.dtype
    ) -> None:
        generator, total = random.Random(seed), sum(sizes)
        noise = torch.Generator().manual_seed(seed)
        known = 2 * torch.randn(vocabulary, generator=noise)  # by all of them, more or less
        values = known + clean_logits(total + 3, vocabulary, seed) / 3
        wide = torch.full((7, vocabulary + 3), NAN, device=DEVICE)
        self.drawn_from = wide[:, :vocabulary]
        near = known + torch.randn(7, vocabulary, generator=noise)
        self.drawn_from.copy_(near.double().softmax(-1))
        places = generator.sample(range(total + 3), total)
        tokens, parents = list[int](), list[int]()
        at, counts, nodes, rows = list[int](), list[int](), list[int](), list[int]()
        for size in sizes:
            behind = len(tokens)
            above = [-1, *(generator.randrange(max(0, n - 4), n) for n in range(1, size))][:size]
            parents += above
            for node in range(size):
                # Of the LLM's likelier tokens, so that some are accepted.
                best = values[places[behind + max(0, above[node])]].topk(min(40, vocabulary))
                tokens.append(int(generator.choice(best.indices.tolist())))
            for node in range(size):
                children = [child for child in range(size) if above[child] == node]
                trials = generator.sample(children, len(children))
                if children:
                    trials += generator.choices(children, k=generator.choice((2, 6, 70)))
                at.append(len(nodes))
                counts.append(len(trials))
                nodes += trials
                rows += [generator.randrange(-1, 7) for _ in trials]
        self.logits = laid(values, dtype, layout)
        first = [sum(sizes[:number]) for number in range(len(sizes))]
        listed = tables(at, counts, nodes or [0], rows or [0], [])
        self.trials = listed[0], listed[1], listed[2], listed[3]
        self.tables = tables(places, tokens, parents, first, sizes)
        self.known = self.drawn_from.double().cpu().numpy()
        self._rows = [self.logits[place].cpu() for place in places]
        self._laws: dict[int, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}

    def law_of(
        self, node: int, params: SamplingParams
    ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Probabilities behind a node of a tree, whose parameters are always the same."""
        if node not in self._laws:
            self._laws[node] = law(self._rows[node], params)
        return self._laws[node]


ROUNDING = 1e-5
"""Of a probability, relative to it."""
MOST_UNKNOWN = 0.03
"""Of what rejections leave of all probabilities, before a walk is given up."""


def expected_walk(
    forest: Trials, tree: int, params: SamplingParams, seed: int, columns: int
) -> tuple[list[int], list[tuple[float, float]]] | None:
    """What multi-step speculative sampling accepts, by its definition in float64.

    Returns:
        Nodes, and for each token how far the sums may be from the number that draws it, below and
        behind it; None: a coin is too close to its odds to tell, or too little is left.
    """
    _, tokens, _, first, counts = (table.tolist() for table in forest.tables)
    at, tried, children, drawn = (table.tolist() for table in forest.trials)
    if not counts[tree]:
        return [], []
    coins, draws = (key_of(seed, use, 5) for use in (COIN, DRAW))
    nodes, asked = [0], 0
    while True:
        own = first[tree] + nodes[-1]
        left = forest.law_of(own, params)
        unknown = ROUNDING * left
        trials = range(at[own], at[own] + min(tried[own], 64)) if len(nodes) < columns else ()
        for trial in trials:
            token, asked = tokens[first[tree] + children[trial]], asked + 1
            by = np.zeros_like(left)
            by[token] = 1.0
            if drawn[trial] >= 0:
                by = forest.known[drawn[trial]]
            odds, coin = left[token] / by[token], uniform(coins, asked)
            if abs(odds - coin) <= unknown[token] / by[token] and odds > 0:
                return None
            if coin < odds:
                nodes.append(children[trial])
                break
            rest = np.maximum(left - by, 0.0) if drawn[trial] >= 0 else left * (1 - by)
            if unknown.sum() > MOST_UNKNOWN * rest.sum():
                return None
            left = rest / rest.sum()
            unknown = (unknown + left * unknown.sum()) / rest.sum()
        else:
            sums = np.cumsum(left)
            u = uniform(draws, asked + 1) * sums[-1]
            margins = zip(np.concatenate([[0.0], sums[:-1]]) - u, sums - u, strict=True)
            most = unknown.sum()
            return nodes[1:], [(below - most, above + most) for below, above in margins]


@by_type
@pytest.mark.parametrize(
    ("vocabulary", "layout"), [*product((5, 300, 32000), LAYOUTS), (128256, "whole")]
)
def test_speculative_sampling_is_its_definition(
    vocabulary: int, layout: str, dtype: torch.dtype
) -> None:
    sizes, columns, told, accepted = (9, 1, 0, 33, 64, 5, 17, 2), 5, 0, 0
    forest = Trials(vocabulary, vocabulary, sizes, layout, dtype)
    of_trees = [PARAMS[(2 * number + vocabulary) % 7] for number in range(len(sizes))]
    for seed in range(16):
        keys = [
            key_bits(*(key_of(seed + 100 * n, use, 5) for use in (COIN, DRAW))) for n in range(8)
        ]
        whole = new_path(len(sizes) + 1, columns)
        path = whole[0][:-1], whole[1][:-1], whole[2][:-1]
        cuda.mss_walk(
            forest.logits,
            params_table(of_trees),
            torch.tensor(keys, device=DEVICE),
            forest.drawn_from,
            *forest.trials,
            *forest.tables,
            *path,
        )
        assert all(bool((one[-1] == -7).all()) for one in whole)  # what is no tree's
        for tree, params in enumerate(of_trees):
            right = expected_walk(forest, tree, params, seed + 100 * tree, columns)
            if right is None:
                continue
            nodes, margins = right
            found = path[1][tree].tolist()
            first = int(forest.tables[3][tree])
            tokens = [int(forest.tables[1][first + node]) for node in nodes]
            own = [found[len(nodes)]] if margins else []
            assert_path(path, tree, nodes, [*tokens, *own])
            for token in own:
                below, behind = margins[token]
                assert below <= 0 <= behind
            told += 1
            accepted += len(nodes)
    assert told > 64
    assert accepted > 20


def test_the_law_of_a_speculated_token_is_the_llms() -> None:
    trees, vocabulary = 6000, 5
    generator = torch.Generator().manual_seed(1)
    llm, drafter = 1.5 * torch.randn(2, vocabulary, generator=generator)
    row = law(drafter, SamplingParams(temperature=1.0)).astype(np.float32)
    tokens, parents = list[int](), list[int]()
    first, nodes, at = list[int](), list[int](), list[int]()
    for number in range(trees):
        tree = TokenTree(0)
        grow(tree, 0, draw("iid", row.astype(np.float64), 3, SeededChance(number, 5), 0))
        first.append(len(tokens))
        at += [len(nodes)] * len(tree)
        nodes += [trial.node for trial in tree.trials(0)]
        tokens += tree.tokens
        parents += tree.parents
    counts = np.diff([*first, len(tokens)]).tolist()
    tried = [3 if parent < 0 else 0 for parent in parents]
    trials = tables(at, tried, nodes, [0] * len(nodes), [])
    logits = laid(llm.expand(len(tokens), -1), torch.float32)
    path, params = new_path(trees, 3), SamplingParams(temperature=0.9, top_k=4)
    cuda.mss_walk(
        logits,
        params_table([params] * trees),
        chance_keys(range(10**6, 10**6 + trees), 0),
        torch.from_numpy(row)[None].to(DEVICE),
        *trials[:4],
        *tables(range(len(tokens)), tokens, parents, first, counts),
        *path,
    )
    right = law(logits[0], params)
    found = np.bincount(path[1][:, 0].cpu().numpy(), minlength=vocabulary) / trees
    assert np.abs(found - right).max() < 4 * np.sqrt(0.25 / trees)
    assert 0.3 < float((path[0][:, 0] > 0).double().mean()) < 1
