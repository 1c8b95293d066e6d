"""Launches on several ranks: where a mapper puts them, and what moves for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from unit.runtime.setups import MAKERS, Listing, everywhere, on_ranks

from specinfer.runtime import distributor
from specinfer.runtime.binding import Binding
from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import LaunchError, MapperError
from specinfer.runtime.executor.shuffled import ShuffledExecutor
from specinfer.runtime.machine.sim import SimulatedRanks
from specinfer.runtime.mapper import Divided, Everywhere, Mapper, On, Shardings, Where
from specinfer.runtime.mesh import Mesh, line
from specinfer.runtime.partition import Colour, blocks, equal
from specinfer.runtime.privilege import RW, WD, R, Reduce
from specinfer.runtime.region import Region
from specinfer.runtime.task import Task, task

Ints = NDArray[np.int64]


@task(
    x=R,
    w=R,
    out=WD,
    pure=True,
    axes={"x": ("rows", "in"), "w": ("features", "in"), "out": ("rows", "features")},
    sums=("in",),
)
def linear(x: Ints, w: Ints, out: Ints) -> None:
    out[:] = x @ w.T


@task(x=R, out=WD, pure=True, axes={"x": ("rows", "features"), "out": ("rows", "features")})
def relu(x: Ints, out: Ints) -> None:
    out[:] = np.maximum(x, 0)


@task(
    x=R,
    y=R,
    out=WD,
    pure=True,
    axes=dict.fromkeys(("x", "y", "out"), ("rows", "features")),
)
def add(x: Ints, y: Ints, out: Ints) -> None:
    out[:] = x + y


@task(x=R, out=WD, pure=True)
def copy(x: Ints, out: Ints) -> None:
    out[:] = x


@task(x=R, out=WD, pure=True, axes={"x": ("rows",), "out": ("rows",)})
def double(x: Ints, out: Ints) -> None:
    out[:] = 2 * x


@task(x=RW)
def increment(x: Ints) -> None:
    x += 1


@task(x=RW, pure=True, axes={"x": ("rows",)}, sums=("rows",))
def change_in_parts(x: Ints) -> None:
    x += 1


COLUMNS = {"x": ("rows", "columns"), "total": ("columns",)}


@task(x=R, total=WD, pure=True, axes=COLUMNS)
def add_columns(x: Ints, total: Ints) -> None:
    total[:] = x.sum(0)


@task(x=R, total=RW, pure=True, axes=COLUMNS)
def add_columns_to(x: Ints, total: Ints) -> None:
    total += x.sum(0)


@task(x=R, total=Reduce("+"), pure=True, axes=COLUMNS)
def reduce_columns(x: Ints, total: Ints) -> None:
    total += x.sum(0)


@task(x=R, y=WD, total=WD, pure=True, axes={"x": ("rows", None), "y": ("rows", None)})
def add_up_too(x: Ints, y: Ints, total: Ints) -> None:
    y[:] = x
    total[:] = x.sum()


@task(x=R, total=Reduce("+"), pure=True)
def add_up(x: Ints, total: Ints) -> None:
    total += x.sum()


@task(x=R, pure=True)
def is_negative(x: Ints) -> bool:
    return bool((x < 0).all())


@task(x=R, pure=True)
def count(x: Ints) -> int:
    return len(x)


@task(x=RW, pure=True, axes={"x": ("heads*head_size",)})
def turn(x: Ints, head_size: int) -> None:
    x[:] = x.reshape(-1, head_size)[:, ::-1].ravel()


@task(x=RW, collective=True)
def together(x: Ints) -> None:
    x += 1


class ByTask(Mapper):
    """Puts a launch where it was told for the task, or for one of its regions."""

    def __init__(self, mesh: Mesh, places: Mapping[str, Where]) -> None:
        super().__init__(mesh)
        self._places = places

    def place(self, launch: Binding, shardings: Shardings) -> Where:
        for name in (launch.task.name, *map(str, launch.regions.values())):
            if name in self._places:
                return self._places[name]
        return super().place(launch, shardings)


class OnRanks(Mapper):
    """Puts each point of an index launch where it was told."""

    def __init__(self, mesh: Mesh, ranks: tuple[Any, ...]) -> None:
        super().__init__(mesh)
        self._ranks = ranks

    def shard(self, launch: Binding, point: Colour, number: int, count: int) -> int | None:
        rank: int | None = self._ranks[number]
        return rank


def along(axis: str, blocks: tuple[tuple[int, int], ...] | None = None) -> Divided:
    return Divided({"ranks": (axis, blocks)})


def vector(runtime: Runtime, name: str = "x", size: int = 6) -> Region:
    return runtime.region(name, (size,), {"value": "int64"}, {"value": np.arange(size)})


def matrix(runtime: Runtime, name: str, rows: int, columns: int) -> Region:
    values = np.arange(rows * columns).reshape(rows, columns) % 5 - 2
    return runtime.region(name, (rows, columns), {"value": "int64"}, {"value": values})


class Layers:
    """Two linear layers with a residual: ``y = x + relu(x @ up.T) @ down.T``."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.x = matrix(runtime, "x", 4, 6)
        self.up, self.down = matrix(runtime, "up", 8, 6), matrix(runtime, "down", 6, 8)
        self.wide = runtime.region("wide", (4, 8), {"value": "int64"})
        self.active = runtime.region("active", (4, 8), {"value": "int64"})
        self.out = runtime.region("out", (4, 6), {"value": "int64"})
        self.y = runtime.region("y", (4, 6), {"value": "int64"})

    def run(self) -> None:
        launch = self.runtime.launch
        launch(linear, x=self.x, w=self.up, out=self.wide)
        launch(relu, x=self.wide, out=self.active)
        launch(linear, x=self.active, w=self.down, out=self.out)
        launch(add, x=self.x, y=self.out, out=self.y)

    def expected(self) -> list[list[int]]:
        x, up, down = (self.runtime.array(r, "value") for r in (self.x, self.up, self.down))
        y: list[list[int]] = (x + np.maximum(x @ up.T, 0) @ down.T).tolist()
        return y


