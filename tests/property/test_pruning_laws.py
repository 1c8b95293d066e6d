"""Proof by computation: a tree that is cut as its verifier allows keeps the law of the text.

Drafters' and verifiers' own code is run with every answer that chance can give, as in
``test_verifier_laws.py``; between them the tree is cut. Cuts that look at what was drawn are
planted, and found.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from enumeration import distance, law
from toy_language import Language, Text

from specinfer.scheduler import pruning
from specinfer.scheduler.pruning import first_draws, limited
from specinfer.scheduler.speculators.drawing import Drawn, draw, grow
from specinfer.scheduler.token_tree import TokenTree, merge
from specinfer.scheduler.verifiers.choice import VERIFIERS

Cut = Callable[[TokenTree, int], TokenTree]
TOLERANCE = 1e-12


@dataclass(frozen=True)
class Case:
    """A verifier, its drafters, the shape of their trees, and what is left of them."""

    verifier: str
    draws: str
    expansion: tuple[int, ...]
    nodes: int
    drafters: int = 1
    vocabulary: int = 3

    @property
    def id(self) -> str:
        shape = ",".join(map(str, self.expansion))
        return f"{self.verifier}/{self.draws}/<{shape}>x{self.drafters} cut to {self.nodes}"


def step(case: Case, llm: Language, chance: Any, cut: Cut) -> Text:
    """Draft, merge, cut and verify once."""
    trees = []
    for number in range(case.drafters):
        drafter, tree, frontier = Language(100 + number, case.vocabulary), TokenTree(-1), [0]
        for depth, width in enumerate(case.expansion):
            above, frontier = frontier, []
            for node in above:
                row = drafter(tuple(tree.path(node)[1:]))
                frontier += grow(tree, node, draw(case.draws, row, width, chance, depth))
        trees.append(tree)
    tree = cut(merge(trees), case.nodes)
    assert len(tree) - 1 <= case.nodes
    verify = VERIFIERS[case.verifier].verify
    return tuple(verify(tree, lambda n: llm(tuple(tree.path(n)[1:])), chance, 0).tokens)


def wrong_by(case: Case, cut: Cut | None = None, seed: int = 1) -> float:
    """How far the law of a step, continued by the LLM alone, is from the LLM's."""
    llm, length = Language(seed, case.vocabulary), len(case.expansion) + 1
    verifier = VERIFIERS[case.verifier]
    cut = cut or (lambda tree, nodes: limited(tree, nodes, verifier))
    found: dict[Text, float] = {}
    for text, weight in law(lambda chance: step(case, llm, chance, cut)).items():
        for whole, probability in llm.law(length, text).items():
            found[whole] = found.get(whole, 0.0) + weight * probability
    return distance(found, llm.law(length))


MSS = [("mss", "iid"), ("mss_without_replacement", "without_replacement")]
CASES = [
    Case(verifier, draws, expansion, nodes, drafters, vocabulary)
    for verifier, draws in MSS
    for expansion, drafters, vocabulary, sizes in [
        ((3,), 1, 4, (0, 1, 2)),
        ((2,), 2, 3, (1, 2, 3)),
        ((2, 1), 1, 3, (1, 2, 3)),
        ((2, 2), 1, 2, (2, 3, 4)),
        ((1, 1), 2, 2, (1, 2, 3)),
        ((1, 2), 2, 2, (3,)),
        ((2, 1, 1), 1, 2, (2, 3, 4)),
    ]
    for nodes in sizes
]
ANY = [
    Case(verifier, draws, (2, 1), 2)
    for verifier in ("naive", "coupled")
    for draws in ("top_k", "iid", "without_replacement", "race")
]


@pytest.mark.parametrize("case", CASES + ANY, ids=lambda case: case.id)
def test_a_cut_keeps_the_law(case: Case) -> None:
    assert wrong_by(case) < TOLERANCE


def keeps_the_likeliest(tree: TokenTree, nodes: int) -> TokenTree:
    likeliest = sorted(range(1, len(tree)), key=lambda node: -tree.log_probs[node])
    return tree.restricted(sorted(likeliest[:nodes]))


def as_many_as_half(tree: TokenTree, nodes: int) -> TokenTree:
    """Looks at how many of the draws are different."""
    return first_draws(tree, min(nodes, (len(tree) - 1) // 2))


def edited(old: str, new: str) -> Cut:
    """The cut with an edit of its text."""
    names: dict[str, Any] = dict(vars(pruning))
    source = inspect.getsource(pruning)
    assert old in source, f"no {old!r} any more: plant the bug anew"
    exec(compile(source.replace(old, new), "mutant", "exec"), names)
    found: Cut = names["first_draws"]
    return found


IID = Case("mss", "iid", (3,), 1, vocabulary=4)
OTHERS = replace(IID, verifier="mss_without_replacement", draws="without_replacement")
TWO = replace(IID, expansion=(2,), drafters=2, vocabulary=3, nodes=2)
DEEP = replace(IID, expansion=(2, 1), vocabulary=3, nodes=3)
BOTH = replace(DEEP, drafters=2)
MUTANTS: dict[str, tuple[Case, Cut]] = {
    "the likeliest of independent draws": (IID, keeps_the_likeliest),
    "the likeliest of draws without replacement": (OTHERS, keeps_the_likeliest),
    "the likeliest of two drafters' draws": (TWO, keeps_the_likeliest),
    "as many as half of the different ones": (replace(IID, nodes=9), as_many_as_half),
    "the later draws": (
        OTHERS,
        edited("key=lambda draw: -draw[0].order", "key=lambda draw: draw[0].order"),
    ),
    "draws in the order of their tokens": (
        IID,
        edited("key=lambda draw: -draw[0].order", "key=lambda draw: draw[1]"),
    ),
    "a draw's turn by what is claimed for it": (
        DEEP,
        edited(
            "-here.value * FIRST * 0.5**order",
            "-tree.log_probs[here.left[min(here.left)][-1][1]]",
        ),
    ),
    "a drafter's draws at a node before its draw of the node": (
        BOTH,
        edited("        join(added, drafter)", "        [join(added, d) for d in draws[child]]"),
    ),
}


@pytest.mark.parametrize(("case", "cut"), MUTANTS.values(), ids=MUTANTS)
def test_finds(case: Case, cut: Cut) -> None:
    assert any(wrong_by(case, cut, seed) > 1e-4 for seed in (9, 1, 2))


def test_without_a_bug_nothing_is_found() -> None:
    for case in {case for case, _ in MUTANTS.values()}:
        assert wrong_by(case, first_draws) < TOLERANCE


def test_proposals_and_rows_stay_with_their_nodes() -> None:
    tree = TokenTree(0)
    row = np.array([0.5, 0.5])
    generator = np.random.default_rng(0)
    for node in (0, 1):
        tokens = generator.integers(0, 2, 3).tolist()
        grow(tree, node, Drawn(tokens, [-0.7] * 3, row))
    kept = first_draws(tree, 2)
    for node in range(1, len(kept)):
        (same,) = tree.follow(kept.path(node)[1:])[-1:]
        assert kept.log_probs[node] == tree.log_probs[same]
        assert set(kept.proposals[node]) <= set(tree.proposals[same])
        assert all(
            p.row is None or kept.rows[p.row] is tree.rows[p.row] for p in kept.proposals[node]
        )
