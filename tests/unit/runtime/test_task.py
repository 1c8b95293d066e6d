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


def test_refuses_axes_for_what_has_no_privilege() -> None:
    with pytest.raises(LaunchError, match="task f: axes for 'n', which has no privilege"):

        @task(x=R, axes={"n": ("rows",)})
        def f(x: Any, n: int) -> None: ...


def test_refuses_axes_of_a_task_that_returns_a_value() -> None:
    with pytest.raises(LaunchError, match=r"task f: declares axes, .* annotated `-> None`"):

        @task(x=R, axes={"x": ("rows",)})
        def f(x: Any) -> int:
            return 1


def test_refuses_sums_over_no_axis() -> None:
    with pytest.raises(LaunchError, match="task f: sums over 'in', expected one of its axes: rows"):

        @task(x=R, axes={"x": ("rows", None)}, sums=["in"])
        def f(x: Any) -> None: ...


@pytest.mark.parametrize("granule", ["size", "y"])
def test_refuses_an_axis_that_counts_in_what_is_no_value(granule: str) -> None:
    message = f"task f: an axis counts in '{granule}', expected a value argument: n"
    with pytest.raises(LaunchError, match=message):

        @task(x=R, y=R, axes={"x": (f"heads*{granule}",)})
        def f(x: Any, y: Any, n: int) -> None: ...


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