def arguments_of(what: Task, x: Region, y: Region, total: Region) -> dict[str, Any]:
    known = {"x": x, "y": y, "total": total}
    return {name: known[name] for name in what.parameters}


@everywhere
@pytest.mark.parametrize("what", [add_columns, add_columns_to, reduce_columns, add_up_too])
def test_what_is_divided_is_what_every_written_argument_has(kind: str, what: Task) -> None:
    """Or, of a reduction, what its operator puts together: by default a launch follows x."""
    with MAKERS[kind]() as runtime:
        x, y = matrix(runtime, "x", 6, 6), matrix(runtime, "y", 6, 6)
        total = runtime.region("total", (6,), {"value": "int64"})
        runtime.index_launch(increment, 2, x=blocks(x, (3, 3)))
        runtime.launch(what, **arguments_of(what, x, y, total))
        values = np.arange(36).reshape(6, 6) % 5 - 1
        expected = [int(values.sum())] * 6 if what is add_up_too else values.sum(0).tolist()
        assert runtime.read(total).tolist() == expected


class TestTensorParallelism:
    """The first layer by features; everything else follows its data."""

    @pytest.mark.parametrize("num_ranks", [2, 3, 4])
    def test_two_layers_need_one_all_reduce(self, num_ranks: int) -> None:
        executor, mapper = Listing(), ByTask(line(num_ranks), {"up": along("features")})
        layers = Layers(on_ranks(num_ranks, executor, mapper))
        layers.run()
        assert executor.moved() == ["all-reduce of out.value"]
        assert layers.runtime.read(layers.y).tolist() == layers.expected()

    def test_the_same_holds_in_any_order_of_operations(self) -> None:
        for seed in range(5):
            mapper = ByTask(line(2), {"up": along("features")})
            layers = Layers(on_ranks(2, ShuffledExecutor(seed), mapper))
            layers.run()
            assert layers.runtime.read(layers.y).tolist() == layers.expected()

    def test_each_rank_runs_its_part_of_the_first_layer(self) -> None:
        seen: list[tuple[int, ...]] = []

        @task(
            x=R, w=R, out=WD, pure=True, axes={"w": ("features", None), "out": (None, "features")}
        )
        def look(x: Ints, w: Ints, out: Ints) -> None:
            seen.append((*w.shape, *out.shape))

        layers = Layers(on_ranks(2, mapper=ByTask(line(2), {"look": along("features")})))
        layers.runtime.launch(look, x=layers.x, w=layers.up, out=layers.wide)
        assert seen == [(4, 6, 4, 4), (4, 6, 4, 4)]

    def test_with_sums_divided_by_rows_they_are_scattered_and_gathered(self) -> None:
        """Sequence parallelism: the residual lies in rows between the layers."""
        places = {"up": along("features"), "add": along("rows")}
        executor = Listing()
        layers = Layers(on_ranks(2, executor, ByTask(line(2), places)))
        layers.run()
        assert executor.moved() == ["reduce-scatter of out.value"]
        layers.runtime.launch(copy, x=layers.y, out=layers.x)
        assert executor.moved() == ["all-gather of y.value"]

    def test_a_sum_that_might_not_be_made_leaves_what_was_there(self) -> None:
        runtime = on_ranks(2, mapper=ByTask(line(2), {"down": along("in")}))
        layers = Layers(runtime)
        before = runtime.read(layers.x).tolist()
        no = runtime.launch(is_negative, x=layers.up)
        runtime.launch(linear, x=layers.wide, w=layers.down, out=layers.x, predicate=no)
        assert runtime.read(layers.x).tolist() == before

    def test_on_two_axes_each_group_sums_for_itself(self) -> None:
        both = Divided({"data": ("rows", None), "tensor": ("features", None)})
        executor = Listing()
        mapper = ByTask(Mesh.of({"data": 2, "tensor": 2}), {"up": both})
        layers = Layers(on_ranks(4, executor, mapper))
        layers.run()
        assert executor.moved().count("all-reduce of out.value") == len(("upper", "lower"))
        assert layers.runtime.read(layers.y).tolist() == layers.expected()


