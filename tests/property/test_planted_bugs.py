"""The checks are worth something: each bug planted here is found, and soon.

A planted bug is an edit of one function's text. When that function is rewritten the edit no longer
fits, and the test says so; plant the bug anew.
"""

from __future__ import annotations

import inspect
import random
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from meaning import meaning_of
from ordering import check_order
from placement_laws import check_placement
from plans import Area, Gift, LaunchPlan, Program, RegionPlan, TaskPlan
from random_mapper import RandomMapper
from running import check
from strategies import random_program

from specinfer.runtime import (
    binding,
    call,
    distributor,
    lowering,
    machine,
    mapper,
    placement,
    trace,
)
from specinfer.runtime.dependence import DependenceAnalyzer, _Uses
from specinfer.runtime.executor.shuffled import ShuffledExecutor
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.instances import Instances
from specinfer.runtime.machine import sim
from specinfer.runtime.partition import Partition
from specinfer.runtime.privilege import Privilege
from specinfer.runtime.ready import ReadyQueue
from specinfer.runtime.recorder import Recorder
from specinfer.runtime.stream import Stream
from specinfer.runtime.tracing import Tracing

NUM_SEEDS = 1000


def order(seed: int) -> None:
    check_order(random_program(seed), random.Random(seed).randint, completions=seed % 2 == 0)


def one_rank(seed: int) -> None:
    program = random_program(seed)
    check(program, meaning_of(program), ShuffledExecutor(seed), traced=seed % 3 > 0)


def cells(seed: int) -> None:
    check_placement(random.Random(seed).randint)


