"""Random arguments for the tasks of lanes, and the comparison of their variants.

Tables lie in larger ones, so that a variant that writes where it must not is found out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from tiny_models import random_parents
from torch import Tensor

from specinfer.ops.attention import PAGE_SLOTS
from specinfer.runtime.task import Task
from specinfer.scheduler.lanes.batches import chain_batch, level_batch, verify_batch
from specinfer.scheduler.lanes.matching import match_text
from specinfer.scheduler.lanes.naming import rename
from specinfer.scheduler.lanes.taking import take, take_draft, walk_greedy
from specinfer.scheduler.lanes.trees import add_tree, begin_tree, grow_tree

POISON = -77
"""What stands in tables before they are written."""
ROW_FIELDS = ("tokens", "positions", "request", "slots")
REQUEST_FIELDS = ("prefix_len", "chain_len", "num_nodes")

FlatTree = tuple[list[int], list[int]]
"""Tokens and parents of a tree's nodes."""


@dataclass(frozen=True)
class Sizes:
    """How large lanes are.

    Attributes:
        lanes: how many; some are empty.
        nodes: most nodes of a tree, the root not counted.
        context: most tokens of a text.
        chain: most tokens that a model lacks of it.
        vocabulary: tokens; with few of them trees have much in common.
    """

    lanes: int
    nodes: int
    context: int
    chain: int = 4
    vocabulary: int = 5


@dataclass
class Case:
    """A launch: a task, and tensors, records of tensors and numbers by argument."""

    task: Task
    arguments: dict[str, Any]


def poisoned(*shape: int) -> Tensor:
    """A table that has not been written."""
    return torch.full(shape, POISON, dtype=torch.int64)