class TestDefaults:
    def test_a_pure_task_runs_on_every_rank_and_nothing_moves(self) -> None:
        executor = Listing()
        runtime = on_ranks(3, executor)
        x, y = vector(runtime, "x"), vector(runtime, "y")
        runtime.launch(copy, x=x, out=y)
        assert runtime.read(y).tolist() == [0, 1, 2, 3, 4, 5]
        assert executor.moved() == []

    def test_any_other_task_runs_on_the_first_rank_and_is_sent_to_who_reads(self) -> None:
        executor = Listing()
        runtime = on_ranks(3, executor)
        x = vector(runtime)
        runtime.launch(increment, x=x)
        assert executor.moved() == []
        assert runtime.read(x).tolist() == [1, 2, 3, 4, 5, 6]
        assert executor.moved() == ["broadcast of x.value"]

    def test_a_task_with_axes_follows_the_data_that_it_reads(self) -> None:
        executor = Listing()
        runtime = on_ranks(2, executor)
        x, y = vector(runtime, "x"), vector(runtime, "y")
        runtime.index_launch(increment, 2, x=equal(x, 2))
        runtime.launch(double, x=x, out=y)
        assert executor.moved() == []
        assert runtime.read(y).tolist() == [2, 4, 6, 8, 10, 12]
        assert executor.moved() == ["all-gather of y.value"]

    def test_it_does_not_follow_the_data_that_it_overwrites(self) -> None:
        executor = Listing()
        runtime = on_ranks(2, executor)
        x, y = vector(runtime, "x"), vector(runtime, "y")
        runtime.index_launch(increment, 2, x=equal(y, 2))
        runtime.launch(double, x=x, out=y)
        assert runtime.read(y).tolist() == [0, 2, 4, 6, 8, 10]
        assert executor.moved() == []

    def test_it_follows_uneven_and_empty_blocks(self) -> None:
        executor = Listing()
        runtime = on_ranks(
            3, executor, ByTask(line(3), {"y": along("rows", ((0, 5), (5, 5), (5, 6)))})
        )
        x, y, z = (vector(runtime, name) for name in "xyz")
        runtime.launch(double, x=x, out=y)
        runtime.launch(copy, x=x, out=z)
        runtime.launch(double, x=y.rows(0, 6), out=z)
        assert executor.moved() == []
        assert runtime.read(z).tolist() == [0, 4, 8, 12, 16, 20]

    def test_heads_are_divided_whole(self) -> None:
        runtime = on_ranks(2, mapper=ByTask(line(2), {"turn": along("heads")}))
        x = vector(runtime)
        runtime.launch(turn, x=x, head_size=2)
        assert runtime.read(x).tolist() == [1, 0, 3, 2, 5, 4]

    def test_points_of_an_index_launch_are_dealt_out_in_blocks(self) -> None:
        executor = Listing()
        runtime = on_ranks(2, executor)
        x = vector(runtime)
        runtime.index_launch(increment, 3, x=equal(x, 3))
        runtime.launch(double, x=x, out=vector(runtime, "y"))
        assert executor.moved() == []  # the first rank has two points, the second one
        assert runtime.read(x).tolist() == [1, 2, 3, 4, 5, 6]


