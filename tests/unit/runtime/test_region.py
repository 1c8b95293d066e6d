"""A region names data; its subregions name points and fields."""

from __future__ import annotations

import pytest

from specinfer.runtime.errors import LaunchError
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.region import Region


@pytest.fixture
def cache() -> Region:
    """Keys and values of four rows of two."""
    return Region(0, "cache", (4, 2), {"k": "float32", "v": "float32"})


def test_a_part_is_all_points_and_fields_unless_told(cache: Region) -> None:
    assert cache.part().space == IndexSpace((0, 0), (4, 2))
    assert cache.part().fields == ("k", "v")
    assert cache.part(None, "v").fields == ("v",)


def test_rows_span_the_other_dimensions(cache: Region) -> None:
    assert cache.rows(1, 3).space == IndexSpace((1, 0), (3, 2))


def test_the_same_part_is_the_same_object(cache: Region) -> None:
    assert cache.rows(1, 3) is cache.part(IndexSpace((1, 0), (3, 2)))
    assert cache.part(None, "k") is not cache.part(None, "v")


def test_a_part_is_described_by_what_it_leaves_out(cache: Region) -> None:
    logits = Region(1, "logits", (4,), {"value": "float32"})
    assert str(logits.part()) == "logits"
    assert str(logits.rows(1, 3)) == "logits[1:3]"
    assert str(cache.part(IndexSpace((0, 1), (4, 2)), "k")) == "cache[0:4,1:2].k"
    assert repr(cache) == "Region('cache', (4, 2), ['k', 'v'])"


def test_refuses_a_region_without_fields() -> None:
    with pytest.raises(LaunchError, match="region empty: expected at least one field"):
        Region(0, "empty", (4,), {})


@pytest.mark.parametrize("shape", [(), (1,) * 5, (4, -1)])
def test_refuses_a_region_of_a_shape_that_there_is_not(shape: tuple[int, ...]) -> None:
    with pytest.raises(LaunchError, match=r"region bad: shape \(.*\), expected 1 to 4 dimensions"):
        Region(0, "bad", shape, {"value": "int64"})


@pytest.mark.parametrize(
    "space",
    [IndexSpace((0, 0), (5, 2)), IndexSpace((0, 1), (1, 3)), IndexSpace((0,), (4,))],
    ids=["row too many", "column too many", "other dimension"],
)
def test_refuses_a_part_out_of_bounds(cache: Region, space: IndexSpace) -> None:
    with pytest.raises(LaunchError, match=r"region cache: .* leaves its index space \(4, 2\)"):
        cache.part(space)


def test_refuses_a_part_with_an_unknown_field(cache: Region) -> None:
    with pytest.raises(LaunchError, match=r"region cache: no field 'q', expected one of"):
        cache.part(None, "k", "q")
