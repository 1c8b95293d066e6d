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


def test_a_task_is_called_with_arguments_by_position_or_name(scale: Task) -> None:
    y = [0, 0]
    scale([1], y=y, factor=5)
    assert y == [1] * 5


def test_an_argument_may_be_named_self() -> None:
    @task(self=R)
    def size(self: Any) -> int:
        return len(self)

    assert size(self=[1, 2]) == 2


@pytest.mark.parametrize("wrong", ["R", Reduce, None, True])
def test_refuses_a_privilege_that_is_none(wrong: Any) -> None:
    with pytest.raises(LaunchError, match=r"task f: privilege of x is .*, expected R, RW, WD or R"):

        @task(x=wrong)
        def f(x: Any) -> None: ...


@pytest.mark.parametrize("option", ["pure", "capturable", "collective"])
def test_refuses_a_privilege_in_the_place_of_a_truth(option: str) -> None:
    options: Any = {option: RW}
    with pytest.raises(LaunchError, match=f"task: option {option} is .*RW.*, expected True or"):
        task(**options)


@pytest.mark.parametrize("option", ["axes", "sums"])
def test_refuses_a_privilege_in_the_place_of_names(option: str) -> None:
    options: Any = {option: RW}
    with pytest.raises(LaunchError, match=f"task: option {option} is the privilege RW, expected"):
        task(**options)


@pytest.mark.parametrize(
    "function",
    [
        lambda pure: None,
        lambda capturable: None,
        lambda collective: None,
        lambda axes: None,
        lambda sums: None,
    ],
)
def test_refuses_an_argument_named_like_an_option(function: Any) -> None:
    with pytest.raises(LaunchError, match=r"has an argument '\w+', which is the name of an option"):
        task()(function)


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x, *rest: None, r"variadic positional argument '\*rest'"),
        (lambda x, **rest: None, r"variadic keyword argument '\*\*rest'"),
        (lambda x, *, by: None, "keyword-only argument 'by'"),
    ],
)
def test_refuses_arguments_that_cannot_be_given_by_position(function: Any, kind: str) -> None:
    with pytest.raises(LaunchError, match=f"has the {kind}, expected arguments that can be given"):
        task(x=R)(function)
    only = task(x=R)(lambda x: None)
    with pytest.raises(LaunchError, match=kind):
        only.variant("fast")(function)
