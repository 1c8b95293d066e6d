"""Proof by computation: speculation does not change the law of the text, for any verifier.

The speculators' and verifiers' own code is run with every answer that chance can give, and the
probabilities are added up. The oracle is the LLM's law: products of its probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from enumeration import Script, distance, law
from toy_language import Language, Row, Text

from specinfer.scheduler.speculators.drawing import Drawn, draw, grow
from specinfer.scheduler.token_tree import TokenTree, merge
from specinfer.scheduler.verifiers import Accepted, mss
from specinfer.scheduler.verifiers.choice import VERIFIERS

Draw = Callable[..., Drawn]
TOLERANCE = 1e-12


@dataclass(frozen=True)
class Case:
    """A verifier, its drafters, and the shape of their trees."""

    verifier: str
    draws: str
    expansion: tuple[int, ...]
    drafters: int = 1
    certain: int = 0
    """Tokens that one more drafter proposes for sure, as an n-gram does."""

    @property
    def id(self) -> str:
        shape = ",".join(map(str, self.expansion))
        return f"{self.verifier}/{self.draws}/<{shape}>x{self.drafters}+{self.certain}"


def draft(
    case: Case, drafter: Language, text: Text, chance: Any, draw: Draw = draw, grow: Any = grow
) -> TokenTree:
    """A drafter's tree behind a text; the root stands for its last token."""
    tree = TokenTree(-1)
    frontier = [0]
    for depth, width in enumerate(case.expansion):
        above, frontier = frontier, []
        for node in above:
            path = (*text, *tree.path(node)[1:])
            drawn = draw(case.draws, drafter(path), width, chance, len(text) + depth)
            frontier += grow(tree, node, drawn)
    return tree


def step(
    case: Case, llm: Language, text: Text, chance: Any, verify: Any = None, **how: Any
) -> Text:
    """Draft, merge and verify once: the tokens that come behind a text."""
    trees = [
        draft(case, Language(100 + i, llm.vocabulary), text, chance, **how)
        for i in range(case.drafters)
    ]
    if case.certain:
        tree = TokenTree(-1)
        for token in range(case.certain):
            tree.add(tree.add(0, token), 0)
        trees.append(tree)
    tree = merge(trees)

    def rows(node: int) -> Row:
        return llm((*text, *tree.path(node)[1:]))

    verify = verify or VERIFIERS[case.verifier].verify
    accepted: Accepted = verify(tree, rows, chance, len(text))
    path = [tree.tokens[node] for node in accepted.nodes]
    assert accepted.tokens[:-1] == path
    return tuple(accepted.tokens)


def one_step(case: Case, llm: Language, script: Any = Script, **how: Any) -> float:
    """How far the law of a step, continued by the LLM alone, is from the LLM's."""
    length = max(len(case.expansion), 2 * (case.certain > 0)) + 1
    found: dict[Text, float] = {}
    for text, weight in law(lambda chance: step(case, llm, (), chance, **how), script).items():
        for whole, probability in llm.law(length, text).items():
            found[whole] = found.get(whole, 0.0) + weight * probability
    return distance(found, llm.law(length))


def two_tokens(case: Case, llm: Language) -> float:
    """How far the joint law of the first two tokens is from the LLM's, steps behind steps."""

    def write(chance: Any) -> Text:
        text: Text = ()
        while len(text) < 2:
            text += step(case, llm, text, chance)
        return text[:2]

    return distance(law(write), llm.law(2))


EXACT = [
    (verifier, draws)
    for verifier, found in VERIFIERS.items()
    if verifier != "greedy"
    for draws in ("top_k", "iid", "without_replacement", "race")
    if draws not in found.biased
]
FLAT = [
    Case(verifier, draws, (width,), drafters, certain)
    for verifier, draws in EXACT
    for width, drafters, certain in [(1, 1, 0), (3, 1, 0), (2, 1, 2), (1, 3, 0), (2, 2, 1)]
]
DEEP = [
    Case(verifier, draws, expansion, drafters)
    for verifier, draws in EXACT
    for expansion, drafters in [((2, 1, 1), 1), ((1, 2, 1), 1), ((1, 1, 1), 2)]
]


@pytest.mark.parametrize("case", FLAT, ids=lambda case: case.id)
@pytest.mark.parametrize("vocabulary", [2, 4, 6])
def test_one_level_keeps_the_law(case: Case, vocabulary: int) -> None:
    if case.expansion[0] * case.drafters > 3 and vocabulary > 4:
        vocabulary = 5  # four draws of six tokens are too many to go through
    for zeros in (False, True):
        assert one_step(case, Language(1, vocabulary, zeros)) < TOLERANCE


