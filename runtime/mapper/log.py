"""Decision logs: what a mapper was asked and what it answered, written down and played again.

A log is a text of JSON lines. The first one holds the mesh; every other one a question, what was
told with it, and the answer. With it a run can be repeated exactly, by another mapper that has no
opinion of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from specinfer.runtime.binding import Binding
from specinfer.runtime.errors import MapperError
from specinfer.runtime.mapper import (
    Divided,
    Everywhere,
    Mapper,
    On,
    Shardings,
    Where,
    divisible_axes,
)
from specinfer.runtime.mesh import Mesh
from specinfer.runtime.partition import Colour
from specinfer.runtime.region import Region
from specinfer.runtime.wording import MARK, region_text


class LoggingMapper(Mapper):
    """Asks another mapper, and writes its answers down.

    Args:
        inner: the one that knows.
        write: takes a line of the log, without its end.

    >>> from specinfer.runtime.mesh import line
    >>> LoggingMapper(Mapper(line(2)), print).replays("step")
    {"mesh": {"ranks": 2}}
    {"asked": "replays", "told": ["step"], "answer": true}
    True
    """

    def __init__(self, inner: Mapper, write: Callable[[str], object]) -> None:
        super().__init__(inner.mesh)
        self._inner = inner
        self._write = write
        write(json.dumps({"mesh": dict(inner.mesh.axes)}))

    @property
    def epoch(self) -> int:  # type: ignore[override]
        """Of the inner mapper: its answers are what changes."""
        return self._inner.epoch

    def place(self, launch: Binding, shardings: Shardings) -> Where:
        """As the inner mapper says."""
        answer = self._inner.place(launch, shardings)
        self._log("place", (_launch(launch), _text(shardings)), as_plain(answer))
        return answer

    def shard(self, launch: Binding, point: Colour, number: int, count: int) -> int | None:
        """As the inner mapper says."""
        answer = self._inner.shard(launch, point, number, count)
        self._log("shard", (_launch(launch), str(point), number, count), answer)
        return answer

    def processors(self, launch: Binding) -> tuple[str, ...]:
        """As the inner mapper says."""
        answer = self._inner.processors(launch)
        self._log("processors", (_launch(launch),), list(answer))
        return answer

    def memory(self, region: Region) -> str:
        """As the inner mapper says."""
        return str(self._logged("memory", (region.id, region.name), self._inner.memory(region)))

    def as_messages(self, kind: str, num_bytes: int) -> bool:
        """As the inner mapper says."""
        answer = self._inner.as_messages(kind, num_bytes)
        return bool(self._logged("as_messages", (kind, num_bytes), answer))

    def replays(self, trace: str) -> bool:
        """As the inner mapper says."""
        return bool(self._logged("replays", (trace,), self._inner.replays(trace)))

    def _logged(self, asked: str, told: tuple[Any, ...], answer: Any) -> Any:
        self._log(asked, told, answer)
        return answer

    def _log(self, asked: str, told: tuple[Any, ...], answer: Any) -> None:
        self._write(json.dumps({"asked": asked, "told": list(told), "answer": answer}))


class ReplayMapper(Mapper):
    """Answers as a log says.

    Args:
        log: its lines.

    Raises:
        MapperError: lines that are no log, or that hold two answers to one question.
    """

    def __init__(self, log: Iterable[str]) -> None:
        lines = iter(log)
        try:
            mesh = json.loads(next(lines))["mesh"]
            super().__init__(Mesh.of(mesh))
            decisions = [json.loads(line) for line in lines]
            answers = [(_key(d["asked"], d["told"]), d["answer"]) for d in decisions]
        except (StopIteration, AttributeError, ValueError, KeyError, TypeError) as error:
            raise MapperError(f"decision log: expected JSON lines, first a mesh: {error}") from None
        self._answers: dict[tuple[Any, ...], Any] = {}
        for key, answer in answers:
            if self._answers.setdefault(key, answer) != answer:
                raise MapperError(
                    f"decision log: {_asked(*key)} was answered by {self._answers[key]} and by "
                    f"{answer}, expected the log of a mapper that does not change"
                )

    def place(self, launch: Binding, shardings: Shardings) -> Where:
        """As it was."""
        return as_place(self._answer("place", _launch(launch), _text(shardings)))

    def shard(self, launch: Binding, point: Colour, number: int, count: int) -> int | None:
        """As it was."""
        answer: int | None = self._answer("shard", _launch(launch), str(point), number, count)
        return answer

    def processors(self, launch: Binding) -> tuple[str, ...]:
        """As it was."""
        return tuple(self._answer("processors", _launch(launch)))

    def memory(self, region: Region) -> str:
        """As it was."""
        return str(self._answer("memory", region.id, region.name))

    def as_messages(self, kind: str, num_bytes: int) -> bool:
        """As it was."""
        return bool(self._answer("as_messages", kind, num_bytes))

    def replays(self, trace: str) -> bool:
        """As it was."""
        return bool(self._answer("replays", trace))

    def _answer(self, asked: str, *told: Any) -> Any:
        try:
            return self._answers[_key(asked, told)]
        except KeyError:
            raise MapperError(
                f"decision log: no answer to {_asked(asked, *told)}; expected the program, the "
                "number of ranks and the regions that it was written with"
            ) from None


def as_plain(place: Where) -> dict[str, Any]:
    """A place as plain values; equal for equal places in every process."""
    match place:
        case On(rank):
            return {"on": rank}
        case Divided(axes):
            return {"divided": {name: [axis, blocks] for name, (axis, blocks) in axes.items()}}
    return {"everywhere": True}


def as_place(plain: Mapping[str, Any]) -> Where:
    """The place that :func:`as_plain` made plain."""
    match plain:
        case {"on": rank}:
            return On(rank)
        case {"divided": axes}:
            return Divided(
                {
                    name: (axis, None if blocks is None else tuple(map(tuple, blocks)))
                    for name, (axis, blocks) in axes.items()
                }
            )
    return Everywhere()


def _key(asked: str, told: Iterable[Any]) -> tuple[Any, ...]:
    return (asked, *told)


def _asked(asked: str, *told: Any) -> str:
    return f"{asked}({', '.join(map(str, told))})"


def _launch(launch: Binding) -> str:
    """A launch, its exact regions, and what its task declares: others may have the same names."""
    task = launch.task
    declared = [
        word
        for word, is_so in (("pure", task.is_pure), ("collective", task.is_collective))
        if is_so
    ]
    declared += [f"along {name}" for name in divisible_axes(task)]
    regions = (f"{name}={region_text(launch, name)}" for name in launch.regions)
    units = (f"{name}={value}" for name, value in launch.fixed.items())
    described = " ".join((f"{task.name}({', '.join((*regions, *units))})", *declared))
    return described.replace(MARK, " of ")


def _text(shardings: Shardings) -> str:
    """Where the arguments lie, the same text in every process."""
    return "; ".join(
        f"{name}: "
        + ("irregular" if by_axis is None else ", ".join(f"{a}={s!r}" for a, s in by_axis.items()))
        for name, by_axis in sorted(shardings.items())
    )
