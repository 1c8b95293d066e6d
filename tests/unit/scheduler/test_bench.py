"""What ``specinfer bench`` measures, and how it tells: small models on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from specinfer.models.compiler import compile_graph
from specinfer.models.definition import definition_for
from specinfer.models.fusion import fuse, stack_weights
from specinfer.scheduler.bench.attention import AttentionShape, AttentionStep
from specinfer.scheduler.bench.ceilings import Ceilings, measure_ceilings
from specinfer.scheduler.bench.loading import Place, load_shape, unstacked
from specinfer.scheduler.bench.report import Row
from specinfer.scheduler.bench.shapes import SHAPES, config_of, program_of, random_weights
from specinfer.scheduler.bench.step import Sizes, measure_steps
from specinfer.scheduler.bench.timing import Clock
from specinfer.scheduler.cli import bench
from specinfer.scheduler.cli.main import BAD_INPUT, main

FLOAT = torch.float32
CEILINGS = Ceilings(1e9, 1e9, ())


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measure_ceilings.__globals__["BYTES"], "cpu", 1 << 16)
    monkeypatch.setitem(measure_ceilings.__globals__["SIDES"], "cpu", 32)


def test_all_cases_are_timed_in_turn() -> None:
    said: list[str] = []
    told: list[tuple[int, int]] = []
    cases = {"a": lambda: said.append("a"), "b": lambda: said.append("b")}
    clock = Clock(2, 3, lambda _, done, total: told.append((done, total)))
    seconds = clock.seconds(cases, lambda: said.append("|"))
    assert "".join(said) == "aaaabbbb|" + 3 * "aa|bb|"
    assert told == [(n, 6) for n in range(1, 7)]
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3}


def test_ceilings_count_what_is_read_and_written() -> None:
    class Still(Clock):
        def seconds(self, cases: Any, wait: Any, what: str = "") -> dict[str, list[float]]:
            return {name: [0.5] for name in cases}

    found = measure_ceilings("cpu", FLOAT, Still(1, 1), num_bytes=1 << 20, side=8)
    assert {row.name: row.value for row in found.rows} == {
        "ceilings/read": 2 * (1 << 20) / 1e9,
        "ceilings/copy": 2 * (1 << 20) / 1e9,  # half of it is read, half written
        "ceilings/product": 2 * 2 * 8**3 / 1e9,
    }
    assert (found.read, found.product) == (2 << 20, 4 * 8**3)


def test_floor_is_the_larger_of_bytes_and_products() -> None:
    ceilings = Ceilings(read=10.0, product=100.0, rows=())
    assert ceilings.floor(20, 100) == 2.0
    assert ceilings.floor(20, 1000) == 10.0


def test_a_step_reads_all_weights_but_those_it_looks_up() -> None:
    place = Place.new("cpu", FLOAT)
    model = load_shape("tiny", place)
    given = SHAPES["tiny"]
    hidden, inner = given["hidden_size"], given["intermediate_size"]
    half = hidden // 2  # 2 K/V heads of 4
    layer = 2 * hidden * hidden + 2 * hidden * half + 3 * hidden * inner
    matrices = 2 * layer + given["vocab_size"] * hidden
    norms = 5 * hidden
    assert model.weight_bytes == 4 * (matrices + norms)
    assert model.row_operations == 2 * matrices
    assert model.token_bytes == 4 * 2 * 2 * half


def test_steps_are_told_beside_their_floor() -> None:
    place = Place.new("cpu", FLOAT)
    model = load_shape("tiny", place)
    sizes = Sizes(requests=(1, 2), contexts=(5,), rows=(1, 4))
    rows = list(measure_steps(model, sizes, CEILINGS, Clock(1, 2)))
    assert [row.name for row in rows] == ["tiny/1/5/1", "tiny/1/5/4", "tiny/2/5/1", "tiny/2/5/4"]
    for row, requests, count in zip(rows, (1, 1, 2, 2), (1, 4, 1, 4), strict=True):
        num_bytes = model.weight_bytes + requests * 5 * model.token_bytes
        products = requests * count * model.row_operations
        assert row.against["floor"] == pytest.approx(1e-6 * max(num_bytes, products))
        assert row.against["over floor"] == pytest.approx(row.value / row.against["floor"])
        assert row.spread is not None
    assert rows[0].against["over 1 rows"] == 1.0


@pytest.mark.parametrize(("requests", "rows", "kv_heads"), [(1, 1, 4), (2, 70, 2), (3, 9, 1)])
def test_attention_agrees_with_its_definition(requests: int, rows: int, kv_heads: int) -> None:
    shape = AttentionShape(requests, rows, 4, kv_heads, context=21, size=8)
    step = AttentionStep(shape, Place.new("cpu", FLOAT))
    step.ours()
    step.torch_attention()()
    assert step.error() < 1e-5
    runtime = step.place.runtime
    out = runtime.read(step._out[1].part()).view(requests, rows, 4, 8)
    q, k, v = step._gathered()
    for request in range(requests):
        for head in range(4):
            of_kv = head * kv_heads // 4
            scores = q[1, request, head] @ k[1, request, of_kv].T * 8**-0.5
            scores[~step.seen[request]] = -torch.inf
            expected = scores.softmax(-1) @ v[1, request, of_kv]
            torch.testing.assert_close(out[request, :, head], expected)


def test_weights_of_stacks_are_found_again() -> None:
    program = program_of("tiny")
    tensors = random_weights(program.weights, FLOAT, "cpu")
    fused = fuse(program)
    assert fused.stacks
    stacked = stack_weights(fused, tensors)
    found = unstacked(program, fused, stacked)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    pointers = {weight.untyped_storage().data_ptr() for weight in stacked.values()}
    assert {weight.untyped_storage().data_ptr() for weight in found.values()} == pointers


def test_shapes_are_models() -> None:
    for name in SHAPES:
        config = config_of(name)
        assert compile_graph(definition_for(config).build(config)).num_layers


# The command


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main(["bench", *map(str, argv)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


STEP = ("step", "--shapes", "tiny", "--rows", "1,3", "--contexts", "8", "--steps", 1)
ATTENTION = ("attention", "--heads", 4, "--kv-heads", "2,4", "--head-size", 8, "--steps", 1)


def test_step_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split() for line in run(capsys, *STEP).splitlines()]
    assert lines[1][0] == "read"
    assert lines[2][:7] == ["model", "requests", "committed", "rows", "ms", "±", "floor"]
    assert [line[:4] for line in lines[3:]] == [["tiny", "1", "8", n] for n in "13"]


def test_attention_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, *ATTENTION, "--contexts", 20, "--rows", 5, "--json"))
    assert set(found) == {"device", "date", "commit", "rows"}
    names = [row["name"] for row in found["rows"]]
    assert names[3:] == [f"{r}/5/4/{kv}/20" for kv in (2, 4) for r in (1, 8)]
    assert {row["unit"] for row in found["rows"][3:]} == {"us"}
    assert found["rows"][3]["against"]["torch"] > 0


def test_results_and_plots_go_to_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result, plot = tmp_path / "step.json", tmp_path / "step.png"
    run(capsys, *STEP, "--repeats", 1, "--output", result, "--plot", plot)
    rows = json.loads(result.read_text())["rows"]
    assert [row["name"] for row in rows[-2:]] == ["tiny/1/8/1", "tiny/1/8/3"]
    assert rows[-1]["spread"] is None
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_curves_have_the_other_sizes_as_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        "specinfer.scheduler.bench.plots.plot", lambda path, curves, **_: drawn.append(curves)
    )
    rows = [Row(name=f"m/{n}/8/{r}", value=n * r, unit="ms") for n in (1, 2) for r in (3, 4)]
    bench._plot_by("rows", "ms")(tmp_path, ("model", "requests", "committed", "rows"), rows)
    assert drawn == [
        {
            "m, 1 requests, 8 committed": {3: 3, 4: 4},
            "m, 2 requests, 8 committed": {3: 6, 4: 8},
        }
    ]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("step", "--rows", "0"), "found '0', expected numbers of at least 1"),
        (("step", "--rows", "1;2"), "found '1;2'"),
        (("step", "--repeats", "0"), "--repeats is 0, expected at least 1"),
        (("step", "--shapes", "nosuch"), "nosuch"),
        (("step", "--output", "no/such/folder.json"), "there is no such folder"),
        (("attention", "--heads", "6", "--kv-heads", "4"), "expected a multiple of 4"),
        (("attention", "--head-size", "7"), "expected an even number"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], said: str
) -> None:
    assert main(["bench", *argv]) == BAD_INPUT
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1


def test_plots_without_matplotlib_are_refused_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("specinfer.scheduler.bench.plots.find_spec", lambda _: None)
    assert main(["bench", "step", "--plot", str(tmp_path / "step.png")]) == BAD_INPUT
    assert "matplotlib, which is not installed" in capsys.readouterr().err