@pytest.mark.parametrize("case", DEEP, ids=lambda case: case.id)
def test_three_levels_keep_the_law(case: Case) -> None:
    vocabulary = 2 if case.drafters > 1 or case.draws == "iid" else 3
    assert one_step(case, Language(2, vocabulary)) < TOLERANCE
    if case.drafters == 1 and case.draws == "iid":
        assert one_step(replace(case, expansion=(1, 1, 2)), Language(2, 3)) < TOLERANCE


@pytest.mark.parametrize("case", FLAT[::2] + DEEP[::3], ids=lambda case: case.id)
def test_two_tokens_keep_their_joint_law(case: Case) -> None:
    expansion = case.expansion[:2]
    assert two_tokens(replace(case, expansion=expansion), Language(3, 2)) < TOLERANCE


@pytest.mark.parametrize("expansion", [(1,), (3,), (2, 2)])
def test_greedy_writes_the_likeliest(expansion: tuple[int, ...]) -> None:
    case, llm = Case("greedy", "top_k", expansion), Language(4, 5)
    ((text, weight),) = law(lambda chance: step(case, llm, (), chance)).items()
    assert weight == 1
    assert all(token == llm(text[:at]).argmax() for at, token in enumerate(text))


# Bugs planted: all of these were made, by papers or by programs


def tells(how: str, row: Row, *where: Any) -> Drawn:
    """Certain or not, as if it had been drawn from these probabilities."""
    return replace(draw(how, row, *where), row=row)


def top_k_with_the_ratio(how: str, row: Row, count: int, *where: Any) -> Drawn:
    return replace(draw("top_k", row, count, *where), row=row)


def keeps_the_likelier_draw(how: str, row: Row, count: int, *where: Any) -> Drawn:
    drawn = draw(how, row, count + 1, *where)
    kept = sorted(range(len(drawn.tokens)), key=lambda i: -drawn.log_probs[i])[:count]
    return Drawn([drawn.tokens[i] for i in kept], [drawn.log_probs[i] for i in kept], drawn.row)


def tells_of_other_probabilities(how: str, row: Row, *where: Any) -> Drawn:
    """Raw in the ratio, processed in the draw."""
    sharpened = row**2 / (row**2).sum()
    return replace(draw(how, sharpened, *where), row=row)


def tells_of_rounded_probabilities(how: str, row: Row, *where: Any) -> Drawn:
    rounded = np.round(row, 2)
    return replace(draw(how, row, *where), row=rounded / rounded.sum())


def grows_duplicates_once(tree: TokenTree, node: int, drawn: Drawn) -> list[int]:
    return grow(
        tree,
        node,
        replace(
            drawn,
            tokens=list(dict.fromkeys(drawn.tokens)),
            log_probs=[0.0] * len(set(drawn.tokens)),
        ),
    )


class OneCoin(Script):
    """The same random number for every trial of a verification."""

    def accept(self, probability: float) -> bool:
        return self.look("coin", [probability, 1 - probability]) == 0


class CoinForTheDraw(Script):
    """The last trial's number is used again for the draw from what is left."""

    def accept(self, probability: float) -> bool:
        self._intervals.pop("coin", None)
        return self.look("coin", [probability, 1 - probability]) == 0

    def draw(self, probabilities: Any) -> int:
        if "coin" in self._intervals:
            return self.look("coin", list(probabilities))
        return super().draw(probabilities)


def edited(old: str, new: str, verifier: str = "mss") -> Any:
    """The verifier with an edit of its text."""
    import inspect

    names: dict[str, Any] = dict(vars(mss))
    source = inspect.getsource(mss)
    assert old in source, f"no {old!r} any more: plant the bug anew"
    exec(compile(source.replace(old, new), "mutant", "exec"), names)
    return names["verify_mss" if verifier == "mss" else "verify_mss_without_replacement"]


