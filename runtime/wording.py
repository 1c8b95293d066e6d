"""Values and regions as text that is the same in every process, for ranks to compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from hashlib import blake2b
from typing import Any

from specinfer.runtime.arrays import bits
from specinfer.runtime.binding import Binding
from specinfer.runtime.future import Future, FutureMap, Parameter
from specinfer.runtime.partition import Colour, Partition, Projected, Projection
from specinfer.runtime.region import Region, Subregion

MARK = "\t"
"""Between the name of a region argument or projection, and what it is exactly; text of other values
has none."""

_PLAIN = frozenset({int, float, bool, str, bytes, complex, type(None)})
_LONG = 200
_SMALL = 8


def digest_of(text: str) -> str:
    """A short digest of a text."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def text_of(value: Any) -> str:
    """A value as text: equal on two ranks where the values are.

    Long texts and arrays are cut and told apart by their digests. What has no value that could be
    compared gives the name of its type.

    >>> text_of((1, "a")), text_of({"k": 2.0}), text_of(object())
    ("(1, 'a')", "{'k': 2.0}", '<object>')
    """
    kind = type(value)
    if kind in _PLAIN:
        return _cut(repr(value))
    if kind is tuple or kind is list:
        if _PLAIN.issuperset(map(type, value)):
            return _cut(repr(value))
        return _cut(f"({', '.join(map(text_of, value))})")
    if kind is Parameter:  # which refuses to be looked at
        return repr(value)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _cut(_array_text(value))
    return _cut(_other_text(value))


def _other_text(value: Any) -> str:
    match value:
        case Future():
            at = "" if value.colour is None else f" at point {value.colour}"
            return f"future of launch {value.launch}{at}"
        case FutureMap():
            first = next(iter(value), None)
            return f"{len(value)} futures of launch {None if first is None else first.launch}"
        case Region() | Subregion() | Partition() | Projected() | Projection():
            return str(value)
        case Mapping():
            return "{" + ", ".join(f"{text_of(k)}: {text_of(v)}" for k, v in value.items()) + "}"
        case set() | frozenset():  # in the order of their text: their own differs between processes
            return "{" + ", ".join(sorted(map(text_of, value))) + "}"
        case int() | float() | str() | bytes():  # an enumeration, or another kind of number
            return f"{type(value).__name__}({value!s})"
    if is_dataclass(value) and not isinstance(value, type):
        inside = (f"{f.name}={text_of(getattr(value, f.name))}" for f in fields(value) if f.compare)
        return f"{type(value).__name__}({', '.join(inside)})"
    name = getattr(value, "__qualname__", None)
    return str(name) if name else f"<{type(value).__name__}>"


def _array_text(array: Any) -> str:
    kind, shape = _name_of(array.dtype), tuple(array.shape)
    if hasattr(array, "detach"):  # torch: NumPy looks only at what needs no gradient and is near
        array = array.detach()
        if array.device.type != "cpu":
            return f"{kind} array {shape} on {array.device.type}"
    memory = bits(array if shape else array.reshape(1))
    if memory.size <= _SMALL:
        return f"{kind} array {memory.reshape(shape).tolist()}"
    return f"{kind} array {shape} digest {blake2b(memory.tobytes(), digest_size=8).hexdigest()}"


@cache
def _name_of(dtype: Any) -> str:
    return str(dtype)


def _cut(text: str) -> str:
    if len(text) <= _LONG:
        return text
    return f"{text[: _LONG // 2]}... ({len(text)} characters, digest {digest_of(text)})"


def projected_text(projection: Projection, points: Iterable[Colour | None]) -> str:
    r"""A projection that is a value, as text: its name, and what it gives for each point.

    >>> projected_text(Projection("half", lambda point: point // 2), range(4))
    'half\t(0, 0, 1, 1)'
    """
    given = tuple(projection.colour(point) for point in points)
    return f"{projection}{MARK}{text_of(given)}"


def region_text(binding: Binding, name: str) -> str:
    """A region argument as text.

    Its name comes first; behind a mark, what tells apart those of the same name: the number, shape
    and fields of the region, and the points that each point of the launch uses.
    """
    parts = {point.colour: point.parts[name] for point in binding.points}
    regions = binding.regions[name]
    whole = regions.partition.whole if isinstance(regions, Projected) else regions
    region = whole.region
    kinds = ", ".join(f"{field}: {kind}" for field, kind in region.fields.items())
    exact = f"region {region.id} of shape {region.shape} with {kinds}"
    spaces = "; ".join(f"{colour}: {part.space} {part.fields}" for colour, part in parts.items())
    privilege = binding.task.privileges[name]
    return f"{privilege} {regions}{MARK}{_cut(exact)}, parts {digest_of(spaces)}"
