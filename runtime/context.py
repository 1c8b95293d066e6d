"""The runtime: makes regions, takes launches in program order, and hands them to an executor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from specinfer.runtime.dependence import DependenceAnalyzer
from specinfer.runtime.executor import Executor
from specinfer.runtime.executor.serial import SerialExecutor
from specinfer.runtime.launch import Launch, Requirement, bind
from specinfer.runtime.privilege import R
from specinfer.runtime.region import Region, Subregion
from specinfer.runtime.task import Task


class Runtime:
    """Where a program makes its regions and launches its tasks.

    Args:
        executor: carries out the launches; by default one after another.
        processors: kinds of processor whose variants may run, the preferred first.

    >>> import numpy as np
    >>> from specinfer.runtime.privilege import RW
    >>> from specinfer.runtime.task import task
    >>> @task(x=RW)
    ... def increment(x, by):
    ...     x += by
    >>> with Runtime() as runtime:
    ...     x = runtime.region("x", (3,), {"value": "int64"}, {"value": np.zeros(3, int)})
    ...     runtime.launch(increment, x=x.part(), by=2)
    ...     runtime.launch(increment, x=x.rows(0, 1), by=1)
    ...     print(runtime.read(x.part()))
    [3 2 2]
    """

    def __init__(
        self, executor: Executor | None = None, processors: Sequence[str] = ("cpu",)
    ) -> None:
        self._executor = executor or SerialExecutor()
        self._processors = tuple(processors)
        self._analyzer = DependenceAnalyzer()
        self._num_regions = 0
        self._num_launches = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the executor; launches that have not started are dropped."""
        self._executor.close()

    def region(
        self,
        name: str,
        shape: tuple[int, ...],
        fields: Mapping[str, Any],
        arrays: Mapping[str, Any] | None = None,
    ) -> Region:
        """Make a region, and attach memory to its fields if ``arrays`` are given."""
        region = Region(self._num_regions, name, shape, fields)
        self._num_regions += 1
        for field, array in (arrays or {}).items():
            region.attach(field, array)
        return region

    def launch(self, task: Task, **arguments: Any) -> None:
        """Check and issue one launch."""
        self.issue(self.bind(task, **arguments))

    def bind(self, task: Task, **arguments: Any) -> Launch:
        """Check a launch once, to issue it many times."""
        return bind(task, arguments, processors=self._processors)

    def issue(self, launch: Launch) -> None:
        """Issue a launch that was bound before."""
        id = self._num_launches
        self._num_launches += 1
        waits_for = self._analyzer.launch(id, launch.requirements)
        for finished in self._executor.submit(id, launch, waits_for):
            self._analyzer.complete(finished)

    def issue_all(self, launches: Iterable[Launch]) -> None:
        """Issue launches in order."""
        for launch in launches:
            self.issue(launch)

    def read(self, part: Subregion) -> Any:
        """The memory of a one-field subregion, once every launch that writes it has run."""
        (field,) = part.fields
        waits_for = self._analyzer.launch(
            self._num_launches, [Requirement((part.region.id, field), part.space, R)]
        )
        self._analyzer.complete(self._num_launches)
        self._num_launches += 1
        self._executor.wait(waits_for)
        return part.view(field)

    def fence(self) -> None:
        """Return when everything issued has run."""
        self._executor.wait(None)