def ranks(seed: int) -> None:
    program, num_ranks = random_program(seed), 2 + seed % 3
    check(
        program,
        meaning_of(program),
        ShuffledExecutor(seed),
        sim.SimulatedRanks(num_ranks),
        RandomMapper(num_ranks, seed // 3) if seed % 4 else None,
        traced=seed % 3 > 0,
    )


def predicates(seed: int) -> None:
    """The same launch, in the same state, must run at first and then must not."""
    row, flag = (Area(region, ((0,), (4,)), ("a",)) for region in range(2))
    told = TaskPlan("mix", ("WD",), is_pure=False, returns=True)
    moved = TaskPlan("mix", ("RW",), is_pure=False, returns=False)
    kept = LaunchPlan(1, moved, (row,))
    filled = LaunchPlan(2, replace(told, returns=False), (row,))
    steps = (
        LaunchPlan(9, told, (flag,)),  # 9 * 7 is a multiple of 3: its value is 0
        kept,
        filled,
        replace(kept, number=3),
        replace(filled, number=4, predicate=Gift(9)),
    )
    region = RegionPlan((4,), ("a",), (True,))
    program = Program((region, region), (), (), steps)
    check(
        program,
        meaning_of(program),
        ShuffledExecutor(seed),
        sim.SimulatedRanks(2),
        RandomMapper(2, seed),
    )


def folds(seed: int) -> None:
    """Columns are folded into what is written whole, however rows could be divided."""
    x = RegionPlan((4, 3), ("a",), (True,))
    modes = ("R", ("WD", "RW", "+")[seed % 3])
    fold = LaunchPlan(
        1,
        TaskPlan("fold", modes, is_pure=True, returns=False),
        (Area(0, ((0, 0), (4, 3)), ("a",)), Area(1, ((0,), (3,)), ("a",))),
    )
    program = Program((x, RegionPlan((3,), ("a",), (True,))), (), (), (fold,))
    check(
        program,
        meaning_of(program),
        ShuffledExecutor(seed),
        sim.SimulatedRanks(2),
        RandomMapper(2, seed),
    )


Check = Callable[[int], None]
COMMUTES = "not self.writes and (self is other or self == other)"
BUGS: dict[tuple[Any, str], dict[str, tuple[Check, str, str]]] = {
    # What conflicts
    (Privilege, "commutes_with"): {
        "reductions of two operators commute": (order, "self == other", "self.name == other.name"),
        "readers commute with reductions": (order, "self == other", "not other.writes"),
        "write-discards commute": (order, "not self.writes", 'self.name != "RW"'),
        "readers do not commute": (order, COMMUTES, f"{COMMUTES} and not self.reads"),
    },
    (IndexSpace, "overlaps"): {
        "overlaps misses the last row": (order, "low >= other_high", "low >= other_high - 1"),
        "overlaps counts neighbours": (order, "low >= other_high", "low > other_high"),
        "empty spaces overlap": (order, "or low == high or other_low == other_high", ""),
    },
    (IndexSpace, "covers"): {
        "covers is always true": (order, "other.is_empty", "True"),
        "covers looks at any dimension": (order, "all(", "any("),
    },
    (IndexSpace, "minus"): {
        "minus forgets what lies behind": (cells, "if high < hi[dim]:", "if False:"),
        "minus keeps what it takes": (cells, "lo[dim] = low", "pass"),
    },
    (binding, "_check_points"): {
        "points are not compared": (one_rank, "point is not other_point", "False"),
        "reductions of points conflict": (one_rank, "one.conflicts_with(other)", "True"),
    },
    (binding, "_point"): {
        "aliased partitions count as disjoint": (
            order,
            "not partition.is_disjoint",
            "False",
        ),
        "arguments of one launch are not compared": (
            one_rank,
            "one.conflicts_with(other)",
            "False",
        ),
    },
    (Partition, "__init__"): {
        "partitions are taken for disjoint": (
            order,
            "self.is_disjoint = meeting is None",
            "self.is_disjoint = True",
        ),
    },
    # What waits
    (DependenceAnalyzer, "launch"): {
        "a write removes what it overlaps": (
            order,
            "space.covers(used)",
            "space.overlaps(used)",
        ),
        "a reader removes what it covers": (order, "if not (writes and (", "if not (("),
        "a launch forgets its own first argument": (
            order,
            "user not in live",
            "user not in live or user == id",
        ),
        "all fields are one": (order, "requirement.key", "requirement.key[0]"),
    },
    (_Uses, "near"): {
        "a part is not compared with whole regions": (
            order,
            "[self.general, own] if self.general else [own]",
            "[own]",
        ),
        "whole regions are not compared with parts": (
            order,
            "self.general += (use for uses in self.by_part.values() for use in uses)",
            "pass",
        ),
        "all partitions are one": (order, "partition is not self.partition", "False"),
    },
    (DependenceAnalyzer, "complete"): {
        "a launch is forgotten with the one before it": (
            order,
            "discard(id)",
            "difference_update((id, id + 1))",
        ),
        "launches are never forgotten": (order, "self._live.discard(id)", "pass"),
    },
    (ReadyQueue, "submitted"): {
        "a launch waits for one dependence only": (one_rank, "_dependents]", "_dependents][:1]"),
        "a launch runs at once": (one_rank, "not unfinished", "unfinished is not None"),
    },
    (call.ResolvedCall, "__init__"): {
        "nobody waits for values": (
            order,
            "self.requirements += tuple(Requirement(f.key, ONE, R) for f in given)",
            "pass",
        ),
        "nobody waits for predicates": (
            order,
            "given.append(predicate)",
            "pass",
        ),
    },
    # Where data are, and what moves
    (placement, "read"): {
        "a copy goes to the first who wants it only": (
            cells,
            "Piece(part, piece.valid | bit)",
            "Piece(part, piece.valid | 2 * bit - 1)",
        ),
        "copies come from who has just got them": (
            cells,
            "_first(holders)",
            "_first(piece.valid)",
        ),
        "pending reductions are read as they are": (cells, "if here:", "if False:"),
        "what is there moves again": (
            cells,
            "if piece.valid & bit or not",
            "if not",
        ),
    },
    (placement, "write"): {
        "a write leaves the old holders": (
            cells,
            "Piece(space, ranks)",
            "Piece(space, ranks | state[0].valid)",
        ),
    },
    (placement, "write_parts"): {
        "sums keep what was there before": (
            cells,
            "Piece(contribution.space, 0,",
            "Piece(contribution.space, 1,",
        ),
    },
    (placement, "reduce"): {
        "parts do not start from the neutral element": (
            cells,
            "reducing & ~_all(part.groups)",
            "()[:0] and 0 or 0",
        ),
        "parts start anew each time": (cells, "reducing & ~_all(part.groups)", "reducing"),
        "other operators are not carried out first": (cells, "part.op == op and ", ""),
        "reductions in one launch are not joined": (
            cells,
            "groups = groups or _join(contributed)",
            "groups = groups or contributed[-1]",
        ),
        "a reduction makes what was there stale": (cells, "part.valid, op", "0, op"),
    },
    (placement, "_holds_once"): {
        "parts count twice": (cells, "all(ranks", "any(ranks"),
    },
    (placement, "_fold"): {
        "a fold forgets what was there before": (cells, "if piece.valid:", "if False:"),
        "every rank adds what was there before": (
            cells,
            "_first(group & piece.valid)",
            "_first(group)",
        ),
        "all hold the result, whoever was asked": (
            cells,
            "Piece(piece.space, _all(groups))",
            "Piece(piece.space, _all(piece.groups))",
        ),
    },
    (placement, "_blocks"): {
        "blocks that miss points are scattered": (
            cells,
            "sum(part.volume for part in inside) != space.volume",
            "False",
        ),
    },
    (placement, "_union"): {
        "other holders are merged": (
            cells,
            "(one.valid, one.op, one.groups) != (other.valid, other.op, other.groups)",
            "(one.op, one.groups) != (other.op, other.groups)",
        ),
        "other groups are merged": (
            cells,
            "(one.valid, one.op, one.groups) != (other.valid, other.op, other.groups)",
            "(one.valid, one.op) != (other.valid, other.op)",
        ),
    },
    (placement, "_union_space"): {
        "neighbours need not touch": (
            cells,
            "one.hi[d] == other.lo[d]",
            "one.hi[d] <= other.lo[d]",
        ),
        "neighbours may differ in two dimensions": (
            cells,
            "if len(differing) != 1:\n        return None\n    (d,) = differing",
            "if not differing:\n        return None\n    d = differing[0]",
        ),
    },
    # What a launch does to the state
    (lowering, "lower"): {
        "writes are not noticed": (ranks, "state = write(state, ranks, space)", "pass"),
        "only one operator is noticed": (
            ranks,
            "effect.reductions.items()",
            "list(effect.reductions.items())[:1]",
        ),
        "sums are not noticed": (ranks, "state = write_parts(state, SUM, contribution)", "pass"),
    },
    (lowering, "_in_place"): {
        "each argument decides for itself": (ranks, "part.partial.union(reduced)", "{name}"),
        "many reduce in one place": (ranks, "num_parts > 1", "num_parts > 9"),
    },
    (lowering, "_collect"): {
        "a predicate may lose what would be discarded": (
            ranks,
            "(privilege.op or keeps)",
            "privilege.op",
        ),
        "what one rank wants is enough": (
            ranks,
            "for rank in members(part.ranks))",
            "for rank in members(part.ranks)[:1])",
        ),
        "ranks that do the same add up": (
            ranks,
            "else alone",
            "else (part.ranks,)",
        ),
    },
    (lowering, "_divided"): {
        "sums are written as if they were whole": (
            ranks,
            "written if summed else frozenset()",
            "frozenset()",
        ),
        "idle ranks do the work of others": (ranks, "if not by_spaces:", "if False:"),
    },
    (mapper, "written_whole"): {
        "parts write what is not divided": (
            folds,
            "if axis in task.division.sums:",
            "if True:",
        ),
    },
    (lowering, "_placed"): {
        "sums are divided that may not be made": (ranks, "if groups and keeps:", "if False:"),
    },
    (distributor.Distributor, "share"): {
        "states are not taken over": (ranks, "states[key] = state", "pass"),
        "a launch is looked up whatever the state": (ranks, "*map(id, before)", "None"),
        "a launch is looked up whatever its predicate": (
            predicates,
            "(binding, keeps,",
            "(binding,",
        ),
    },
    (machine, "transfer_requirements"): {
        "a copy does not wait for its source": (
            ranks,
            "found.append(Requirement(physical_key(key, move.source), move.space, R))",
            "pass",
        ),
        "nobody waits for a fold": (
            ranks,
            "found.append(Requirement(physical_key(key, rank), part, WD))",
            "pass",
        ),
        "nobody waits for a reset": (
            ranks,
            "found.append(Requirement(physical_key(key, rank, is_partial=True), space, WD))",
            "pass",
        ),
    },
    (sim._Transfer, "_fold"): {
        "a fold takes the first part only": (ranks, "for part in parts[1:]", "for part in ()"),
        "a fold leaves what was there before": (ranks, "if base is not None:", "if False:"),
        "blocks of a fold are the first points": (
            cells,
            "slice(low - start, high - start)",
            "slice(0, high - low)",
        ),
    },
    (Instances, "reset"): {
        "parts start from zero": (
            ranks,
            "reduction(op).identity(values(part).dtype)",
            "0",
        ),
    },
    # What is replayed
    (trace, "make_template"): {
        "a replay does not wait for the one before it": (
            one_rank,
            "sorted(id - count for id in waits)",
            "sorted(id - count for id in waits if id >= count)",
        ),
        "the operations of a replay do not wait": (
            one_rank,
            "sorted(id - count for id in waits)",
            "sorted(id - count for id in waits if id < count)",
        ),
    },
    (trace.Trace, "__call__"): {
        "preconditions are not checked": (
            ranks,
            "None if is_recurrent else self._host.states_are(recording.before)",
            "None",
        ),
        "every trace may be replayed behind itself": (
            ranks,
            "template is last and recording.is_idempotent",
            "template is last",
        ),
        "parameters stay what they were": (
            one_rank,
            "self._parameters[name].value = value",
            "self._parameters[name].value = self._parameters[name].value or value",
        ),
    },
    (Tracing, "replay"): {
        "postconditions are not installed": (
            ranks,
            "self._distributor.install(template.recording.after)",
            "pass",
        ),
    },
    (Stream, "replay"): {
        "values are taken away too early": (
            one_rank,
            "if executor.is_in_order:  # else",
            "if True:  # else",
        ),
        "a replay does not wait for what is before it": (
            one_rank,
            "own or [self._start]",
            "own",
        ),
    },
    (Stream, "leave_replay"): {
        "nobody waits for a replay": (one_rank, "template, replayed)", "template, ())"),
        "what comes behind waits for the last operation only": (
            one_rank,
            "template, replayed)",
            "template, replayed[-1:])",
        ),
    },
    (Stream, "_issue_border"): {
        "what a replay does is not told": (
            one_rank,
            "self._analyzer.launch(id, template.uses)",
            "self._analyzer.launch(id, ())",
        ),
    },
    (trace, "_uses"): {
        "what a replay writes counts as read": (
            one_rank,
            "RW if key in written else R",
            "R",
        ),
        "of what a replay uses only the first points count": (
            one_rank,
            "space.hull(need.space)",
            "space",
        ),
    },
    (Recorder, "launch"): {
        "a trace forgets where its data lay": (
            ranks,
            "self._before.setdefault(key, states[key])",
            "self._before.setdefault(key, states[key]) if len(self._before) < 1 else None",
        ),
    },
}


def plant(owner: Any, function: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edit a function, wherever in the runtime it was imported to."""
    original = inspect.getattr_static(owner, function)
    source = "from __future__ import annotations\n" + textwrap.dedent(inspect.getsource(original))
    assert old in source, f"{function} has changed: no {old!r} in it; plant the bug anew"
    planted: dict[str, Any] = {}
    exec(source.replace(old, new), vars(sys.modules[original.__module__]), planted)
    monkeypatch.setattr(owner, function, planted[function])
    for name, module in list(sys.modules.items()):
        if name.startswith("specinfer.runtime") and vars(module).get(function) is original:
            monkeypatch.setattr(module, function, planted[function])


def finds(check: Check) -> bool:
    """Whether a check fails for one of some seeds, which are always the same."""
    for seed in range(NUM_SEEDS):
        try:
            check(seed)
        except Exception:
            return True
    return False


@pytest.mark.parametrize("check", [order, one_rank, cells, ranks, predicates, folds])
def test_without_a_bug_nothing_is_found(check: Check) -> None:
    for seed in range(NUM_SEEDS // 4):
        check(seed)


@pytest.mark.parametrize(
    ("owner", "function", "bug"),
    [pytest.param(*where, bug, id=bug) for where, edits in BUGS.items() for bug in edits],
)
def test_finds(owner: Any, function: str, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check, old, new = BUGS[owner, function][bug]
    plant(owner, function, old, new, monkeypatch)
    assert finds(check)