class TestPoints:
    def test_points_that_reduce_on_several_ranks_are_all_reduced(self) -> None:
        executor = Listing()
        runtime = on_ranks(2, executor)
        x, total = vector(runtime, "x"), vector(runtime, "total", 1)
        runtime.index_launch(add_up, 2, x=equal(x, 2), total=total)
        assert runtime.read(total).tolist() == [15]
        assert executor.moved() == ["all-reduce of total.value"]

    def test_a_mapper_may_put_each_point_where_it_wants(self) -> None:
        executor = Listing()
        runtime = on_ranks(2, executor, OnRanks(line(2), (1, 0)))
        x = vector(runtime)
        runtime.index_launch(increment, 2, x=equal(x, 2))
        assert runtime.read(x).tolist() == [1, 2, 3, 4, 5, 6]
        assert executor.moved() == ["all-gather of x.value"]

    def test_pure_points_may_run_on_every_rank(self) -> None:
        executor = Listing()
        runtime = on_ranks(2, executor, OnRanks(line(2), (None, None)))
        x, y = vector(runtime, "x"), vector(runtime, "y")
        runtime.index_launch(copy, 2, x=equal(x, 2), out=equal(y, 2))
        assert runtime.read(y).tolist() == [0, 1, 2, 3, 4, 5]
        assert executor.moved() == []

    @pytest.mark.parametrize(
        ("ranks", "message"),
        [
            ((0, 2), r"increment\(x=RW x.parts\[ID\]\): .* put it on rank 2, expected 0 to 1"),
            ((0, "all"), r"put it on rank 'all', expected 0 to 1"),
            ((0, True), r"put it on rank True, expected 0 to 1"),
            ((None, None), r"put it on several ranks, but the task is not declared pure"),
        ],
    )
    def test_refuses_ranks_that_cannot_be(self, ranks: tuple[Any, ...], message: str) -> None:
        runtime = on_ranks(2, mapper=OnRanks(line(2), ranks))
        with pytest.raises(MapperError, match=message):
            runtime.index_launch(increment, 2, x=equal(vector(runtime), 2))

    def test_refuses_some_points_on_one_rank_and_others_on_all(self) -> None:
        runtime = on_ranks(2, mapper=OnRanks(line(2), (0, None)))
        x, y = vector(runtime, "x"), vector(runtime, "y")
        with pytest.raises(MapperError, match=r"copy\(.*\): .* some points on one rank and others"):
            runtime.index_launch(copy, 2, x=equal(x, 2), out=equal(y, 2))