def step_tables(lanes: int, per_lane: int, pages: int, nodes: int, wanted: int) -> dict[str, Any]:
    """What a step reads, not yet written; one word more a mask than is needed."""
    rows = lanes * per_lane
    return {
        "rows": SimpleNamespace(**{name: poisoned(rows) for name in ROW_FIELDS}),
        "requests": SimpleNamespace(**{name: poisoned(lanes) for name in REQUEST_FIELDS}),
        "pages": poisoned(lanes, pages),
        "tree": poisoned(lanes, nodes),
        "ancestors": poisoned(rows, 1 + -(-nodes // 64)),
        "logit_rows": poisoned(wanted),
    }


def random_tree(generator: random.Random, most: int, vocabulary: int) -> FlatTree:
    """Tokens and parents of a tree of up to ``most`` nodes behind its root, which is token 0."""
    tokens, parents = [0], [-1]
    taken: set[tuple[int, int]] = set()
    size = generator.choice([most, generator.randint(0, most)])
    for parent in random_parents(generator, size):
        # Parents before children: where one was left out, the next one will do.
        parent = min(1 + parent, len(tokens) - 1)
        token = generator.randrange(vocabulary)
        if (parent, token) not in taken:
            taken.add((parent, token))
            tokens.append(token)
            parents.append(parent)
    return tokens, parents


def tree_tables(trees: Sequence[FlatTree | None], nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tables of trees: tokens, parents and count; None: the lane is empty."""
    shape = len(trees), 1 + nodes
    tokens, parents, count = poisoned(*shape), poisoned(*shape), poisoned(len(trees))
    for lane, tree in enumerate(trees):
        count[lane] = len(tree[0]) if tree else 0
        if tree:
            tokens[lane, : len(tree[0])] = torch.tensor(tree[0])
            parents[lane, : len(tree[1])] = torch.tensor(tree[1])
    return tokens, parents, count


def random_lengths(generator: random.Random, sizes: Sizes, least: int = 1) -> Tensor:
    """Of texts with room for a deepest path; one lane in four is empty, never the first one."""
    most = sizes.context - sizes.nodes - 1
    lengths = [generator.randint(least, most) for _ in range(sizes.lanes)]
    return torch.tensor(
        [n if lane == 0 or generator.random() > 0.25 else 0 for lane, n in enumerate(lengths)]
    )


def random_pages(generator: random.Random, sizes: Sizes) -> Tensor:
    """(lanes, pages): no page is two lanes'."""
    width = -(-sizes.context // PAGE_SLOTS)
    pages = list(range(1, 1 + sizes.lanes * width))
    generator.shuffle(pages)
    return torch.tensor(pages).view(sizes.lanes, width)


def random_text(generator: random.Random, sizes: Sizes) -> Tensor:
    """(lanes, context) tokens."""
    flat = [generator.randrange(sizes.vocabulary) for _ in range(sizes.lanes * sizes.context)]
    return torch.tensor(flat).view(sizes.lanes, sizes.context)


def best_tokens(
    generator: random.Random, tokens: Tensor, parents: Tensor, count: Tensor, *, vocabulary: int
) -> Tensor:
    """The likeliest token behind each node: that of a child, more often than not."""
    best = [generator.randrange(vocabulary) for _ in range(tokens.numel())]
    for lane, used in enumerate(count.tolist()):
        for node in range(1, used):
            if generator.random() < 0.7:
                best[lane * tokens.shape[1] + int(parents[lane, node])] = int(tokens[lane, node])
    return torch.tensor(best)


def random_cases(generator: random.Random, sizes: Sizes) -> Iterator[Case]:
    """A launch of every task."""
    lanes, nodes, chain = sizes.lanes, sizes.nodes, sizes.chain
    length, text = random_lengths(generator, sizes), random_text(generator, sizes)
    pages = random_pages(generator, sizes)
    width = pages.shape[1]
    scratch = {"scratch_start": (1 + lanes * width) * PAGE_SLOTS, "scratch_nodes": nodes}

    def trees() -> dict[str, Tensor]:
        drawn = [
            random_tree(generator, nodes, sizes.vocabulary) if n else None for n in length.tolist()
        ]
        return dict(zip(("tokens", "parents", "count"), tree_tables(drawn, nodes), strict=True))

    lacking = torch.tensor([generator.randint(1, chain + 2) for _ in range(lanes)])
    # That of an empty lane is left from another text.
    have = torch.where(length > 0, (length - lacking).clamp(min=0), lacking)
    yield Case(
        chain_batch,
        {"length": length, "text": text, "have": have}
        | {"lane_pages": pages}
        | step_tables(lanes, chain, width, max(nodes, chain), lanes),
    )
    first = generator.randint(1, nodes)
    last = generator.randint(first + 1, nodes + 1)
    rows = lanes * (last - first)
    yield Case(
        level_batch,
        {"length": length, **trees(), "lane_pages": pages}
        | step_tables(lanes, last - first, width, nodes + 1, rows)
        | {"first": first, "last": last, **scratch},
    )
    yield Case(
        verify_batch,
        {"length": length, **trees(), "lane_pages": pages}
        | step_tables(lanes, 1 + nodes, width, nodes + 1, lanes * (1 + nodes))
        | scratch,
    )
    shape = lanes, 1 + nodes
    empty = {"tokens": poisoned(*shape), "parents": poisoned(*shape), "count": poisoned(lanes)}
    yield Case(begin_tree, {"length": length, "text": text, **empty})
    yield random_growth(generator, sizes, length)
    merged = {f"into_{name}": table for name, table in trees().items()}
    room = poisoned(lanes, nodes)
    for name in ("into_tokens", "into_parents"):
        merged[name] = torch.cat((merged[name], room), dim=1)
    yield Case(add_tree, {**trees(), **merged})
    tree = trees()
    best = best_tokens(generator, *tree.values(), vocabulary=sizes.vocabulary)
    depth = generator.choice([1, 3, nodes])
    path, outcome = poisoned(lanes, depth), poisoned(lanes, depth + 2)
    yield Case(walk_greedy, {"best": best, **tree, "path": path, "outcome": outcome})
    moves, path, outcome = poisoned(2, lanes * depth), path.clone(), outcome.clone()
    walk_greedy(best, *tree.values(), path, outcome)
    for own in (tree, trees(), trees()):
        yield Case(
            take_draft,
            {"outcome": outcome, "length": length, **own}
            | {"have": poisoned(lanes), "lane_pages": pages, "moves": moves}
            | {"computed": generator.randint(1, 1 + nodes), **scratch},
        )
    yield Case(
        take,
        {"outcome": outcome, "path": path, "lane_pages": pages, "text": text, "length": length}
        | {"moves": moves, **scratch},
    )
    yield random_matching(generator, sizes)
    names = torch.tensor([generator.randrange(99) for _ in range(generator.randint(1, 9))])
    numbers = torch.tensor([generator.randrange(12) for _ in range(lanes * chain)])
    for tokens in (numbers, numbers.view(lanes, chain)):
        yield Case(rename, {"tokens": tokens, "names": names})


def random_growth(generator: random.Random, sizes: Sizes, length: Tensor) -> Case:
    """A level that is added to trees of full levels."""
    first, frontier = 0, 1
    while True:
        width = generator.randint(1, 3)
        if first + (1 + 2 * width) * frontier > 1 + sizes.nodes or generator.random() < 0.3:
            break
        first, frontier = first + frontier, frontier * width
    width = min(width, (1 + sizes.nodes - first - frontier) // frontier)
    shape = sizes.lanes * frontier, width + generator.randint(0, 1)
    drawn = torch.tensor([generator.randrange(99) for _ in range(shape[0] * shape[1])]).view(shape)
    tokens, parents = poisoned(sizes.lanes, 1 + sizes.nodes), poisoned(sizes.lanes, 1 + sizes.nodes)
    count = (length > 0).long() * (first + frontier)
    tables = {"drawn": drawn, "tokens": tokens, "parents": parents, "count": count}
    return Case(grow_tree, {**tables, "first": first, "width": width})


def random_matching(generator: random.Random, sizes: Sizes) -> Case:
    """What followed before, in texts of which most repeat themselves."""
    lanes, nodes = sizes.lanes, sizes.nodes
    text = random_text(generator, sizes)
    for row in text:
        period = generator.randint(1, sizes.context)
        row[:] = row[torch.arange(sizes.context) % period]
        row[generator.randrange(sizes.context)] = 0
    lengths = [generator.randint(0, sizes.context) for _ in range(lanes)]
    shape = lanes, 1 + nodes
    trees = {"tokens": poisoned(*shape), "parents": poisoned(*shape), "count": poisoned(lanes)}
    numbers = {"min_match": generator.randint(1, 3), "max_places": generator.choice([1, 3, 8, 32])}
    numbers["max_depth"] = generator.choice([1, 2, 4, nodes])
    return Case(match_text, {"length": torch.tensor(lengths), "text": text, **trees, **numbers})


@dataclass
class Framed:
    """A table inside a larger one."""

    whole: Tensor
    table: Tensor

    @classmethod
    def of(cls, table: Tensor, device: str, border: int) -> Framed:
        """A copy with something else around it: a row, and so many columns."""
        borders = 1, *[border] * (table.dim() - 1)
        shape = [n + 2 * beside for n, beside in zip(table.shape, borders, strict=True)]
        whole = torch.full(shape, POISON - 1, device=device)
        inner = whole[tuple(slice(at, at + n) for n, at in zip(table.shape, borders, strict=True))]
        inner.copy_(table)
        return cls(whole, inner)


def framed(given: Any, device: str, border: int) -> Any:
    """The same argument with each table framed."""
    if isinstance(given, SimpleNamespace):
        fields = {name: framed(value, device, border) for name, value in vars(given).items()}
        return SimpleNamespace(**fields)
    return Framed.of(given, device, border) if isinstance(given, Tensor) else given


def unframed(given: Any) -> Any:
    """The tables themselves."""
    if isinstance(given, SimpleNamespace):
        return SimpleNamespace(**{name: unframed(value) for name, value in vars(given).items()})
    return given.table if isinstance(given, Framed) else given


def named_tables(argument: str, given: Any) -> Iterator[tuple[str, Tensor]]:
    """The whole of each framed table, with a name for people."""
    if isinstance(given, SimpleNamespace):
        for name, field in vars(given).items():
            yield from named_tables(f"{argument}.{name}", field)
    elif isinstance(given, Framed):
        yield argument, given.whole


class Comparison:
    """Two runs of a case, by the reference and by another variant.

    Args:
        case: what to run.
        kind: of the other variant.
        device: where that one's tables are.
        border: columns on each side of a table that are not its own.
    """

    def __init__(self, case: Case, kind: str, device: str, border: int) -> None:
        self.case = case
        self._variants = case.task.variants["cpu"], case.task.variants[kind]
        self._framed = [
            {name: framed(given, where, border) for name, given in case.arguments.items()}
            for where in ("cpu", device)
        ]

    def run_reference(self) -> None:
        """Run the reference."""
        self._run(0)

    def run_other(self) -> None:
        """Run the other variant."""
        self._run(1)

    def differences(self) -> list[str]:
        """The tables that are not the same, frames included."""
        right, other = (
            dict(pair for name, given in one.items() for pair in named_tables(name, given))
            for one in self._framed
        )
        return [
            f"{self.case.task.name}: {name} is {other[name].tolist()}, expected {table.tolist()}"
            for name, table in right.items()
            if not torch.equal(table, other[name].cpu())
        ]

    def _run(self, which: int) -> None:
        arguments = {name: unframed(given) for name, given in self._framed[which].items()}
        self._variants[which].function(**arguments)


def compare(seeds: Sequence[int], sizes: Sizes, device: str = "cpu") -> None:
    """Run every task's ``cuda`` variant and its reference on random tables.

    Args:
        seeds: one for each round.
        sizes: of the lanes.
        device: of the variant; on the CPU in Numba's simulator, which wants whole tables.

    Raises:
        AssertionError: a table differs.
    """
    for seed in seeds:
        for case in random_cases(random.Random(seed), sizes):
            comparison = Comparison(case, "cuda", device, border=seed % 2 * (device != "cpu"))
            comparison.run_reference()
            comparison.run_other()
            differences = comparison.differences()
            assert not differences, f"seed {seed}: {differences[0]}"
