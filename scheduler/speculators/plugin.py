"""Loads a speculator that somebody else wrote, by its dotted path.

What is found is looked at before it is used: it must have what :class:`Speculator` asks for, and
its methods must take what they will be given. So are its trees: one that does not fit would be an
error far from here, or another request's.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.errors import TreeError
from specinfer.scheduler.speculators import Context, Speculator
from specinfer.scheduler.token_tree import TokenTree


class PluginSpeculator:
    """A speculator whose trees are looked at.

    Args:
        where: what it is called in errors.
        own: the speculator.
    """

    def __init__(self, where: str, own: Speculator) -> None:
        self.name, self.max_nodes = own.name, own.max_nodes
        self.accept, self.release = own.accept, own.release
        self._where = where
        self._own = own

    def draft(self, contexts: Sequence[Context]) -> list[TokenTree]:
        """Its trees.

        Raises:
            TreeError: one is not of its request, or larger than it may be.
        """
        trees = self._own.draft(contexts)
        if len(trees) != len(contexts):
            raise TreeError(f"{self._where}: {len(trees)} trees for {len(contexts)} requests")
        for context, tree in zip(contexts, trees, strict=True):
            self._check(context, tree)
        return trees

    def _check(self, context: Context, tree: TokenTree) -> None:
        where = f"{self._where}, request {context.request}"
        if tree.root != context.tokens[-1]:
            last = context.tokens[-1]
            raise TreeError(
                f"{where}: a tree's root is {tree.root}, expected the last token {last}"
            )
        if len(tree) - 1 > self.max_nodes:
            nodes = len(tree) - 1
            raise TreeError(f"{where}: a tree of {nodes} nodes, expected at most {self.max_nodes}")
        if (depth := max(tree.depths)) > context.max_depth:
            raise TreeError(f"{where}: a tree of depth {depth}, expected {context.max_depth}")


def load_plugin(path: str, options: Mapping[str, Any]) -> PluginSpeculator:
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
    return PluginSpeculator(where, speculator)


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
