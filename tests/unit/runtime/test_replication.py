"""Ranks that issue the same have the same digest, and what differs first is found and named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import pytest

from specinfer.runtime import replication
from specinfer.runtime.aftermath import Spot, spread
from specinfer.runtime.binding import bind_index, bind_single
from specinfer.runtime.dependence import Requirement
from specinfer.runtime.divergence import first_difference
from specinfer.runtime.future import Future, Parameter
from specinfer.runtime.index_space import ONE
from specinfer.runtime.partition import Projection, equal, points
from specinfer.runtime.poison import PoisonedData
from specinfer.runtime.privilege import RW, WD, R, Reduce
from specinfer.runtime.region import Region
from specinfer.runtime.replication import RECENT, History
from specinfer.runtime.task import Task, task
from specinfer.runtime.wording import text_of

LINE = Region(0, "line", (8,), {"value": "int64"})
OTHER = Region(1, "other", (8,), {"value": "int64"})


@dataclass
class Settings:
    size: int
    name: str = "small"


class Colour(Enum):
    RED = 1


@task(x=RW)
def scale(x: Any, factor: Any) -> None: ...


@task(x=R, y=WD)
def copy(x: Any, y: Any) -> None: ...


@task(x=R, total=Reduce("+"))
def add_up(x: Any, total: Any) -> None: ...


@task(x=WD)
def fill(x: Any) -> None: ...


def issue(history: History, task: Task, **arguments: Any) -> None:
    launch = sum(entry[1].startswith("launch") for entry in history.told())
    binding = bind_single(task, arguments)
    history.launch(history.number, launch, binding, arguments)
    history.placed(None, b"")


def scaled(factor: Any, region: Region = LINE) -> History:
    history = History()
    issue(history, fill, x=OTHER)
    issue(history, scale, x=region, factor=factor)
    return history


def difference(*histories: History) -> str | None:
    return first_difference({rank: history.told() for rank, history in enumerate(histories)})


# Texts


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (2, 3),
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ("a", "b"),
        ("a\0b", "a"),
        ((1, 2), (1, 3)),
        ([1, [2]], [1, [3]]),
        ("x" * 500, "x" * 499 + "y"),
        (Settings(1), Settings(2)),
        (Settings(1), Settings(1, "large")),
        ({"k": Settings(1)}, {"k": Settings(2)}),
        ({1, 2}, {1, 3}),
        (np.arange(3), np.arange(1, 4)),
        (np.arange(300), np.arange(1, 301)),
        (np.arange(3), np.arange(3.0)),
        (np.zeros((2, 50)), np.zeros((50, 2))),
        (np.int64(3), np.int64(4)),
        (LINE.rows(0, 2), LINE.rows(0, 3)),
        (None, 0),
    ],
)
def test_other_values_have_other_texts(one: Any, other: Any) -> None:
    assert text_of(one) != text_of(other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Settings(1),
        lambda: np.arange(300).reshape(30, 10),
        lambda: {"b", "a", "c"},
        lambda: object(),
        lambda: np.random.default_rng(1),
        lambda: Colour.RED,
        lambda: Parameter("k"),
        lambda: [{"k": (1, None, b"x")}],
    ],
)
def test_equal_values_have_equal_texts(make: Callable[[], Any]) -> None:
    assert text_of(make()) == text_of(make())


def test_texts_hold_no_address() -> None:
    assert text_of(object()) == "<object>"
    assert "0x" not in text_of(np.random.default_rng(1))


def test_an_array_that_is_not_contiguous_is_told_by_its_values() -> None:
    square = np.arange(400).reshape(20, 20)
    assert text_of(square.T) == text_of(np.ascontiguousarray(square.T))
    assert text_of(square.T) != text_of(square)


def test_a_tensor_is_told_by_its_bytes() -> None:
    torch = pytest.importorskip("torch")
    for kind in (torch.float32, torch.bfloat16):
        ones, twos = torch.ones(50, dtype=kind), torch.full((50,), 2, dtype=kind)
        assert text_of(ones) == text_of(ones.clone().requires_grad_()) != text_of(twos)


def test_the_digest_is_the_same_in_every_process() -> None:
    script = (
        "from specinfer.runtime.replication import History\n"
        "history = History()\n"
        "history.say(0, 'trace step', {'bucket': ('a', 1), 'names': {'x', 'y', 'z'}})\n"
        "print(history.digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


# Digests and what differs


def test_the_same_launches_give_the_same_digest_and_no_difference() -> None:
    assert scaled(2).digest == scaled(2).digest
    assert difference(scaled(2), scaled(2)) is None


def test_the_argument_that_differs_is_named_with_both_values() -> None:
    assert scaled(2).digest != scaled(3).digest
    assert difference(scaled(2), scaled(3), scaled(2)) == (
        "launch 1, scale(x=RW line, factor=...): factor is 2 on ranks 0, 2 and 3 on rank 1"
    )


def test_the_region_that_differs_is_named() -> None:
    assert scaled(2).digest != scaled(2, OTHER).digest
    assert difference(scaled(2), scaled(2, OTHER)) == (
        "launch 1, scale(x=..., factor=2): x is RW line on rank 0 and RW other on rank 1"
    )


def test_regions_of_the_same_name_are_told_apart() -> None:
    twin = Region(5, "line", (8,), {"value": "int64"})
    assert scaled(2).digest != scaled(2, twin).digest
    found = difference(scaled(2), scaled(2, twin))
    assert found is not None
    assert "region 0 of shape (8,)" in found
    assert "region 5 of shape (8,)" in found


def test_partitions_of_the_same_name_are_told_apart() -> None:
    histories = []
    for count in (4, 8):
        history = History()
        arguments = {"x": equal(LINE, count), "factor": 1}
        history.launch(0, 0, bind_index(scale, points(4), arguments), arguments)
        histories.append(history)
    assert histories[0].digest != histories[1].digest
    found = difference(*histories)
    assert found is not None
    assert found.startswith("launch 0, scale(x=..., factor=1): x is")


def test_projections_that_are_values_are_told_apart_by_what_they_give() -> None:
    def projected(colour: Callable[[int], int]) -> History:
        history = History()
        arguments = {"x": equal(LINE, 4), "factor": Projection("p", colour)}
        history.launch(0, 0, bind_index(scale, points(4), arguments), arguments)
        return history

    one, same, other = (projected(f) for f in (lambda n: n, lambda n: n + 0, lambda n: 3 - n))
    assert one.digest == same.digest != other.digest
    assert difference(one, other) == (
        "launch 0, scale(x=RW line.parts[ID], factor=...): factor is p: (0, 1, 2, 3) on rank 0 and "
        "p: (3, 2, 1, 0) on rank 1"
    )


def test_what_is_remembered_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "REMEMBERED", 3)
    history, digests = History(), set()
    for size in range(1, 9):
        region = Region(0, "r", (size,), {"value": "int64"})
        arguments = {"x": equal(region, 1), "factor": Projection("p", lambda n: n)}
        history.launch(0, 0, bind_index(scale, points(1), arguments), arguments)
        digests.add(history.digest)
    assert len(digests) == 8
    assert len(history._bindings) == len(history._projected) == 3


def test_another_task_is_named() -> None:
    one, other = scaled(1), History()
    issue(other, fill, x=OTHER)
    issue(other, fill, x=LINE)
    assert one.digest != other.digest
    assert difference(one, other) == (
        "launch 1, scale(x=RW line, factor=1) on rank 0 and launch 1, fill(x=WD line) on rank 1"
    )


def test_a_rank_that_issues_more_is_named() -> None:
    one, more = scaled(1), scaled(1)
    issue(more, fill, x=LINE)
    assert one.digest != more.digest
    assert difference(one, more) == (
        "rank 0 issued nothing more, rank 1 went on with launch 2, fill(x=WD line)"
    )


def test_a_replay_is_not_the_run_of_a_body() -> None:
    one, other = scaled(1), scaled(1)
    one.replay(2, ())
    issue(other, fill, x=LINE)
    assert one.digest != other.digest
    assert difference(one, other) == (
        "replay of 0 launches on rank 0 and launch 2, fill(x=WD line) on rank 1"
    )


def test_a_predicate_counts() -> None:
    histories = []
    for launch in (3, 4):
        history = History()
        binding = bind_single(fill, {"x": LINE})
        future = Future(None, launch, 1)  # type: ignore[arg-type]
        history.launch(0, 9, binding, {"x": LINE}, future, 0)
        histories.append(history)
    assert histories[0].digest != histories[1].digest
    assert difference(*histories) == (
        "launch 9, fill(x=WD line, predicate=..., otherwise=0): predicate is future of launch 3 on "
        "rank 0 and future of launch 4 on rank 1"
    )


def test_where_a_launch_runs_counts() -> None:
    one, other = History(), History()
    for history, answer in ((one, b"12345678"), (other, b"87654321")):
        history.launch(0, 0, bind_single(fill, {"x": LINE}), {"x": LINE})
        history.placed(None, answer)
    assert one.digest != other.digest


def test_a_history_keeps_what_is_not_settled_and_a_few_more() -> None:
    history = History()
    for _ in range(RECENT * 3):
        issue(history, fill, x=LINE)
    assert len(history.unsettled) == len(history.told()) == RECENT * 3
    history.settle()
    assert len(history.unsettled) == 0
    assert [entry[0] for entry in history.told()] == list(range(RECENT * 2, RECENT * 3))
    issue(history, fill, x=LINE)
    assert len(history.unsettled) == 1
    assert history.told(since=RECENT * 3)[0][0] == RECENT * 3
    assert history.last == f"at launch {RECENT}, fill"


# Poison over launches


def poisoned_fields(*launched: tuple[Task, dict[str, Any]], raised: int) -> set[str]:
    """The regions that are poisoned after one of the launches raised."""
    history = History()
    for launch, (what, arguments) in enumerate(launched):
        history.launch(launch, launch, bind_single(what, arguments), arguments)
    poisoned = PoisonedData()
    spread(poisoned, history.unsettled, 0, {(raised, 0, None): "it raised"})
    names = {LINE.id: "line", OTHER.id: "other"}
    return {
        names[key[0]] if key[0] in names else f"future {key[1]}"  # type: ignore[index]
        for key in poisoned.spaces
    }


def test_poison_spreads_to_what_reads_it_and_ends_where_it_is_overwritten() -> None:
    chain = ((fill, {"x": LINE}), (copy, {"x": LINE, "y": OTHER}))
    assert poisoned_fields(*chain, raised=0) == {"line", "future 0", "other", "future 1"}
    assert poisoned_fields(*chain, raised=1) == {"other", "future 1"}
    healed = poisoned_fields(*chain, (fill, {"x": OTHER}), (fill, {"x": LINE}), raised=0)
    assert healed == {"future 0", "future 1"}


def test_a_reduction_to_poison_does_not_make_it_whole() -> None:
    assert "other" in poisoned_fields(
        (fill, {"x": OTHER}), (add_up, {"x": LINE, "total": OTHER}), raised=0
    )


def test_poison_spreads_through_futures() -> None:
    future = Future(None, 0, 1)  # type: ignore[arg-type]
    found = poisoned_fields((fill, {"x": LINE}), (scale, {"x": OTHER, "factor": future}), raised=0)
    assert found == {"line", "future 0", "other", "future 1"}


def test_what_raises_on_poison_is_told_by_the_first_cause() -> None:
    history = History()
    for launch, what in enumerate((fill, fill)):
        history.launch(launch, launch, bind_single(what, {"x": LINE}), {"x": LINE})
    history.launch(2, 2, bind_single(copy, {"x": LINE, "y": OTHER}), {"x": LINE, "y": OTHER})
    poisoned = PoisonedData()
    causes: dict[Spot, str] = {(1, 0, None): "the first", (2, 0, None): "the second"}
    spread(poisoned, history.unsettled, 0, causes)
    assert poisoned.cause_in((OTHER.id, "value"), OTHER.space) == "the first"


def test_a_launch_that_might_not_run_makes_nothing_whole() -> None:
    history = History()
    poisoned = PoisonedData()
    result = Requirement(("future", 0, None), ONE, WD)
    poisoned.add([Requirement((LINE.id, "value"), LINE.space, WD), result], "earlier")
    history.launch(
        0,
        0,
        bind_single(fill, {"x": LINE}),
        {"x": LINE},
        Future(None, 7, 1),  # type: ignore[arg-type]
    )
    spread(poisoned, history.unsettled, 0, {})
    assert poisoned.cause_in((LINE.id, "value"), LINE.space) == "earlier"
    assert poisoned.cause_in(result.key, ONE) is None  # that of an earlier replay


def test_poison_spreads_point_by_point_also_in_replays() -> None:
    recorded = History()
    arguments = {"x": equal(LINE, 4), "y": equal(OTHER, 4)}
    launched = recorded.launch(0, 0, bind_index(copy, points(4), arguments), arguments)
    history = History()
    history.replay(100, (launched,))
    poisoned = PoisonedData()
    spread(poisoned, history.unsettled, 0, {(0, 0, 2): "it raised"})
    at = [poisoned.cause_in((OTHER.id, "value"), OTHER.rows(n, n + 1).space) for n in range(8)]
    assert at == [None] * 4 + ["it raised"] * 2 + [None] * 2
