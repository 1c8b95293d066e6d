"""What ``specinfer bench iteration`` times: the parts do what the engine's iterations do."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from specinfer.models.batch import StepShape
from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.bench.blocking import SAID, blocking_calls
from specinfer.scheduler.bench.ceilings import measure_ceilings
from specinfer.scheduler.bench.iteration import Sizes, Writing, measure_iterations, num_tokens
from specinfer.scheduler.bench.lane_parts import DraftPart, IterationPart, StepPart
from specinfer.scheduler.bench.loading import Loaded, Place
from specinfer.scheduler.bench.planted import SHARES, load_planted, prompts
from specinfer.scheduler.bench.shapes import config_of
from specinfer.scheduler.bench.timing import Clock
from specinfer.scheduler.cli.main import BAD_INPUT, main
from specinfer.scheduler.engine import Engine
from specinfer.scheduler.speculators.ssm import SSMSpeculator

EXPANSION = (2, 2, 1)
NODES = 2 + 4 + 4
ITERATIONS = 5


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    """Random models are the same each time: how often they agree is asked."""
    torch.manual_seed(5)


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measure_ceilings.__globals__["BYTES"], "cpu", 1 << 16)
    monkeypatch.setitem(measure_ceilings.__globals__["SIDES"], "cpu", 32)


class World:
    """A planted pair, an engine of it, and the parts of its iterations."""

    def __init__(self, requests: int) -> None:
        place = Place.new("cpu", torch.float32)
        self.runtime = place.runtime
        length = 100 + num_tokens(ITERATIONS, len(EXPANSION)) + 64
        self.llm = load_planted("tiny", place, (1.0,)).decoder(requests, NODES, length)
        drafter = load_planted("tiny", place, SHARES).decoder(requests, NODES, length)
        self.ssm = SSMSpeculator("ssm", drafter, EXPANSION)
        engine = Engine(self.llm, [self.ssm], lookahead=1, lanes=True)
        given = prompts(requests, config_of("tiny")["vocab_size"])
        self.writing = Writing(engine, given, ITERATIONS, len(EXPANSION))
        self.draft = DraftPart(self.ssm, requests)
        self.step = StepPart(self.llm, self.draft)
        self.iteration = IterationPart(self.llm, self.ssm, requests)


@pytest.mark.parametrize("requests", [1, 3])
def test_parts_do_what_the_iterations_of_the_engine_do(requests: int) -> None:
    world, lanes = World(requests), range(requests)
    world.writing.seconds(1)
    before, later = world.writing.texts(ITERATIONS)
    assert world.writing.texts(ITERATIONS) == (before, later)  # again and again
    written = [list(text) for text in before]
    first = None
    with world.iteration.loaded(before):
        for _ in range(ITERATIONS):
            results = world.iteration._loop.issue(requests, 0).read(lanes)
            first = first or results
            for text, result in zip(written, results, strict=True):
                text += result.accepted.tokens
    assert written == later
    assert first is not None
    with world.step.loaded(before):
        for _ in range(3):
            world.step.issue(requests)
        shape = StepShape(requests * (1 + NODES), requests, requests * (1 + NODES))
        logits = world.runtime.read(world.llm.model._logits(shape))
    roots = logits.view(requests, 1 + NODES, -1)[:, 0].argmax(-1).tolist()
    assert roots == [result.accepted.tokens[0] for result in first]
    for _ in range(2):  # nothing moves
        with world.draft.loaded(before):
            for _ in range(3):
                world.draft.issue(requests)
            drawn = world.runtime.read(world.draft.merged.parts(requests)["tokens"]).tolist()
    assert drawn == [result.drafts[0].tokens for result in first]


def test_nothing_is_held_afterwards() -> None:
    world = World(2)
    before, _ = world.writing.texts(1)
    for part in (world.draft, world.step, world.iteration):
        with part.loaded(before):
            part.issue(2)
    assert world.llm.slots.requests == world.ssm.slots.requests == []


def test_iterations_of_the_host_are_refused() -> None:
    world = World(1)
    engine = Engine(world.llm, [world.ssm])
    given = prompts(1, 512)
    with pytest.raises(ConfigError, match="conducted by the host"):
        Writing(engine, given, ITERATIONS, len(EXPANSION)).seconds(ITERATIONS)


def test_calls_that_block_are_counted_by_place(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int | str] = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with blocking_calls() as found:
        for _ in range(3):
            warnings.warn(f"{SAID} (Triggered internally)", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert modes == ["warn", 0]
    assert list(found.values()) == [3]
    assert next(iter(found)).startswith(__file__)


def loaded(shares: Sequence[float], place: Place) -> Loaded:
    return load_planted("tiny", place, shares)


def test_host_time_is_what_the_engine_takes_in_addition(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place.new("cpu", torch.float32)
    told: list[tuple[int, int]] = []
    clock = Clock(2, 2, lambda _, done, total: told.append((done, total)))
    monkeypatch.setattr(Writing, "seconds", lambda self, iterations: 1.0)
    with place.runtime:
        rows = list(
            measure_iterations(
                loaded((1.0,), place),
                loaded((1.0,), place),
                prompts(1, 512),
                Sizes((1,), [(1,)]),
                clock,
            )
        )
    found = {row.name.removeprefix("tiny/1/"): row for row in rows}
    assert list(found) == [
        "sequence of 8/draft",
        "sequence of 1/draft",
        "sequence of 1/step",
        "sequence of 1/iteration",
        "sequence of 1/written",
        "sequence of 1/host exposed",
    ]
    iteration, written = found["sequence of 1/iteration"], found["sequence of 1/written"]
    assert iteration.against["of iteration"] == 1.0
    assert written.value == 1e3
    assert 1.0 < written.against["tokens"] <= 2.0  # the SSM is nearly always right
    exposed = found["sequence of 1/host exposed"]
    assert exposed.unit == "us"
    assert exposed.value == pytest.approx(1e6 - 1e3 * iteration.value, rel=1e-4)
    assert told[-1] == (10, 10)


# The command


def test_iteration_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("--requests", "1,2", "--tree", "2,1", "--steps", "4", "--repeats", "1", "--json")
    assert main(["bench", "iteration", *argv]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows: list[dict[str, Any]] = json.loads(out)["rows"][3:]
    trees = "tree of 4 <2,1>"
    own = [f"{trees}/{part}" for part in ("draft", "step", "iteration", "written", "host exposed")]
    names = ["sequence of 8/draft", *own]
    assert [row["name"] for row in rows] == [f"tiny/{n}/{name}" for n in (1, 2) for name in names]
    assert {row["unit"] for row in rows} == {"ms", "us"}


def test_figures_of_several_units_say_which(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "iteration", "--tree", "1", "--steps", "4", "--repeats", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:7] == ["LLM", "requests", "trees", "part", "value", "±", "unit"]
    assert lines[3].split()[4:8] == ["8", "draft", lines[3].split()[6], "-"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--llm", "smollm2-135m"), "--llm is smollm2-135m, expected a model of random weights"),
        (("--ssm", "smollm2-135m"), "--ssm is smollm2-135m"),
        (("--ssm", "llama-68m"), "has 32000 tokens, expected 512, as tiny has"),
        (("--shares", "2"), "at most 1 together"),
        (("--steps", "0"), "--steps is 0, expected at least 1"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], said: str
) -> None:
    assert main(["bench", "iteration", *argv]) == BAD_INPUT
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1
