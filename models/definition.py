"""Model definitions: YAML files that build operator graphs from a checkpoint's own configuration.

A definition has four parts:

``model_type``  the values of the checkpoint's ``model_type`` that it is for
``require``     configuration keys with the values that the graph is right for; absent keys pass
``parameters``  names for numbers: a key of the configuration, ``{key, default}``, or a formula
``graph``       operators, and ``{repeat, as, body}`` blocks

A text that starts with ``=`` is a formula over the parameters; ``{name}`` in a text is filled in.
A user adds a model by writing such a file.
"""

from __future__ import annotations

import ast
import operator as arithmetic
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from specinfer.models.errors import GraphError
from specinfer.models.graph import Graph

_SECTIONS = {"model_type", "require", "parameters", "graph"}
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Definition:
    """A parsed definition; see the module's text for its parts."""

    name: str
    model_types: tuple[str, ...]
    require: Mapping[str, list[Any]]
    parameters: Mapping[str, Any]
    graph: list[Mapping[str, Any]]

    def evaluate(self, config: Mapping[str, Any], **overrides: Any) -> dict[str, Any]:
        """The values of the parameters for a checkpoint.

        Args:
            config: the checkpoint's configuration.
            overrides: parameters to set by hand, such as ``layers`` for a prefix of a model.

        Raises:
            GraphError: a required value that the graph is not right for, or a key that is missing.
        """
        for key, allowed in self.require.items():
            value = _lookup(config, key)
            if value is not _MISSING and value not in allowed:
                raise GraphError(
                    f"{self.name}: the checkpoint has {key} = {value!r}, "
                    f"expected {' or '.join(map(repr, allowed))}"
                )
        if unknown := sorted(set(overrides) - set(self.parameters)):
            raise GraphError(f"{self.name}: no parameter {unknown[0]!r} to override")
        values: dict[str, Any] = {}
        for name, source in self.parameters.items():
            values[name] = (
                overrides[name] if name in overrides else self._value(name, source, config, values)
            )
        return values

    def _value(
        self, name: str, source: Any, config: Mapping[str, Any], known: Mapping[str, Any]
    ) -> Any:
        where = f"{self.name}: parameters.{name}"
        if isinstance(source, str) and source.startswith("="):
            return formula(source[1:], known, where)
        keys = source.get("key") if isinstance(source, Mapping) else source
        if not isinstance(keys, (str, list)):
            raise GraphError(f"{where}: found {source!r}, expected a key or keys, or a formula")
        for key in keys if isinstance(keys, list) else [keys]:
            value = _lookup(config, key)
            if value is not _MISSING and value is not None:
                return value
        if isinstance(source, Mapping) and "default" in source:
            return _fill(source["default"], known, where)
        raise GraphError(f"{where}: the checkpoint's configuration has no {keys!r}")

    def build(self, config: Mapping[str, Any], **overrides: Any) -> Graph:
        """The operator graph of a checkpoint.

        Raises:
            GraphError: what :meth:`evaluate` or :meth:`Graph.op` refuses, with the place.
        """
        graph = Graph(self.name)
        scope = _Scope(graph, {tensor.name: tensor for tensor in graph.inputs})
        scope.run(self.graph, self.evaluate(config, **overrides), f"{self.name}: graph")
        return graph


class _Scope:
    """Runs the lines of a ``graph`` section; a name stands for the tensor it was last given."""

    def __init__(self, graph: Graph, tensors: dict[str, Any]) -> None:
        self._graph = graph
        self._tensors = tensors

    def run(self, lines: list[Mapping[str, Any]], values: Mapping[str, Any], where: str) -> None:
        for number, line in enumerate(_expect(lines, list, where)):
            here = f"{where}[{number}]"
            if "repeat" in _expect(line, dict, here):
                if set(line) != {"repeat", "as", "body"}:
                    raise GraphError(f"{here}: found {sorted(line)}, expected repeat, as and body")
                count = _expect(_fill(line["repeat"], values, here), int, f"{here}.repeat")
                for i in range(count):
                    self.run(line["body"], {**values, line["as"]: i}, f"{here}.body")
            else:
                self._operator(line, values, here)

    def _operator(self, line: Mapping[str, Any], values: Mapping[str, Any], here: str) -> None:
        given = dict(line)
        try:
            kind, inputs, out = given.pop("op"), given.pop("in"), given.pop("out")
        except KeyError as error:
            raise GraphError(f"{here}: {error} is missing; found {sorted(line)}") from None
        tensors = []
        _expect(kind, str, f"{here}.op")
        _expect(out, str, f"{here}.out")
        for name in inputs if isinstance(inputs, list) else [inputs]:
            if _expect(name, str, f"{here}.in") not in self._tensors:
                raise GraphError(f"{here}: no tensor {name!r} has been made yet")
            tensors.append(self._tensors[name])
        filled = {key: _fill(value, values, f"{here}.{key}") for key, value in given.items()}
        try:
            self._tensors[out] = self._graph.op(kind, *tensors, out=self._unique(out), **filled)
        except GraphError as error:
            raise GraphError(f"{here}: {str(error).partition(': ')[2]}") from None

    def _unique(self, out: str) -> str:
        taken = sum(node.out.name.partition("#")[0] == out for node in self._graph.nodes)
        return f"{out}#{taken}" if taken else out


