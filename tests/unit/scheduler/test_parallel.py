"""Models divided over ranks by a mapper alone: the same tokens, and few messages."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mpi_start import mpirun
from tiny_models import (
    Draft,
    Sizes,
    TinyModel,
    make_decoder,
    make_room,
    make_ssm,
    noisy_copy,
    tiny_config,
    tiny_model,
)
from unit.models.checkpoint_files import weights, write_folder

from specinfer.models.definition import definition_for
from specinfer.models.parallel import tensor_rules
from specinfer.runtime.context import Runtime
from specinfer.runtime.executor import Executor, Operation
from specinfer.runtime.executor.in_order import InOrderExecutor
from specinfer.runtime.executor.shuffled import ShuffledExecutor
from specinfer.runtime.machine.sim import SimulatedRanks
from specinfer.runtime.mapper.yaml import YamlMapper
from specinfer.runtime.validator import validate_files
from specinfer.scheduler.decoder import Work
from specinfer.scheduler.engine import Engine
from specinfer.scheduler.request import Request

PROMPTS = ([3, 1, 4, 1, 5], [9, 2, 6])
SEQUENCE_PARALLEL = [{"task": "add", "divide": "rows", "over": "tensor"}]


class Watching(InOrderExecutor):
    """Counts what moves between ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def submit(self, id: int, operation: Operation, waits_for: Collection[int]) -> Sequence[int]:
        if operation.is_communication:
            self.seen[str(operation).split()[0].split("(")[0]] += 1
        return super().submit(id, operation, waits_for)


def divided(
    model: TinyModel, ranks: int, executor: Executor, first: Sequence[dict[str, Any]] = ()
) -> Runtime:
    rules = tensor_rules(definition_for(model.config).build(model.config), "")
    mapper = YamlMapper({"mesh": {"tensor": ranks}, "launches": [*first, *rules]})
    return Runtime(executor, machine=SimulatedRanks(ranks), mapper=mapper)


def texts(runtime: Runtime, model: TinyModel) -> list[list[int]]:
    """What requests write, with an SSM of the LLM's own first layer."""
    sizes = Sizes()
    draft = Draft(noisy_copy(model, 5), (2, 1))
    ssm = make_ssm(draft, sizes, runtime)
    llm = make_decoder(model, sizes, nodes=ssm.max_nodes, runtime=runtime)
    requests = [Request(id=n, prompt=p, max_new_tokens=12) for n, p in enumerate(PROMPTS)]
    engine = Engine(llm, [ssm])
    for request in requests:
        engine.submit(request)
    for _ in engine.run():
        pass
    return [request.output for request in requests]


@pytest.mark.parametrize(
    ("ranks", "heads", "kv_heads"),
    [(2, 6, 2), (2, 9, 3), (3, 9, 3), (4, 9, 3)],  # two groups and one; attention on every rank
)
@pytest.mark.parametrize("first", [(), SEQUENCE_PARALLEL], ids=["tensor", "sequence"])
def test_ranks_write_what_one_writes(
    ranks: int, heads: int, kv_heads: int, first: Sequence[dict[str, Any]]
) -> None:
    model = tiny_model(3, tiny_config(heads=heads, kv_heads=kv_heads, hidden=4 * heads))
    for executor in (InOrderExecutor(), ShuffledExecutor(ranks)):
        assert texts(divided(model, ranks, executor, first), model) == texts(Runtime(), model)


def moved(first: Sequence[dict[str, Any]] = ()) -> Counter[str]:
    """Transfers of a step of three rows, analysed."""
    model = tiny_model(3)
    watching = Watching()
    runtime = divided(model, 2, watching, first)
    decoder = make_decoder(model, Sizes(), runtime=runtime)
    make_room(decoder, 0, 20)
    torch.set_grad_enabled(False)
    decoder.step([Work(request=0, chain=[1, 2, 3])])
    return watching.seen


def test_a_layer_takes_two_all_reduces_and_nothing_else() -> None:
    assert moved() == {"all-reduce": 4}  # two layers; the logits lie where they were made


def test_a_mapper_asks_for_sequence_parallelism() -> None:
    found = moved(SEQUENCE_PARALLEL)
    assert set(found) == {"reduce-scatter", "all-gather"}
    # A layer gathers its normalised rows twice; behind the last one, rows for the logits.
    assert (found["reduce-scatter"], found["all-gather"]) == (4, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny", weights("llama", 320))


def generate(folder: Path, ranks: int, *argv: str) -> subprocess.CompletedProcess[str]:
    command = ("-m", "specinfer", "generate", "--model", str(folder), "--max-new-tokens", "16")
    return mpirun(ranks, *command, "--ignore-eos", *argv)


def test_the_command_line_divides_a_model(folder: Path) -> None:
    one = json.loads(generate(folder, 1, "--json", "Mars is red").stdout)
    for ranks in (2, 3):
        done = generate(folder, ranks, "--json", "--set", f"parallel.tensor={ranks}", "Mars is red")
        assert (done.returncode, done.stderr) == (0, "")
        said = json.loads(done.stdout)  # once, not once a rank
        assert said["results"] == one["results"]


def test_the_command_line_says_once_that_ranks_do_not_fit(folder: Path) -> None:
    done = generate(folder, 2, "Mars is red")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "specinfer: error: parallel.tensor is 1, but the program runs on 2 ranks; expected "
        "`mpirun -n 1`, or parallel.tensor=2\n"
    )


def test_only_the_first_rank_shows_trees_and_figures(folder: Path) -> None:
    options = ("--set", "parallel.tensor=2", "--show-tree", "1", "--stats")
    done = generate(folder, 2, *options, "a a a a a a")
    assert done.returncode == 0
    assert done.stderr.count("step 1") == 1
    assert done.stderr.count("each LLM pass yielded") == 1


def test_a_mesh_may_have_further_axes(folder: Path, tmp_path: Path) -> None:
    mapper = tmp_path / "mapper.yaml"
    mapper.write_text("mesh: {data: 2, tensor: 2}\nlaunches: []\n")
    options = ("--json", "--set", f"parallel.mapper={mapper}", "Mars is red")
    one = json.loads(generate(folder, 1, "--json", "Mars is red").stdout)
    done = generate(folder, 4, "--set", "parallel.tensor=2", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["results"] == one["results"]
    # Each mistake is told with what helps against it.
    done = generate(folder, 2, "--set", "parallel.tensor=2", *options)
    assert done.stderr == (
        f"specinfer: error: the mesh of {mapper}, data=2 x tensor=2, has 4 ranks, but the program "
        "runs on 2 ranks; expected `mpirun -n 4`, or another mesh\n"
    )
    done = generate(folder, 4, "--set", "parallel.tensor=4", *options)
    assert done.stderr == (
        f"specinfer: error: parallel.tensor is 4, but the mesh of {mapper} is data=2 x tensor=2; "
        "expected parallel.tensor=2 and `mpirun -n 4`, or tensor: 4 in the mesh\n"
    )


def test_each_rank_writes_its_log(folder: Path, tmp_path: Path) -> None:
    options = ("--set", "parallel.tensor=2", "--log", str(tmp_path / "log.jsonl"), "Mars is red")
    assert generate(folder, 2, *options).returncode == 0
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == ["log.jsonl.0", "log.jsonl.1"]
    assert validate_files(paths) == []
