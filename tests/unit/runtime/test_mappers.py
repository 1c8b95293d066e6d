"""Mappers: rules in YAML, decisions at random, and decisions that are written down and repeated."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import random_mapper
from meaning import meaning_of
from running import Run
from strategies import random_program

from specinfer.runtime.binding import Binding, bind_index
from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import ConfigError, LaunchError, MapperError
from specinfer.runtime.executor.in_order import InOrderExecutor
from specinfer.runtime.machine.sim import SimulatedRanks
from specinfer.runtime.mapper import Divided, Everywhere, Mapper, On, Shardings, Where
from specinfer.runtime.mapper.log import LoggingMapper, ReplayMapper, as_place, as_plain
from specinfer.runtime.mapper.random import RandomMapper
from specinfer.runtime.mapper.yaml import YamlMapper
from specinfer.runtime.mesh import Mesh, line
from specinfer.runtime.partition import ID, equal
from specinfer.runtime.privilege import RW, WD, R, Reduce
from specinfer.runtime.task import Task, task


@task(
    x=R,
    w=R,
    out=WD,
    pure=True,
    axes={"x": ("rows", "in"), "w": ("features", "in"), "out": ("rows", "features")},
    sums=("in",),
)
def linear(x: Any, w: Any, out: Any) -> None:
    out[...] = x @ w.T


@task(x=RW, pure=True, axes={"x": ("rows", None)})
def double(x: Any) -> None:
    x *= 2


@task(x=RW)
def once(x: Any) -> None:
    x += 1


@task(x=R, total=Reduce("+"), pure=True)
def add_up(x: Any, total: Any) -> None:
    total += x.sum()


@task(x=RW, pure=True, collective=True)
def together(x: Any) -> None:
    x += 3


@task(x=R, y=RW, pure=True, axes={"x": ("rows", "in"), "y": ("rows",)}, sums=("in",))
def add_rows(x: Any, y: Any) -> None:
    y += x.sum(1)


def program(runtime: Runtime) -> list[list[int]]:
    """A bit of everything; returns what is left."""
    x = runtime.region("x", (4, 6), {"v": "int64"}, {"v": np.arange(24).reshape(4, 6)})
    w = runtime.region("layer.w", (8, 6), {"v": "int64"}, {"v": np.arange(48).reshape(8, 6) % 7})
    u = runtime.region("layer.u", (6, 8), {"v": "int64"}, {"v": np.arange(48).reshape(6, 8) % 5})
    h, y = (runtime.region(name, (4, n), {"v": "int64"}) for name, n in (("h", 8), ("y", 6)))
    total = runtime.region("total", (1,), {"v": "int64"})

    def step() -> None:
        runtime.launch(linear, x=x, w=w, out=h)
        runtime.launch(linear, x=h, w=u, out=y)
        runtime.launch(double, x=y)
        runtime.launch(once, x=x.rows(1, 3))
        runtime.index_launch(add_up, 3, x=equal(y, 3)[ID], total=total)

    trace = runtime.trace("step", step)
    for _ in range(4):
        trace()
    return [runtime.read(r.part()).tolist() for r in (x, h, y, total)]


def simulated(mapper: Mapper) -> Runtime:
    machine = SimulatedRanks(mapper.mesh.num_ranks)
    return Runtime(InOrderExecutor(), machine=machine, mapper=mapper)


EXPECTED = program(Runtime())


# YAML


def mapper_of(**data: Any) -> YamlMapper:
    return YamlMapper({"mesh": {"tensor": 2}, **data})


def linear_launch(runtime: Runtime, name: str = "layer.w") -> Binding:
    x = runtime.region("x", (4, 6), {"v": "int64"})
    w = runtime.region(name, (8, 6), {"v": "int64"})
    out = runtime.region("out", (4, 8), {"v": "int64"})
    return runtime.bind(linear, x=x, w=w, out=out).binding


def test_the_first_rule_that_fits_decides() -> None:
    mapper = mapper_of(
        launches=[
            {"task": "other", "rank": 0},
            {"region": "*.w", "divide": "features", "over": "tensor"},
            {"task": "linear", "everywhere": True},
        ]
    )
    runtime = Runtime()
    assert mapper.place(linear_launch(runtime), {}) == Divided(
        {"tensor": ("features", ((0, 4), (4, 8)))}
    )
    assert mapper.place(linear_launch(runtime, "other"), {}) == Everywhere()


def test_blocks_of_whole_units() -> None:
    rule = {"task": "linear", "divide": "in", "over": "tensor", "units": 3}
    assert mapper_of(launches=[rule]).place(linear_launch(Runtime()), {}) == Divided(
        {"tensor": ("in", ((0, 4), (4, 6)))}  # three units of two on two ranks
    )


def test_what_has_fewer_units_than_ranks_is_not_divided() -> None:
    rule = {"task": "linear", "divide": "in", "over": "tensor", "units": 1}
    assert mapper_of(launches=[rule]).place(linear_launch(Runtime()), {}) == Everywhere()


def test_a_launch_is_divided_along_several_axes() -> None:
    rules = [{"task": "linear", "divide": {"features": "tensor", "rows": "data"}}]
    mapper = YamlMapper({"mesh": {"data": 2, "tensor": 2}, "launches": rules})
    assert program(simulated(mapper)) == EXPECTED


def test_rules_do_not_change_results(tmp_path: Path) -> None:
    path = tmp_path / "mapper.yaml"
    path.write_text(
        "mesh: {tensor: 3}\n"
        "launches:\n"
        "  - {region: layer.w, divide: features, over: tensor}\n"
        "  - {task: once, rank: 2}\n"
        "points: cyclic\n"
        "messages: true\n"
        "traces: {step: false}\n"
    )
    assert program(simulated(YamlMapper(path))) == EXPECTED


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"launch": []}, r"mapper\.launch: unknown key; known: mesh, "),
        ({"mesh": {"tensor": 0}}, r"mapper\.mesh\.tensor is 0, expected"),
        ({"mesh": 3}, r"mapper\.mesh: expected a mapping, got 3"),
        ({"processors": "cpu"}, r"mapper\.processors: expected a list"),
        ({"points": "here"}, r"mapper\.points is 'here', expected blocks or cyclic"),
        (
            {"points": [{"task": "a", "points": "here"}]},
            r"mapper\.points\[0\]\.points is 'here', expected blocks or cyclic",
        ),
        ({"points": [{"tasks": "a"}]}, r"mapper\.points\[0\]\.tasks: unknown key; known: task, p"),
        (
            {"points": [{"task": 3, "points": "cyclic"}]},
            r"mapper\.points\[0\]\.task: expected a te",
        ),
        ({"points": 3}, r"mapper\.points: expected a list, got 3"),
        ({"messages": 3}, r"mapper\.messages: expected a list, got 3"),
        ({"messages": ["mail"]}, r"mapper\.messages: 'mail' is no transfer"),
        ({"traces": {"a": 1}}, r"mapper\.traces\.a: expected true or false, got 1"),
        ({"memories": {"kv*": 1}}, r"mapper\.memories\.kv\*: expected a name, got 1"),
        ({"launches": [{"rank": 0}]}, r"launches\[0\]: expected `task` or `region`"),
        ({"launches": [{"task": "a"}]}, r"launches\[0\]: expected one of `divide`, `rank`"),
        (
            {"launches": [{"task": "a", "rank": 2}]},
            r"launches\[0\]\.rank is 2, but the mesh tensor=2",
        ),
        ({"launches": [{"task": "a", "divide": "b"}]}, r"launches\[0\]\.over: missing"),
        (
            {"launches": [{"task": "a", "divide": "b", "over": "c"}]},
            r"launches\[0\]\.divide\.b: mesh tensor=2 has no axis 'c', expected one of tensor",
        ),
        ({"launches": [{"task": "a", "divide": {}}]}, r"launches\[0\]\.divide: expected an axis"),
        (
            {"launches": [{"task": "a", "divide": {"b": "tensor", "c": "tensor"}}]},
            r"launches\[0\]\.divide\.b is tensor, which another axis is divided over, too",
        ),
        (
            {"launches": [{"task": "a", "divide": {"b": "tensor"}, "over": "tensor"}]},
            r"launches\[0\]\.over: expected with one axis",
        ),
        (
            {"launches": [{"task": "a", "rank": 0, "units": 2}]},
            r"launches\[0\]\.units: expected with `divide` only",
        ),
        ({"launches": [{"task": "a", "rank": 0, "at": 1}]}, r"launches\[0\]\.at: unknown key"),
    ],
)
def test_refuses_what_it_cannot_use(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        YamlMapper({"mesh": {"tensor": 2}, **data})


def test_names_the_source_of_its_rules(tmp_path: Path) -> None:
    rules = {"mesh": {"tensor": 2}, "launches": [{"task": "a", "rank": 2}]}
    with pytest.raises(ConfigError, match=r"^here\.yaml\.launches\[0\]\.rank is 2, but the mesh"):
        YamlMapper(rules, name="here.yaml")
    path = tmp_path / "file.yaml"
    path.write_text("launches: [{task: a, rank: 2}]")
    with pytest.raises(ConfigError, match=r"file\.yaml\.launches\[0\]\.rank is 2"):
        YamlMapper(path)


def test_rules_of_the_program_come_behind_those_of_the_source() -> None:
    more = [{"task": "a*", "rank": 0}, {"task": "b", "rank": 0}]
    mapper = YamlMapper({"mesh": {"tensor": 2}, "launches": [{"task": "a", "rank": 1}]}, more=more)
    assert [(rule.task, rule.rank) for rule in mapper.rules] == [("a", 1), ("a*", 0), ("b", 0)]
    with pytest.raises(ConfigError, match=r"^the program's launches\[1\]\.rank is 2"):
        YamlMapper({"mesh": {"tensor": 2}}, more=[more[0], {"task": "b", "rank": 2}])


def test_names_the_rule_and_the_launch_that_do_not_fit() -> None:
    mapper = mapper_of(launches=[{"task": "linear", "divide": "heads", "over": "tensor"}])
    with pytest.raises(ConfigError, match=r"launches\[0\]: divides linear\(.*'heads', expected"):
        program(simulated(mapper))


@pytest.mark.parametrize("answer", [{"everywhere": True}, {"divide": "rows", "over": "tensor"}])
def test_names_the_rule_that_wants_an_impure_task_on_several_ranks(answer: dict[str, Any]) -> None:
    mapper = mapper_of(launches=[{"task": "once", **answer}])
    with pytest.raises(ConfigError, match=r"launches\[0\]: puts once\(x=RW x.*declared pure"):
        program(simulated(mapper))


def test_names_the_rule_whose_units_do_not_fit() -> None:
    rule = {"task": "linear", "divide": "in", "over": "tensor", "units": 4}
    with pytest.raises(
        ConfigError, match=r"launches\[0\]\.units is 4, expected a divisor of the 6"
    ):
        program(simulated(mapper_of(launches=[rule])))


def test_points_are_spread_by_task() -> None:
    mapper = mapper_of(
        points=[
            {"task": "add*", "points": "cyclic"},
            {"task": "once", "points": "everywhere"},
            {"points": "everywhere"},
        ]
    )

    def ranks(task: Task, **arguments: Any) -> list[int | None]:
        launch = bind_index(task, range(4), arguments)
        return [mapper.shard(launch, point, point, 4) for point in range(4)]

    runtime = Runtime()
    x = equal(runtime.region("x", (4, 1), {"v": "int64"}), 4)
    total = runtime.region("total", (1,), {"v": "int64"})
    assert ranks(add_up, x=x, total=total) == [0, 1, 0, 1]
    assert ranks(once, x=x) == [0, 0, 1, 1]  # not pure
    assert ranks(double, x=x) == [None] * 4
    assert ranks(together, x=x) == [0, 0, 1, 1]  # a point on each rank


def test_a_mesh_must_fit_the_ranks() -> None:
    with pytest.raises(ConfigError, match="mesh tensor=2 has 2 ranks, but the program runs on 1"):
        Runtime(mapper=mapper_of())


# At random


@pytest.mark.parametrize("axes", [{"a": 2}, {"a": 3}, {"a": 2, "b": 2}], ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_no_mapper_changes_a_result(axes: Mapping[str, int], seed: int) -> None:
    assert program(simulated(RandomMapper(Mesh.of(axes), seed))) == EXPECTED


def test_a_random_mapper_answers_the_same_again() -> None:
    launch = linear_launch(Runtime())
    answers = {str(RandomMapper(line(3), seed).place(launch, {})) for seed in range(30)}
    assert len(answers) > 5
    assert {str(RandomMapper(line(3), seed).place(launch, {})) for seed in range(30)} == answers


def test_random_answers_are_the_same_in_every_process() -> None:
    launch = linear_launch(Runtime())
    assert [RandomMapper(Mesh.of({"a": 3}), seed).place(launch, {}) for seed in range(4)] == [
        On(2),  # as another process said
        Divided({"a": ("in", ((0, 3), (3, 5), (5, 6)))}),
        Divided({"a": ("features", None)}),
        Divided({"a": ("in", ((0, 2), (2, 6), (6, 6)))}),
    ]


def test_points_that_run_at_the_same_time_get_a_rank_each() -> None:
    orders = set()
    for seed in range(20):
        mapper = RandomMapper(line(3), seed)
        runtime = simulated(mapper)
        x = runtime.region("x", (3,), {"v": "int64"})
        runtime.index_launch(together, 3, x=equal(x, 3))
        assert runtime.read(x).tolist() == [3, 3, 3]
        launch = bind_index(together, range(3), {"x": equal(x, 3)})
        orders.add(tuple(mapper.shard(launch, point, point, 3) for point in range(3)))
    assert len(orders) > 3


class ByColumns(Mapper):
    """Leaves what it is asked to double in blocks of columns, and what stands behind alone."""

    def place(self, launch: Binding, shardings: Shardings) -> Where:
        if launch.task is widen:
            return Divided({"ranks": ("in", None)})
        return super().place(launch, shardings)


@task(x=RW, pure=True, axes={"x": ("rows", "in")})
def widen(x: Any) -> None:
    x += 1


@pytest.mark.parametrize(
    "mapper", [ByColumns(line(2)), *(RandomMapper(line(2), seed) for seed in range(12))]
)
def test_what_updates_a_sum_is_not_divided_along_it(mapper: Mapper) -> None:
    runtime = simulated(mapper)
    x, y = (runtime.region(name, s, {"v": "int64"}) for name, s in (("x", (2, 4)), ("y", (2,))))
    runtime.launch(widen, x=x)
    runtime.launch(add_rows, x=x, y=y)
    runtime.launch(add_rows, x=x, y=y)
    assert runtime.read(y).tolist() == [8, 8]


# Written down


def test_a_log_repeats_a_run() -> None:
    log: list[str] = []
    mapper = LoggingMapper(RandomMapper(Mesh.of({"a": 2, "b": 2}), 7), log.append)
    assert program(simulated(mapper)) == EXPECTED
    again: list[str] = []
    assert program(simulated(LoggingMapper(ReplayMapper(log), again.append))) == EXPECTED
    assert again == log


@pytest.mark.parametrize("seed", range(24))
def test_a_log_repeats_a_run_of_any_program(seed: int) -> None:
    def run(mapper: Mapper) -> None:
        program = random_program(seed)
        machine = SimulatedRanks(mapper.mesh.num_ranks)
        with Runtime(InOrderExecutor(), machine=machine, mapper=mapper) as runtime:
            run = Run(program, meaning_of(program), runtime, machine, traced=seed % 2 == 1)
            run.execute()
            run.compare()

    log: list[str] = []
    run(LoggingMapper(random_mapper.RandomMapper(seed % 4 + 1, seed), log.append))
    again: list[str] = []
    run(LoggingMapper(ReplayMapper(log), again.append))
    assert again == log


def test_a_log_of_another_program_is_refused() -> None:
    log: list[str] = []
    program(simulated(LoggingMapper(RandomMapper(line(2), 1), log.append)))
    runtime = simulated(ReplayMapper(log))
    with pytest.raises(MapperError, match=r"decision log: no answer to \w+\("):
        runtime.launch(once, x=runtime.region("new", (3,), {"v": "int64"}))


def test_a_log_tells_regions_of_one_name_apart() -> None:
    def twins(runtime: Runtime) -> list[list[int]]:
        regions = [runtime.region("x", (rows, 1), {"v": "int64"}) for rows in (2, 5)]
        for x in regions:
            runtime.launch(widen, x=x)
            runtime.launch(double, x=x)
        return [runtime.read(x)[:, 0].tolist() for x in regions]

    for seed in range(12):
        log: list[str] = []
        mapper = LoggingMapper(RandomMapper(line(2), seed), log.append)
        assert twins(simulated(mapper)) == [[2] * 2, [2] * 5]
        assert twins(simulated(ReplayMapper(log))) == [[2] * 2, [2] * 5]


def test_a_log_tells_tasks_of_one_name_apart() -> None:
    impure = replace(once, name="widen")

    def namesakes(runtime: Runtime) -> list[int]:
        x = runtime.region("x", (3, 1), {"v": "int64"})
        for each in (impure, widen, impure):
            runtime.launch(each, x=x)
        result: list[int] = runtime.read(x)[:, 0].tolist()
        return result

    for seed in range(12):
        log: list[str] = []
        mapper = LoggingMapper(RandomMapper(line(2), seed), log.append)
        assert namesakes(simulated(mapper)) == [3] * 3
        assert namesakes(simulated(ReplayMapper(log))) == [3] * 3


def test_a_log_with_two_answers_to_one_question_is_refused() -> None:
    question = '{"asked": "replays", "told": ["step"], "answer": '
    with pytest.raises(MapperError, match=r"replays\(step\) was answered by True and by False"):
        ReplayMapper(['{"mesh": {"a": 2}}', question + "true}", question + "false}"])


def test_a_log_of_another_mesh_is_refused() -> None:
    log: list[str] = []
    program(simulated(LoggingMapper(RandomMapper(line(2), 1), log.append)))
    with pytest.raises(ConfigError, match="mesh ranks=2 has 2 ranks, but the program runs on 3"):
        Runtime(machine=SimulatedRanks(3), mapper=ReplayMapper(log))


def test_a_mapper_of_another_epoch_is_asked_anew() -> None:
    class Choosing(Mapper):
        kinds: tuple[str, ...] = ("cpu",)

        def processors(self, launch: Binding) -> tuple[str, ...]:
            return self.kinds

    @task(x=RW)
    def change(x: Any) -> None:
        x += 1

    @change.variant("fast")
    def change_fast(x: Any) -> None:
        x += 10

    for num_ranks in (1, 2):
        mapper = Choosing(line(num_ranks))
        runtime = Runtime(machine=SimulatedRanks(num_ranks), mapper=mapper)
        x = runtime.region("x", (1,), {"v": "int64"})
        for kinds, epoch in ((("cpu",), 0), (("fast",), 1), (("cpu",), 2)):
            mapper.kinds, mapper.epoch = kinds, epoch
            for _ in range(3):
                runtime.launch(change, x=x)
        assert runtime.read(x).tolist() == [3 + 30 + 3]


def test_a_log_follows_the_epoch_of_the_mapper_that_it_asks() -> None:
    inner = Mapper(line(2))
    mapper = LoggingMapper(inner, lambda line: None)
    inner.epoch = 3
    assert mapper.epoch == 3


@pytest.mark.parametrize("lines", [[], ["no JSON"], ["{}"], ['{"mesh": 3}']])
def test_refuses_what_is_no_log(lines: list[str]) -> None:
    with pytest.raises(MapperError, match="decision log: expected JSON lines"):
        ReplayMapper(lines)


@pytest.mark.parametrize(
    "place", [Everywhere(), On(3), Divided({"a": ("rows", None), "b": ("in", ((0, 0), (0, 4)))})]
)
def test_places_as_plain_values(place: Where) -> None:
    assert as_place(as_plain(place)) == place


# What the runtime makes of a bad one


class Moody(Mapper):
    """Never says the same twice."""

    def place(self, launch: Binding, shardings: Shardings) -> Where:
        self._turn = 1 - getattr(self, "_turn", 0)
        return On(self._turn)


def test_two_answers_to_one_question_are_refused() -> None:
    with pytest.raises(MapperError, match="the mapper gave two answers to the same question"):
        program(simulated(Moody(line(2))))


class Silly(Mapper):
    """Puts launches nowhere."""

    def __init__(self, answer: Any) -> None:
        super().__init__(line(2))
        self._answer = answer

    def place(self, launch: Binding, shardings: Shardings) -> Where:
        answer: Where = self._answer
        return answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (On(2), r"put it on rank 2, expected 0 to 1"),
        (None, r"a mapper answered None, expected a place"),
        (Everywhere(), r"several ranks, but the task is not declared pure"),
        (Divided({"ranks": ("rows", None)}), r"several ranks, but the task is not declared pure"),
    ],
)
def test_places_that_a_launch_cannot_take_are_refused(answer: Any, message: str) -> None:
    runtime = simulated(Silly(answer))
    with pytest.raises((MapperError, LaunchError), match=message):
        runtime.launch(once, x=runtime.region("x", (3,), {"v": "int64"}))


def test_random_numbers_are_not_asked() -> None:
    state = random.getstate()
    program(simulated(RandomMapper(line(2), 3)))
    assert random.getstate() == state


def test_an_axis_that_a_task_does_not_have_is_refused() -> None:
    runtime = simulated(Silly(Divided({"ranks": ("heads", None)})))
    with pytest.raises(LaunchError, match="task double: no axis 'heads' to divide; has rows"):
        runtime.launch(double, x=runtime.region("x", (3, 1), {"v": "int64"}))


def test_blocks_must_make_up_the_axis() -> None:
    runtime = simulated(Silly(Divided({"ranks": ("rows", ((0, 1), (2, 3)))})))
    with pytest.raises(MapperError, match=r"blocks .* of axis rows, expected 2 that make up 3"):
        runtime.launch(double, x=runtime.region("x", (3, 1), {"v": "int64"}))