def load_definition(source: str | Path) -> Definition:
    """Read a definition from a file.

    Raises:
        GraphError: the file cannot be read as a definition.
    """
    path = Path(source)
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise GraphError(f"{path}: {' '.join(str(error).split())}") from None
    if (
        not isinstance(data, dict)
        or set(data) - _SECTIONS
        or not {"parameters", "graph"} <= set(data)
    ):
        found = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise GraphError(f"{path}: found {found}, expected the sections {sorted(_SECTIONS)}")

    def section(name: str, kind: type) -> Any:
        return _expect(kind() if data.get(name) is None else data[name], kind, f"{path}: {name}")

    require = section("require", dict)
    for key, allowed in require.items():
        _expect(allowed, list, f"{path}: require.{key}")
    return Definition(
        path.stem,
        tuple(section("model_type", list)),
        require,
        section("parameters", dict),
        section("graph", list),
    )


def zoo() -> dict[str, Definition]:
    """The definitions that come with the package, by the model types they are for."""
    folder = files("specinfer.models") / "zoo"
    found = [load_definition(str(f)) for f in folder.iterdir() if f.name.endswith(".yaml")]
    return {kind: d for d in sorted(found, key=lambda d: d.name) for kind in d.model_types}


def definition_for(config: Mapping[str, Any]) -> Definition:
    """The definition of the zoo for a checkpoint's ``model_type``.

    Raises:
        GraphError: there is none.
    """
    known, kind = zoo(), config.get("model_type")
    if kind not in known:
        raise GraphError(
            f"model_type {kind!r}: no definition; known: {', '.join(known)}. "
            "Write one in YAML and name it with --definition"
        )
    return known[str(kind)]


MAX_POWER = 16
"""Largest power of a formula: a file must not keep the machine busy for ever."""

_BINARY = {
    ast.Add: arithmetic.add,
    ast.Sub: arithmetic.sub,
    ast.Mult: arithmetic.mul,
    ast.Div: arithmetic.truediv,
    ast.FloorDiv: arithmetic.floordiv,
    ast.Pow: arithmetic.pow,
}


def formula(text: str, values: Mapping[str, Any], where: str) -> Any:
    """Arithmetic over named values, and ``a if condition else b``.

    >>> formula("heads * size", {"heads": 9, "size": 64}, "here")
    576

    Raises:
        GraphError: anything else, or a name without a value.
    """

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=constant):
                return constant
            case ast.Name(id=name) if name in values:
                return values[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                first, second = value(left), value(right)
                if isinstance(op, ast.Pow) and not -MAX_POWER <= second <= MAX_POWER:
                    raise GraphError(
                        f"{where}: power {second} of {text.strip()!r}, expected at most {MAX_POWER}"
                    )
                return _BINARY[type(op)](first, second)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return value(body) if value(test) else value(orelse)
        raise GraphError(f"{where}: cannot evaluate {ast.unparse(node)!r} of {text.strip()!r}")

    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError:
        raise GraphError(f"{where}: {text.strip()!r} is not a formula") from None
    except (ArithmeticError, TypeError, ValueError) as error:
        raise GraphError(f"{where}: {text.strip()!r}: {error}") from None


def _fill(value: Any, values: Mapping[str, Any], where: str) -> Any:
    if not isinstance(value, str):
        return value
    if value.startswith("="):
        return formula(value[1:], values, where)
    try:
        return value.format_map(values)
    except (AttributeError, LookupError, TypeError, ValueError):
        raise GraphError(f"{where}: {value!r} names something that is not a parameter") from None


def _expect(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        raise GraphError(f"{where}: found {value!r}, expected {_KINDS[kind]}")
    return value


_KINDS = {str: "a name", int: "a number", list: "a list", dict: "keys and values"}


def _lookup(config: Mapping[str, Any], key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _MISSING
        found = found[part]
    return found
