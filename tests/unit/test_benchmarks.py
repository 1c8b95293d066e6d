"""The arithmetic of the benchmarks: replay, the tie rule, and result files."""

from __future__ import annotations

import importlib
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from specinfer.runtime.profile.record import Span

ROOT = Path(__file__).parents[2]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    # The folder of the repository is not importable where only the package is installed.
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize(
    ("ranks", "widths", "steps"),
    [
        ([0, 0, 0, 0, 0], (1, 1), [3, 1]),  # two levels and the LLM's own, then the end
        ([7, 0, 0, 0, 0], (1, 1), [3, 1]),  # the first token is the prefill's
        ([0, 1, 0, 1, 0, 0], (1, 1), [1, 2, 2]),  # refused at once, then after one
        ([0, 1, 0, 1, 0, 0], (2, 2), [3, 2]),  # wide enough
        ([0, 2, 0, 1, 0, 0], (2, 1), [1, 2, 2]),
        ([0], (1, 1, 1), []),
    ],
)
def test_replay(load: Any, ranks: list[int], widths: tuple[int, ...], steps: list[int]) -> None:
    replayed = load("replay").replay(ranks, widths)
    assert replayed == steps
    assert sum(replayed) == len(ranks) - 1


def test_replay_is_pooled_over_requests(load: Any) -> None:
    replay = load("replay")
    # 3 and 1 tokens in the first request, 1 in the second: 5 tokens in 3 steps.
    assert replay.tokens_per_step([[0] * 5, [0, 3]], (1, 1)) == pytest.approx(5 / 3)


def test_committed_ranks_give_the_committed_figures(load: Any) -> None:
    acceptance, replay = load("acceptance"), load("replay")
    ranks, _ = acceptance.read_ranks(acceptance.RANKS)
    rows = json.loads((ROOT / "benchmarks/results/acceptance.json").read_text())["rows"]
    stored = {row["name"]: row["value"] for row in rows}
    for name, requests in ranks.items():
        for widths in replay.EXPANSIONS:
            replayed = replay.tokens_per_step(requests.values(), widths)
            assert replayed == pytest.approx(stored[f"{name}/{replay.label(widths)}"])


def test_equal_texts_have_no_difference(load: Any) -> None:
    assert load("exactness").compare([1, 2], [1, 2], [1, 2], [1.0, 1.0]) is None


@pytest.mark.parametrize(
    ("left", "right", "position", "is_tie"),
    [
        ([5, 6, 7], [5, 6, 8], 2, True),  # the reference itself wavers there
        ([5, 9, 7], [5, 6, 7], 1, False),  # it does not waver there
        ([5, 6], [5, 6, 7], 2, True),  # one text ended there
        ([4, 6, 7], [4, 6, 8], 2, False),  # both had left the reference before: no gap is known
        ([5, 6, 7, 1], [5, 6, 7, 2], 3, False),  # behind the reference's end
    ],
)
def test_tie_rule(
    load: Any, left: list[int], right: list[int], position: int, is_tie: bool
) -> None:
    reference, gaps = [5, 6, 7], [0.5, 1e-3, 0.9e-3]
    difference = load("exactness").compare(left, right, reference, gaps)
    assert (difference.position, difference.is_tie) == (position, is_tie)


def test_cache_goes_on_where_it_stopped(load: Any, tmp_path: Path) -> None:
    cache = load("cache").Cache
    first = cache(tmp_path, "texts")
    first["a"] = {"output": [1, 2]}
    second = cache(tmp_path, "texts")
    assert "a" in second
    assert "b" not in second
    assert second["a"] == {"output": [1, 2]}


def test_result_file(load: Any, tmp_path: Path) -> None:
    report = load("report")
    path = report.write("speed", [report.Row(name="step", value=1.5, unit="ms")], tmp_path)
    result = json.loads(path.read_text())
    assert set(result) == {"device", "date", "commit", "rows"}
    assert result["rows"] == [
        {"name": "step", "value": 1.5, "unit": "ms", "spread": None, "against": {}}
    ]


@pytest.mark.parametrize(
    ("name", "size"), [("humaneval", 164), ("mtbench", 80), ("piqa", 100), ("repetitive", 12)]
)
def test_prompt_sets(load: Any, name: str, size: int) -> None:
    assert len(load("prompts").prompt_set(name)) == size


def test_moments_in_both(load: Any) -> None:
    both = load("iterations").both
    rng = random.Random(4)
    for _ in range(200):
        sides = [
            [(start, start + rng.randrange(6)) for start in rng.choices(range(30), k=5)]
            for _ in range(2)
        ]
        moments = [{m for start, stop in side for m in range(start, stop)} for side in sides]
        found = both(*sides)
        assert {m for start, stop in found for m in range(start, stop)} == moments[0] & moments[1]
        assert all(a[1] < b[0] for a, b in pairwise(found))


def test_iterations_of_a_profile(load: Any) -> None:
    told = load("iterations")
    spans: list[Span] = []

    def ran(start: int, stop: int, *names: str, row: str = "worker 0") -> None:
        for name in names:
            spans.append(Span(0, row, name, start, stop, id=len(spans)))

    for at in (0, 100):
        ran(at - 10, at - 9, "start")  # of a replay, long before its turn
        ran(at, at + 2, "begin")
        ran(at + 2, at + 10, "load_batch", "tree_attention", "propose")
        ran(at + 6, at + 18, "load_batch", *["tree_attention"] * 2, "propose", row="worker 1")
        ran(at + 18, at + 19, "merge")
        ran(at + 20, at + 60, "load_batch", *["tree_attention"] * 3, "accept")
        ran(at + 60, at + 65, "commit_kv")
    spans.append(Span(0, "worker 1", "of somebody else", 70, 80))
    first, second = told.iterations(reversed(spans), {1: "one", 2: "two", 3: "LLM"})

    assert (first.start, first.stop, second.start) == (0, 65, 100)
    assert (first.times("one"), first.times("two")) == ([(2, 10)], [(6, 18)])
    assert first.times("LLM") == [(20, 60)]
    assert [s.name for s in first.tasks[told.SCHEDULING]] == ["begin", "merge", "commit_kv"]
    assert told.overlap(first, "one", "two") == 4 / 16
    assert told.overlap(first, "nobody", "no one") is None
    assert told.pause(first, second, spans) == 35 - 10 - 1  # somebody else, the start of a replay
    assert told.pause(second, first, spans) == 0
    with pytest.raises(ValueError, match="a step of 3 layers"):
        told.iterations(spans, {1: "one", 2: "two"})