IID, OTHERS = Case("mss", "iid", (2,)), Case("mss_without_replacement", "without_replacement", (3,))
TWO = replace(IID, expansion=(1,), drafters=2)
DEEPER = replace(IID, expansion=(1, 1))
NO_UPDATE = (
    "target = _without(target, token) if drawn_from is None else residual(target, drawn_from)",
    "pass",
)
MUTANTS: dict[str, tuple[Case, dict[str, Any]]] = {
    "the likeliest tokens with the ratio": (IID, {"draw": top_k_with_the_ratio}),
    "the likeliest tokens with the ratio, without replacement": (
        OTHERS,
        {"draw": top_k_with_the_ratio},
    ),
    "the likelier of two draws is kept": (IID, {"draw": keeps_the_likelier_draw}),
    "raw probabilities in the ratio": (IID, {"draw": tells_of_other_probabilities}),
    "rounded probabilities in the ratio": (IID, {"draw": tells_of_rounded_probabilities}),
    "a token drawn twice is tried once": (IID, {"grow": grows_duplicates_once}),
    "draws without replacement taken for independent": (
        replace(IID, draws="without_replacement"),
        {},
    ),
    "independent draws taken for draws without replacement": (
        replace(OTHERS, draws="iid"),
        {"verify": edited("token in seen", "False", "mss_without_replacement")},
    ),
    "noise that drafters share taken for independent draws": (
        replace(TWO, draws="race"),
        {"draw": tells},
    ),
    "one number for all coins": (IID, {"script": OneCoin}),
    "the coin's number for the draw": (IID, {"script": CoinForTheDraw}),
    "the residual is not updated": (IID, {"verify": edited(*NO_UPDATE)}),
    "the residual is not updated between drafters": (TWO, {"verify": edited(*NO_UPDATE)}),
    "the last draw is from the LLM's own row": (
        IID,
        {"verify": edited("chance.draw(target)", "chance.draw(rows(node))")},
    ),
    "the residual is the absolute difference": (
        IID,
        {"verify": edited("np.maximum(target - drawn_from, 0.0)", "abs(target - drawn_from)")},
    ),
    "the token of the node above is looked up": (
        DEEPER,
        {"verify": edited("token = tree.tokens[trial.node]", "token = max(tree.tokens[node], 0)")},
    ),
    "the LLM's row of the wrong node": (
        DEEPER,
        {"verify": edited("rows(node),", "rows(tree.parents[node] if node else 0),")},
    ),
    "the drafter's row of the wrong node": (
        DEEPER,
        {"verify": edited("tree.rows[trial.row]", "tree.rows[0]")},
    ),
    "the first drafter's row for all": (
        TWO,
        {"verify": edited("tree.rows[trial.row]", "tree.rows[0]")},
    ),
    "a rejected token may come again": (
        OTHERS,
        {"verify": edited("left[seen] = 0.0", "pass", "mss_without_replacement")},
    ),
    "certain proposals with a ratio": (
        replace(IID, certain=2),
        {"verify": edited("1.0 if drawn_from is None", "0.5 if drawn_from is None")},
    ),
    "a certain proposal that was rejected may still be drawn": (
        replace(IID, certain=2),
        {"verify": edited("left[token] = 0.0", "pass")},
    ),
    "trials in the order of what they drew": (
        IID,
        {
            "verify": edited(
                "in tree.trials(node)",
                "in sorted(tree.trials(node), key=lambda t: -rows(node)[tree.tokens[t.node]])",
            )
        },
    ),
}


@pytest.mark.parametrize(("case", "how"), MUTANTS.values(), ids=MUTANTS)
def test_finds(case: Case, how: dict[str, Any]) -> None:
    assert wrong_by(case, how) > 1e-4


def wrong_by(case: Case, how: dict[str, Any]) -> float:
    """How wrong the law is; what cannot go on because it divides by nothing is wrong, too."""
    try:
        return max(one_step(case, Language(seed, 3), **how) for seed in (1, 2, 3))
    except RuntimeWarning:
        return 1.0


def test_without_a_bug_nothing_is_found() -> None:
    for case in {case for case, _ in MUTANTS.values() if (case.verifier, case.draws) in EXACT}:
        assert one_step(case, Language(1, 3)) < TOLERANCE


def test_every_pair_that_is_called_biased_is() -> None:
    """What is refused is refused for a reason."""
    for verifier, found in VERIFIERS.items():
        for draws in found.biased:
            case = Case(verifier, draws, (1,) if draws == "race" else (2,), 1 + (draws == "race"))
            assert wrong_by(case, {"draw": tells}) > 1e-4


# How often a proposal is accepted


def acceptance(case: Case, llm: Language) -> float:
    return sum(
        weight
        for text, weight in law(lambda chance: step(case, llm, (), chance)).items()
        if len(text) > 1
    )


@pytest.mark.parametrize("width", [1, 2, 3])
def test_mss_accepts_at_least_as_often_as_naive_sampling(width: int) -> None:
    """Theorem 4.3, for the same draws."""
    for seed in range(5):
        llm = Language(seed, 4)
        tried = acceptance(Case("mss", "iid", (width,)), llm)
        followed = acceptance(Case("naive", "iid", (width,)), llm)
        assert tried >= followed - TOLERANCE
        without = acceptance(Case("mss_without_replacement", "without_replacement", (width,)), llm)
        assert without >= tried - 0.05
