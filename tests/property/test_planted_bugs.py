"""The checks are worth something: each bug planted here is found, and found by the right check.

A planted bug is an edit of one function's text. When that function is rewritten the edit no longer
fits, and the test says so; plant the bug anew.
"""

from __future__ import annotations

import inspect
import random
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from strategies import CounterExample, Pick, Program, check_effects, check_order, random_program

from specinfer.runtime import launch
from specinfer.runtime.dependence import DependenceAnalyzer
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.privilege import Privilege
from specinfer.runtime.ready import ReadyQueue

NUM_PROGRAMS = 400

COMMUTES = "not self.writes and self == other"
REMOVES = "privilege.writes and space.covers(used)"
BUGS: dict[tuple[Any, str], dict[str, tuple[str, str]]] = {
    (Privilege, "commutes_with"): {
        "reductions of two operators commute": ("self == other", "self.name == other.name"),
        "readers commute with reductions": ("self == other", "not other.writes"),
        "readers commute with write-discards": (
            COMMUTES,
            f'{COMMUTES} or {{"R", "WD"}} == {{self.name, other.name}}',
        ),
        "write-discards commute": ("not self.writes", 'self.name != "RW"'),
        "readers do not commute": (COMMUTES, f"{COMMUTES} and not self.reads"),
    },
    (IndexSpace, "overlaps"): {
        "overlaps looks at the first dimension": (
            "other.hi, strict=True",
            "other.hi[:1], strict=False",
        ),
        "overlaps misses the last row": ("low >= other_high", "low >= other_high - 1"),
        "overlaps counts neighbours": ("low >= other_high", "low > other_high"),
        "empty spaces overlap": ("or low == high or other_low == other_high", ""),
    },
    (IndexSpace, "covers"): {
        "covers is always true": ("other.is_empty", "True"),
        "covers looks at any dimension": ("all(", "any("),
    },
    (DependenceAnalyzer, "launch"): {
        "a write removes what it overlaps": ("space.covers(used)", "space.overlaps(used)"),
        "a write removes what covers it": ("space.covers(used)", "used.covers(space)"),
        "a reduction removes the readers that it covers": (
            REMOVES,
            "not privilege.reads and space.covers(used)",
        ),
        "a reader removes the readers that it covers": (
            REMOVES,
            "privilege.reads and space.covers(used)",
        ),
        "a launch forgets its own first argument": (
            "user not in live",
            "user not in live or user == id",
        ),
        "all fields are one": ("requirement.key", "requirement.key[0]"),
    },
    (DependenceAnalyzer, "complete"): {
        "a launch is forgotten with the one before it": (
            "discard(id)",
            "difference_update((id, id + 1))",
        ),
        "launches are never forgotten": ("self._live.discard(id)", "pass"),
    },
    (ReadyQueue, "submitted"): {
        "a launch waits for one dependence only": ("_dependents]", "_dependents][:1]"),
        "a launch runs as soon as it is submitted": ("not unfinished", "unfinished is not None"),
    },
    (launch, "bind"): {
        "only the first field of an argument counts": ("in value.fields", "in value.fields[:1]"),
        "only the first argument counts": (
            "for _, requirement in requirements",
            "for _, requirement in requirements[:1]",
        ),
    },
}

ORDER, EFFECTS = "order", "effects"
CHECKS: dict[str, Callable[[Program, Pick], None]] = {
    ORDER: partial(check_order, completions=True),
    EFFECTS: check_effects,
}
FOUND_BY_ONE = {
    # They make launches wait in vain, which changes no effect.
    "all fields are one": ORDER,
    "launches are never forgotten": ORDER,
    # Their dependences are right.
    "a launch waits for one dependence only": EFFECTS,
    "a launch runs as soon as it is submitted": EFFECTS,
}


def plant(owner: Any, function: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = getattr(owner, function)
    source = "from __future__ import annotations\n" + textwrap.dedent(inspect.getsource(original))
    assert old in source, f"{function} has changed: no {old!r} in it; plant the bug anew"
    planted: dict[str, Any] = {}
    exec(source.replace(old, new), vars(sys.modules[original.__module__]), planted)
    monkeypatch.setattr(owner, function, planted[function])


def found_by() -> set[str]:
    """The checks that fail for one of some programs, which are always the same."""
    found: set[str] = set()
    generator = random.Random(1)
    for _ in range(NUM_PROGRAMS):
        program, seed = random_program(generator), generator.random()
        for name, check in CHECKS.items():
            try:
                if name not in found:
                    check(program, random.Random(seed).randint)
            except CounterExample:
                found.add(name)
        if found == set(CHECKS):
            break
    return found


def test_without_a_bug_nothing_is_found() -> None:
    assert found_by() == set()


@pytest.mark.parametrize(
    ("owner", "function", "bug"),
    [pytest.param(*where, bug, id=bug) for where, edits in BUGS.items() for bug in edits],
)
def test_finds(owner: Any, function: str, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(owner, function, *BUGS[owner, function][bug], monkeypatch)
    assert found_by() == ({FOUND_BY_ONE[bug]} if bug in FOUND_BY_ONE else set(CHECKS))
