"""A task is a function with the privileges of its region arguments, and its variants."""

from __future__ import annotations

from typing import Any

import pytest

from specinfer.runtime.errors import LaunchError
from specinfer.runtime.privilege import RW, WD, R, Reduce
from specinfer.runtime.task import Task, task


@pytest.fixture
def scale() -> Task:
    @task(x=R, y=WD)
    def scale(x: Any, y: Any, factor: int) -> None:
        y[:] = x * factor

    return scale


def test_a_task_keeps_the_names_of_its_function(scale: Task) -> None:
    assert (scale.name, scale.parameters) == ("scale", ("x", "y", "factor"))
    assert scale.privileges == {"x": R, "y": WD}


def test_the_decorated_function_is_the_cpu_variant(scale: Task) -> None:
    y = [0, 0]
    scale([3, 4], y, 2)
    assert y == [3, 4, 3, 4]


def test_a_variant_is_selected_by_processor_in_order_of_preference(scale: Task) -> None:
    @scale.variant("cuda")
    def scale_on_gpu(x: Any, y: Any, factor: int) -> None: ...

    arrays = {"x": [3, 4], "y": [0, 0]}
    assert scale.select(["cuda", "cpu"], arrays).function is scale_on_gpu
    assert scale.select(["cpu", "cuda"], arrays).function is not scale_on_gpu


def test_a_variant_that_does_not_accept_the_arrays_is_passed_over(scale: Task) -> None:
    @scale.variant("vector", accepts=lambda arrays: len(arrays["x"]) == 8)
    def scale_eight(x: Any, y: Any, factor: int) -> None: ...

    kinds = ["vector", "cpu"]
    assert scale.select(kinds, {"x": [0] * 8, "y": []}).function is scale_eight
    assert scale.select(kinds, {"x": [0] * 7, "y": []}).function is not scale_eight


def test_refuses_a_privilege_for_no_argument() -> None:
    with pytest.raises(LaunchError, match=r"task f: privilege for 'y', expected one of \('x',\)"):

        @task(x=R, y=RW)
        def f(x: Any) -> None: ...


def test_refuses_a_variant_with_other_arguments(scale: Task) -> None:
    with pytest.raises(LaunchError, match=r"task scale: variant 'cuda' takes \('x', 'y'\)"):

        @scale.variant("cuda")
        def scale_on_gpu(x: Any, y: Any) -> None: ...


def test_refuses_a_processor_without_variant(scale: Task) -> None:
    with pytest.raises(LaunchError, match="task scale: no variant for cuda; has cpu"):
        scale.select(["cuda"], {})


def test_only_readers_and_like_reductions_commute() -> None:
    privileges = [R, RW, WD, Reduce("+"), Reduce("max")]
    commuting = {
        (str(one), str(other))
        for one in privileges
        for other in privileges
        if one.commutes_with(other)
    }
    assert commuting == {("R", "R"), ("Reduce(+)", "Reduce(+)"), ("Reduce(max)", "Reduce(max)")}
