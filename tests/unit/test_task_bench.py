"""Task Bench: its patterns against the formulas said again, and the metric on made-up curves."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.task_bench.{name}")


def needs(load: Any, pattern: str, width: int, step: int, point: int, steps: int = 20) -> list[int]:
    found: list[int] = load("patterns").dependences(pattern, width, steps, step, point)
    return found


@pytest.mark.parametrize(
    ("pattern", "step", "point", "expected"),
    [
        ("trivial", 3, 2, []),
        ("no_comm", 3, 2, [2]),
        ("stencil_1d", 3, 0, [0, 1]),
        ("stencil_1d", 3, 7, [6, 7]),
        ("periodic", 3, 0, [0, 1, 7]),
        ("periodic", 3, 7, [0, 6, 7]),
        ("sweep", 3, 2, [1, 2]),
        ("sweep", 3, 3, [2]),  # it was not there in the step before
        ("tree", 2, 3, [1]),
        ("tree", 9, 3, [1]),
        ("fft", 1, 5, [4, 5, 6]),  # strides 1, 2, 4 take turns
        ("fft", 2, 5, [3, 5, 7]),
        ("fft", 3, 5, [1, 5]),
        ("all_to_all", 3, 2, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("nearest", 3, 2, [1, 2, 3]),
        ("spread", 8, 1, [1, 3, 6]),
        ("spread", 9, 1, [1, 4, 7]),
    ],
)
def test_dependences(load: Any, pattern: str, step: int, point: int, expected: list[int]) -> None:
    assert needs(load, pattern, 8, step, point) == expected


def said_again(pattern: str, width: int, step: int, at: int, point: int) -> bool:
    """Whether ``point`` needs ``at`` of the step before, of all points that a full step has."""
    distance = abs(point - at)
    match pattern:
        case "trivial":
            return False
        case "no_comm":
            return distance == 0
        case "stencil_1d" | "nearest":
            return distance <= 1
        case "periodic":
            return distance <= 1 or distance == width - 1
        case "sweep":
            return point - at in (0, 1)
        case "tree":
            return point in (2 * at, 2 * at + 1)
        case "fft":
            strides = [2**k for k in range(width) if 2**k < width] or [1]
            return distance in (0, strides[(step - 1) % len(strides)])
        case "all_to_all":
            return True
        case "spread":
            shifts = [0, *(k * width // 3 + step % width for k in (1, 2))]
            return (at - point) % width in [shift % width for shift in shifts]
    raise AssertionError(pattern)


def test_dependences_are_those_of_the_formulas(load: Any) -> None:
    patterns = load("patterns")
    steps = 13
    for pattern in set(patterns.PATTERNS) - {"random_nearest"}:
        for width in range(1, 10):
            for step in range(1, steps):
                before = patterns.active(pattern, width, steps, step - 1)
                for point in patterns.active(pattern, width, steps, step):
                    found = needs(load, pattern, width, step, point, steps)
                    expected = [at for at in before if said_again(pattern, width, step, at, point)]
                    assert found == expected, (pattern, width, step, point)


def test_every_dependence_is_a_point_of_the_step_before(load: Any) -> None:
    patterns = load("patterns")
    for pattern in patterns.PATTERNS:
        for width in (1, 2, 4, 5):
            for step in range(20):
                for point in patterns.active(pattern, width, 20, step):
                    before = patterns.active(pattern, width, 20, step - 1) if step else ()
                    assert set(needs(load, pattern, width, step, point)) <= set(before)


def test_patterns_repeat_after_their_period(load: Any) -> None:
    patterns = load("patterns")
    for pattern in patterns.PATTERNS:
        for width in (2, 4, 5):
            period = patterns.period(pattern, width)
            for point in range(width):
                one = needs(load, pattern, width, 40, point, 200)
                assert one == needs(load, pattern, width, 40 + period, point, 200)


def test_random_nearest_takes_itself_and_some_of_its_neighbours(load: Any) -> None:
    found = [needs(load, "random_nearest", 8, step, 4) for step in range(1, 5)]
    assert all(4 in each and set(each) <= {3, 4, 5} for each in found)
    assert len(set(map(tuple, found))) > 1


def test_tasks_of_a_growing_graph(load: Any) -> None:
    patterns = load("patterns")
    assert [len(patterns.active("tree", 4, 6, step)) for step in range(6)] == [1, 2, 4, 4, 4, 4]
    assert [list(patterns.active("sweep", 3, 5, step)) for step in range(5)] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [1, 2],
        [2],
    ]


def test_metg_is_where_half_of_the_time_is_work(load: Any) -> None:
    metg = load("metg")
    curve = [metg.Sample(work + 10e-6, work / (work + 10e-6)) for work in (2e-6, 9e-6, 11e-6)]
    assert metg.metg(curve) == pytest.approx(20e-6, rel=0.01)
    assert metg.metg(curve[:2]) is None
    assert metg.metg(curve[2:]) == curve[2].granularity


def test_the_metg_of_noisy_curves_is_their_median(load: Any) -> None:
    metg, main = load("metg"), load("__main__")

    def curve(overhead: float) -> Any:
        works = (0.5 * overhead, 2 * overhead)
        return [metg.Sample(work + overhead, work / (work + overhead)) for work in works]

    never = curve(5e-6)[:1]
    of_three = main.summary([curve(5e-6), curve(9e-6), curve(6e-6)])
    assert of_three["metg"] == metg.metg(curve(6e-6))
    assert of_three["spread"] > 1e-6
    assert main.summary([curve(5e-6), never, curve(6e-6)])["metg"] == metg.metg(curve(6e-6))
    assert main.summary([never, never, curve(6e-6)]) | {"curves": []} == {
        "metg": None,
        "spread": None,
        "curves": [],
    }


def test_measures_around_the_overhead_of_a_system(load: Any) -> None:
    metg = load("metg")
    tasks, cores, per_iteration, overhead = 100, 2, 1e-9, 5e-6

    def run(iterations: int) -> float:
        return tasks / cores * (overhead + iterations * per_iteration)

    samples = metg.measure(run, tasks, cores, per_iteration)
    assert metg.metg(samples) == pytest.approx(2 * overhead, rel=0.02)
    slow = metg.measure(lambda iterations: 3 * run(iterations), tasks, cores, per_iteration)
    assert metg.metg(slow) is None  # not by larger tasks either


def test_a_point_refuses_wrong_inputs(load: Any) -> None:
    import numpy as np

    kernel = load("kernel")
    row = kernel.signed(0, 3, 1, [], [])
    assert row.tolist() == [0, 3]
    kernel.check(row[None], 0, 3)
    with pytest.raises(AssertionError, match="expected those of step 1"):
        kernel.check(np.array([[0, 3]]), 1, 3)
