"""Partitions and projections that are made again are the same objects."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import LaunchError
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.partition import Partition, blocks, by_colour, equal, restricted, shift
from specinfer.runtime.privilege import RW
from specinfer.runtime.region import Region
from specinfer.runtime.task import task

LINE = Region(0, "line", (8,), {"value": "int64"})
FOUR = IndexSpace((0,), (4,))


@pytest.mark.parametrize(
    "make",
    [
        lambda: equal(LINE, 2),
        lambda: equal(LINE.part(), 2),
        lambda: equal(LINE.rows(0, 4), 2),
        lambda: blocks(LINE, (3, 5)),
        lambda: restricted(LINE, 2, FOUR, 4, reach=1),
        lambda: by_colour(LINE, {0: FOUR}, disjoint=True),
        lambda: equal(LINE, 2)[shift(1)],
    ],
)
def test_made_again_it_is_the_same(make: object) -> None:
    assert callable(make)
    assert make() is make()


def test_other_parts_wholes_and_names_are_other_partitions() -> None:
    made: list[Partition] = [
        equal(LINE, 2),
        equal(LINE, 4),
        equal(LINE, 2, name="halves"),
        equal(Region(0, "line", (8,), {"value": "int64"}), 2),
    ]
    assert len(set(map(id, made))) == len(made)


def test_a_wrong_declaration_is_refused_each_time() -> None:
    by_colour(LINE, {0: FOUR})
    for _ in range(2):
        with pytest.raises(LaunchError, match="declared complete"):
            by_colour(LINE, {0: FOUR}, complete=True)


@task(x=RW)
def increment(x: NDArray[np.int64]) -> None:
    x += 1


def test_a_trace_may_make_its_partitions_in_its_body() -> None:
    runtime = Runtime()
    x = runtime.region("x", (8,), {"value": "int64"})
    trace = runtime.trace(
        "step", lambda: runtime.index_launch(increment, 3, x=equal(x, 4)[shift(1)]), strict=True
    )
    for _ in range(3):
        trace()
    assert (trace.stats.recorded, trace.stats.verified, trace.stats.replayed) == (1, 1, 1)
    np.testing.assert_array_equal(runtime.read(x.part()), [0, 0, 3, 3, 3, 3, 3, 3])