class TestCollectiveTasks:
    def test_run_one_point_on_each_rank(self) -> None:
        runtime = on_ranks(3)
        x = vector(runtime)
        runtime.index_launch(together, 3, x=equal(x, 3))
        assert runtime.read(x).tolist() == [1, 2, 3, 4, 5, 6]

    def test_are_refused_where_a_rank_has_no_point(self) -> None:
        runtime = on_ranks(3)
        message = r"together\(x=RW x.parts\[ID\]\): .* same time, expected one on each of the 3"
        with pytest.raises(MapperError, match=message):
            runtime.index_launch(together, 2, x=equal(vector(runtime), 2))

    def test_are_refused_where_a_rank_has_two_points(self) -> None:
        runtime = on_ranks(2)
        message = r"expected one on each of the 2 ranks, but there are 3 on ranks \[0, 0, 1\]"
        with pytest.raises(MapperError, match=message):
            runtime.index_launch(together, 3, x=equal(vector(runtime), 3))

    def test_are_refused_as_a_single_launch(self) -> None:
        runtime = on_ranks(2)
        message = r"together\(x=RW x\): a single launch .* a point for each of the 2 ranks"
        with pytest.raises(MapperError, match=message):
            runtime.launch(together, x=vector(runtime))


class TestAnswersOfMappers:
    @pytest.mark.parametrize(
        ("place", "message"),
        [
            (Everywhere(), r"increment\(x=RW x\): a mapper put it on several ranks, .* pure"),
            (along("rows"), r"increment\(x=RW x\): a mapper put it on several ranks, .* pure"),
            (On(2), r"increment\(x=RW x\): a mapper put it on rank 2, expected 0 to 1"),
            (On(-1), r"put it on rank -1, expected 0 to 1"),
            ("rank 0", r"increment\(x=RW x\): a mapper answered 'rank 0', expected a place"),
        ],
    )
    def test_refuses_where_a_launch_cannot_be(self, place: Any, message: str) -> None:
        runtime = on_ranks(2, mapper=ByTask(line(2), {"increment": place}))
        with pytest.raises(MapperError, match=message):
            runtime.launch(increment, x=vector(runtime))

    @pytest.mark.parametrize(
        "blocks",
        [
            ((0, 6),),
            ((0, 3), (3, 5)),
            ((0, 3), (4, 6)),
            ((0, 4), (3, 6)),
            ((1, 3), (3, 6)),
            ((0, 7), (7, 6)),
        ],
        ids=["too few", "end early", "gap", "overlap", "start late", "backwards"],
    )
    def test_refuses_blocks_that_do_not_make_up_the_axis(
        self, blocks: tuple[tuple[int, int], ...]
    ) -> None:
        runtime = on_ranks(2, mapper=ByTask(line(2), {"double": along("rows", blocks)}))
        x, y = vector(runtime, "x"), vector(runtime, "y")
        message = r"double\(.*\): blocks .* of axis rows, expected 2 that make up 6"
        with pytest.raises(MapperError, match=message):
            runtime.launch(double, x=x, out=y)

    def test_refuses_an_axis_of_the_mesh_that_there_is_not(self) -> None:
        places: dict[str, Where] = {"double": Divided({"tensor": ("rows", None)})}
        runtime = on_ranks(2, mapper=ByTask(line(2), places))
        with pytest.raises(MapperError, match=r"double\(.*\): mesh ranks=2 has no axis 'tensor'"):
            runtime.launch(double, x=vector(runtime, "x"), out=vector(runtime, "y"))

    def test_refuses_one_axis_of_a_task_along_two_of_the_mesh(self) -> None:
        places: dict[str, Where] = {
            "double": Divided({"data": ("rows", None), "tensor": ("rows", None)})
        }
        mapper = ByTask(Mesh.of({"data": 2, "tensor": 2}), places)
        runtime = on_ranks(4, mapper=mapper)
        with pytest.raises(MapperError, match=r"double\(.*\): .* axis rows .* data and tensor"):
            runtime.launch(double, x=vector(runtime, "x"), out=vector(runtime, "y"))

    def test_refuses_an_axis_that_the_task_does_not_have(self) -> None:
        runtime = on_ranks(2, mapper=ByTask(line(2), {"double": along("heads")}))
        with pytest.raises(LaunchError, match="task double: no axis 'heads' to divide; has rows"):
            runtime.launch(double, x=vector(runtime, "x"), out=vector(runtime, "y"))

    def test_refuses_to_divide_what_returns_a_value(self) -> None:
        runtime = on_ranks(2, mapper=ByTask(line(2), {"count": along("rows")}))
        with pytest.raises(
            MapperError, match=r"count\(x=R x\): .* its parts would each return a v"
        ):
            runtime.launch(count, x=vector(runtime))

    @pytest.mark.parametrize("what", [add_columns, add_columns_to, add_up_too])
    def test_refuses_parts_that_would_each_write_everything(self, what: Task) -> None:
        runtime = on_ranks(2, mapper=ByTask(line(2), {what.name: along("rows")}))
        x, y = matrix(runtime, "x", 6, 6), matrix(runtime, "y", 6, 6)
        with pytest.raises(
            MapperError, match=r"divided it along rows, but every part would write all of total, e"
        ):
            runtime.launch(what, **arguments_of(what, x, y, vector(runtime, "total")))

    def test_refuses_sums_of_what_a_task_reads_and_writes(self) -> None:
        runtime = on_ranks(2, mapper=ByTask(line(2), {"change_in_parts": along("rows")}))
        with pytest.raises(MapperError, match=r"cannot sum over \['ranks'\]: it reads what it wri"):
            runtime.launch(change_in_parts, x=vector(runtime))

    def test_refuses_to_cut_through_what_an_axis_counts(self) -> None:
        runtime = on_ranks(2, mapper=ByTask(line(2), {"turn": along("heads")}))
        message = "task turn: dimension 0 of x has 6 points, expected a multiple of 4 along axis he"
        with pytest.raises(LaunchError, match=message):
            runtime.launch(turn, x=vector(runtime), head_size=4)

    def test_a_launch_that_was_refused_leaves_the_data_where_they_were(self) -> None:
        executor = Listing()
        runtime = on_ranks(2, executor, ByTask(line(2), {"double": On(5)}))
        x, y = vector(runtime, "x"), vector(runtime, "y")
        with pytest.raises(MapperError):
            runtime.launch(double, x=x, out=y)
        assert runtime.read(y).tolist() == [0, 1, 2, 3, 4, 5]
        assert executor.moved() == []


def test_on_one_rank_no_mapper_is_asked() -> None:
    class Silent(Mapper):
        def place(self, launch: Binding, shardings: Shardings) -> Where:
            raise AssertionError("asked")

    with Runtime(machine=SimulatedRanks(1), mapper=Silent(line(1))) as runtime:
        x = vector(runtime)
        runtime.launch(increment, x=x)
        assert runtime.read(x).tolist() == [1, 2, 3, 4, 5, 6]


def test_what_is_remembered_of_launches_and_states_has_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributor, "REMEMBERED", 2)
    runtime = Runtime(machine=SimulatedRanks(2))
    x = runtime.region("x", (12,), {"value": "int64"})
    step = runtime.trace("step", lambda: runtime.index_launch(increment, 12, x=equal(x, 12)))
    for count in range(1, 13):
        runtime.index_launch(increment, count, x=equal(x, count))
        step()
    assert len(runtime._distributor._known) == len(runtime._distributor._known_states) == 2
    np.testing.assert_array_equal(runtime.read(x), np.full(12, 24))
