"""The mesh: where a rank stands along each axis, and who stands with it."""

from __future__ import annotations

from typing import Any

import pytest

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import ConfigError
from specinfer.runtime.machine.sim import SimulatedRanks
from specinfer.runtime.mapper import Mapper
from specinfer.runtime.mesh import Mesh, line

MESH = Mesh.of({"data": 2, "tensor": 3})


def test_the_last_axis_runs_fastest() -> None:
    assert [MESH.coordinate(rank, "tensor") for rank in range(6)] == [0, 1, 2, 0, 1, 2]
    assert [MESH.coordinate(rank, "data") for rank in range(6)] == [0, 0, 0, 1, 1, 1]


def test_sizes_multiply_to_the_number_of_ranks() -> None:
    assert (MESH.size("data"), MESH.size("tensor"), MESH.num_ranks) == (2, 3, 6)
    assert MESH.everyone == 0b111111


def test_a_group_differs_along_its_axes_only() -> None:
    assert MESH.groups({"tensor"}) == (0b000111, 0b111000)
    assert MESH.groups({"data"}) == (0b001001, 0b010010, 0b100100)
    assert MESH.groups({"data", "tensor"}) == (0b111111,)
    assert MESH.groups(()) == (1, 2, 4, 8, 16, 32)


def test_a_line_has_one_axis() -> None:
    assert line(3) == Mesh.of({"ranks": 3})
    assert str(MESH) == "data=2 x tensor=3"


@pytest.mark.parametrize("size", [0, -1, "2", 2.0, True, None])
def test_refuses_what_is_no_number_of_ranks(size: Any) -> None:
    with pytest.raises(ConfigError, match=r"mesh\.tensor is .*, expected a number of ranks from 1"):
        Mesh.of({"tensor": size})


@pytest.mark.parametrize("ask", [MESH.size, lambda axis: MESH.coordinate(0, axis)])
def test_refuses_an_axis_that_it_does_not_have(ask: Any) -> None:
    message = r"mesh data=2 x tensor=3 has no axis 'pipe', expected one of data, tensor"
    with pytest.raises(ConfigError, match=message):
        ask("pipe")


def test_refuses_groups_along_an_axis_that_it_does_not_have() -> None:
    with pytest.raises(ConfigError, match="has no axis 'pipe', expected one of data, tensor"):
        MESH.groups({"tensor", "pipe"})


def test_a_mesh_that_does_not_fit_the_ranks_is_refused() -> None:
    message = (
        r"mesh data=2 x tensor=3 has 6 ranks, but the program runs on 4; start it with "
        r"`mpirun -n 6`"
    )
    with pytest.raises(ConfigError, match=message):
        Runtime(machine=SimulatedRanks(4), mapper=Mapper(MESH))


def test_a_mesh_of_several_ranks_does_not_fit_one() -> None:
    with pytest.raises(ConfigError, match="has 6 ranks, but the program runs on 1"):
        Runtime(mapper=Mapper(MESH))


@pytest.mark.parametrize("num_ranks", [0, -2])
def test_there_is_at_least_one_rank(num_ranks: int) -> None:
    with pytest.raises(ConfigError, match=rf"simulated ranks: {num_ranks}, expected 1 or more"):
        SimulatedRanks(num_ranks)
