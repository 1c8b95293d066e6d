"""Loads a speculator that somebody else wrote, by its dotted path.

What is found is looked at before it is used: it must have what :class:`Speculator` asks for, and
its methods must take what they will be given.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, cast

from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.speculators import Speculator


def load_plugin(path: str, options: Mapping[str, Any]) -> Speculator:
    """The speculator that a class, or a function, makes.

    Args:
        path: ``package.module:Class``.
        options: its keyword arguments.

    Raises:
        ConfigError: it cannot be imported or made, or lacks something; the message says what.
    """
    where = f"plugin {path}"
    make = _imported(path, where)
    try:
        speculator = make(**options)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise ConfigError(f"{where}: {make.__name__}({given}) failed: {error}") from error
    if wrong := list(_wrong(speculator)):
        raise ConfigError(f"{where}: {'; '.join(wrong)}")
    return cast(Speculator, speculator)


def _imported(path: str, where: str) -> Any:
    module_name, colon, name = path.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module_name.split("."), name]):
        raise ConfigError(f"{where}: expected package.module:Class")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{where}: there is no module {error.name}; expected one that is installed, or "
                "whose folder is in PYTHONPATH"
            ) from error
        raise ConfigError(f"{where}: importing it failed: {error}") from error
    except Exception as error:
        raise ConfigError(f"{where}: importing it failed: {error!r}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigError(f"{where}: {module_name} has no class {name}")
    return found


def _wrong(speculator: object) -> Iterator[str]:
    """What a speculator lacks."""
    asked = {name: what for name, what in vars(Speculator).items() if not name.startswith("_")}
    if missing := [name for name in asked if not hasattr(speculator, name)]:
        yield f"{type(speculator).__name__} has no {', no '.join(missing)}"
        return
    name, max_nodes = speculator.name, speculator.max_nodes  # type: ignore[attr-defined]
    if not isinstance(name, str) or not name:
        yield f"name is {name!r}, expected a text"
    if type(max_nodes) is not int or max_nodes < 1:
        yield f"max_nodes is {max_nodes!r}, expected a number of at least 1"
    for method, what in asked.items():
        if inspect.isfunction(what):
            yield from _wrong_call(getattr(speculator, method), method, what)


def _wrong_call(method: Any, name: str, asked: Any) -> Iterator[str]:
    expected = list(inspect.signature(asked).parameters)[1:]
    try:
        inspect.signature(method).bind(*expected)
    except TypeError:
        yield f"{name} cannot be called as {name}({', '.join(expected)})"
