"""A mapper written as YAML: rules for launches, by the names of tasks and regions.

The first rule that fits a launch decides; a launch without one follows its data.

    mesh: {data: 2, tensor: 2}
    launches:
      - {region: "*.q_proj.weight", divide: features, over: tensor, units: 3}
      - {task: add, divide: rows, over: tensor}
      - {task: accept, rank: 0}
      - {task: "embed*", everywhere: true}
      - {task: linear, divide: {features: tensor, rows: data}}
    points: [{task: "stencil*", points: cyclic}]
    messages: [broadcast]
    traces: {"draft*": false}
    memories: {"kv*": cpu}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from specinfer.runtime.binding import Binding
from specinfer.runtime.config import read_yaml
from specinfer.runtime.errors import ConfigError, LaunchError
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
from specinfer.runtime.partition import Colour, Projected
from specinfer.runtime.region import Region
from specinfer.runtime.sharding import Block, share

POINTS = ("blocks", "cyclic", "everywhere")
TRANSFERS = ("send", "broadcast", "all-gather", "all-to-all")
KEYS = ("mesh", "processors", "launches", "points", "messages", "traces", "memories")
RULE_KEYS = ("task", "region", "divide", "over", "units", "rank", "everywhere")


@dataclass(frozen=True, slots=True)
class Rule:
    """Where the launches run that fit it.

    Attributes:
        where: its place in the file, for messages.
        task: pattern of the task's name.
        region: pattern of the name of some region argument; None: any will do.
        divide: mesh axis by axis of the task; empty: not divided.
        units: block bounds lie at multiples of an axis' extent by this; None: anywhere.
        rank: the one that runs it; None: all do.
    """

    where: str
    task: str
    region: str | None
    divide: Mapping[str, str]
    units: int | None
    rank: int | None

    def fits(self, launch: Binding) -> bool:
        """Whether it decides about a launch."""
        if not fnmatchcase(launch.task.name, self.task):
            return False
        return self.region is None or any(
            fnmatchcase(region_of(argument).name, self.region)
            for argument in launch.regions.values()
        )

    def place(self, launch: Binding, mesh: Mesh) -> Where:
        """Its answer."""
        if self.rank is not None:
            return On(self.rank)
        if not launch.task.is_pure and mesh.num_ranks > 1:
            raise ConfigError(
                f"{self.where}: puts {launch} on several ranks, expected a task that is declared "
                "pure, or `rank`"
            )
        if not self.divide:
            return Everywhere()
        divided: dict[str, tuple[str, tuple[Block, ...] | None]] = {}
        for axis, over in self.divide.items():
            blocks = self._blocks(launch, axis, mesh.size(over))
            if blocks is None:
                return Everywhere()
            divided[over] = axis, blocks
        return Divided(divided)

    def _blocks(self, launch: Binding, axis: str, ranks: int) -> tuple[Block, ...] | None:
        known = divisible_axes(launch.task)
        if axis not in known:
            raise ConfigError(
                f"{self.where}: divides {launch} along {axis!r}, expected an axis that the task "
                f"can be divided along: {', '.join(known) or 'none'}"
            )
        try:
            count = launch.units(axis).count
        except LaunchError as error:
            raise ConfigError(f"{self.where}: divides {launch} along {axis!r}: {error}") from None
        if self.units is None:
            return share(count, ranks)
        if count % self.units:
            raise ConfigError(
                f"{self.where}.units is {self.units}, expected a divisor of the {count} units of "
                f"axis {axis} in {launch}"
            )
        if self.units < ranks:
            return None  # some rank would get nothing of what cannot be cut
        size = count // self.units
        return tuple((low * size, high * size) for low, high in share(self.units, ranks))


class YamlMapper(Mapper):
    """Rules for launches, from a file or a mapping.

    Args:
        source: path of a YAML file, or what one holds.
        name: what messages call the source; by default its path, if it has one.
        more: rules for launches that none of the source's fits.

    Raises:
        ConfigError: a file that cannot be read, or a key or value that cannot be used.

    >>> mapper = YamlMapper({"mesh": {"tensor": 2}, "launches": [{"task": "add", "rank": 1}]})
    >>> str(mapper.mesh), mapper.rules[0].rank
    ('tensor=2', 1)
    """

    def __init__(
        self,
        source: str | Path | Mapping[str, Any],
        *,
        name: str | None = None,
        more: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        data, where = source, name or "mapper"
        if isinstance(source, str | Path):
            data, where = read_yaml(Path(source)), name or str(source)
        given = _mapping(data, where)
        _known(given, KEYS, where)
        processors = given.get("processors", ["cpu"])
        if not isinstance(processors, list) or not all(isinstance(p, str) for p in processors):
            raise ConfigError(f"{where}.processors: expected a list of names, got {processors!r}")
        super().__init__(_mesh(given.get("mesh", {"ranks": 1}), where), processors)
        self.rules = tuple(
            _rule(rule, f"{where}.launches[{i}]", self.mesh)
            for i, rule in enumerate(_list(given.get("launches", []), f"{where}.launches"))
        )
        self.rules += tuple(
            _rule(rule, f"the program's launches[{i}]", self.mesh) for i, rule in enumerate(more)
        )
        self._points = _points(given.get("points", POINTS[0]), f"{where}.points")
        messages = given.get("messages", False)
        if isinstance(messages, bool):
            messages = list(TRANSFERS) if messages else []
        if unknown := [
            kind for kind in _list(messages, f"{where}.messages") if kind not in TRANSFERS
        ]:
            raise ConfigError(
                f"{where}.messages: {unknown[0]!r} is no transfer, expected some of "
                f"{', '.join(TRANSFERS)}"
            )
        self._messages = frozenset(messages)
        self._traces = _mapping(given.get("traces", {}), f"{where}.traces")
        for pattern, value in self._traces.items():
            if not isinstance(value, bool):
                raise ConfigError(
                    f"{where}.traces.{pattern}: expected true or false, got {value!r}"
                )
        self._memories = _mapping(given.get("memories", {}), f"{where}.memories")
        for pattern, value in self._memories.items():
            if not isinstance(value, str):
                raise ConfigError(f"{where}.memories.{pattern}: expected a name, got {value!r}")

    def place(self, launch: Binding, shardings: Shardings) -> Where:
        """By the first rule that fits, else where its data are."""
        for rule in self.rules:
            if rule.fits(launch):
                return rule.place(launch, self.mesh)
        return super().place(launch, shardings)

    def shard(self, launch: Binding, point: Colour, number: int, count: int) -> int | None:
        """Blocks of points, or one point after another.

        Or every point everywhere, where that may be: of pure tasks whose points need not run at
        the same time.
        """
        how = _first(self._points, launch.task.name, POINTS[0])
        if how == "everywhere" and launch.task.is_pure and not launch.task.is_collective:
            return None
        if how == "cyclic":
            return number % self.mesh.num_ranks
        return super().shard(launch, point, number, count)

    @property
    def memories(self) -> list[str]:
        """The memories that regions may be put into, each once."""
        return list(dict.fromkeys(["cpu", *map(str, self._memories.values())]))

    def memory(self, region: Region) -> str:
        """Of the first pattern that fits the region."""
        return str(_first(self._memories, region.name, super().memory(region)))

    def as_messages(self, kind: str, num_bytes: int) -> bool:
        """As listed."""
        return kind in self._messages

    def replays(self, trace: str) -> bool:
        """Of the first pattern that fits the trace."""
        return bool(_first(self._traces, trace, True))


def region_of(argument: Any) -> Region:
    """The region behind an argument of a launch."""
    part = argument.partition.whole if isinstance(argument, Projected) else argument
    region: Region = part.region
    return region


def _rule(data: Any, where: str, mesh: Mesh) -> Rule:
    given = _mapping(data, where)
    _known(given, RULE_KEYS, where)
    if not {"task", "region"} & set(given):
        raise ConfigError(f"{where}: expected `task` or `region`, or both")
    if len({"divide", "rank", "everywhere"} & set(given)) != 1:
        raise ConfigError(f"{where}: expected one of `divide`, `rank` and `everywhere`")
    for name in ("task", "region", "over"):
        if not isinstance(given.get(name, ""), str):
            raise ConfigError(f"{where}.{name}: expected a text, got {given[name]!r}")
    for name in ("units", "rank"):
        if name in given and (type(given[name]) is not int or given[name] < (name == "units")):
            raise ConfigError(f"{where}.{name}: expected a number, got {given[name]!r}")
    if "rank" in given and given["rank"] >= mesh.num_ranks:
        raise ConfigError(
            f"{where}.rank is {given['rank']}, but the mesh {mesh} has {mesh.num_ranks} ranks"
        )
    if given.get("everywhere", True) is not True:
        raise ConfigError(f"{where}.everywhere: expected true, or no such key")
    for name in ("over", "units"):
        if name in given and "divide" not in given:
            raise ConfigError(f"{where}.{name}: expected with `divide` only")
    return Rule(
        where,
        given.get("task", "*"),
        given.get("region"),
        _divide(given, where, mesh) if "divide" in given else {},
        given.get("units"),
        given.get("rank"),
    )


def _divide(given: Mapping[str, Any], where: str, mesh: Mesh) -> dict[str, str]:
    """Axes of the mesh by axes of the task."""
    divide = given["divide"]
    if isinstance(divide, str):
        if "over" not in given:
            raise ConfigError(f"{where}.over: missing; expected an axis of the mesh {mesh}")
        divide = {divide: given["over"]}
    elif "over" in given:
        raise ConfigError(f"{where}.over: expected with one axis, `divide: NAME`, only")
    divide = _mapping(divide, f"{where}.divide")
    if not divide:
        raise ConfigError(f"{where}.divide: expected an axis, or `everywhere: true`")
    for axis, over in divide.items():
        try:
            mesh.size(over)
        except ConfigError as error:
            raise ConfigError(f"{where}.divide.{axis}: {error}") from None
        if list(divide.values()).count(over) > 1:
            raise ConfigError(
                f"{where}.divide.{axis} is {over}, which another axis is divided over, too; "
                "expected one axis of the task for each axis of the mesh"
            )
    return divide


def _mesh(data: Any, where: str) -> Mesh:
    try:
        return Mesh.of(_mapping(data, "mesh"))
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}") from None


def _points(data: Any, where: str) -> dict[str, str]:
    """How points are spread, by pattern of the task's name."""
    rules = [{"points": data}] if isinstance(data, str) else _list(data, where)
    found: dict[str, str] = {}
    for i, rule in enumerate(rules):
        here = where if isinstance(data, str) else f"{where}[{i}].points"
        given = _mapping(rule, f"{where}[{i}]")
        _known(given, ("task", "points"), f"{where}[{i}]")
        task, how = given.get("task", "*"), given.get("points")
        if how not in POINTS:
            raise ConfigError(f"{here} is {how!r}, expected {' or '.join(POINTS)}")
        if not isinstance(task, str):
            raise ConfigError(f"{where}[{i}].task: expected a text, got {task!r}")
        found.setdefault(task, how)
    return found


def _first(patterns: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    for pattern, value in patterns.items():
        if fnmatchcase(name, pattern):
            return value
    return otherwise


def _mapping(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"{where}: expected a mapping, got {data!r}")
    return dict(data)


def _list(data: Any, where: str) -> Sequence[Any]:
    if not isinstance(data, list | tuple):
        raise ConfigError(f"{where}: expected a list, got {data!r}")
    return data


def _known(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise ConfigError(f"{where}.{key}: unknown key; known: {', '.join(known)}")
