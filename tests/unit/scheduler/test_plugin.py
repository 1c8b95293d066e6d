"""Speculators by dotted path: what cannot be used is refused, with what is wrong about it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import Sizes, make_bench, plain_greedy, tiny_config, tiny_model

from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.config import Plugin
from specinfer.scheduler.errors import TreeError
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators import Context
from specinfer.scheduler.speculators.plugin import load_plugin

EXAMPLE = Path(__file__).parents[3] / "examples" / "speculator.py"
LLM = tiny_model(4, tiny_config(vocabulary=12))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that can be imported as ``some_plugin``; it begins as the example."""
    path = tmp_path / "some_plugin.py"
    path.write_text(EXAMPLE.read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    sys.modules.pop("some_plugin", None)


@pytest.mark.usefixtures("module")
def test_the_example_speculates_for_an_engine() -> None:
    speculator = load_plugin("some_plugin:Follower", {"max_nodes": 2})
    assert (speculator.name, speculator.max_nodes) == ("follower", 2)
    bench = make_bench(LLM, [speculator], Sizes())
    prompt = [1, 2, 3]
    (output,) = bench.write([Request(id=0, prompt=prompt, max_new_tokens=40)])
    assert output == plain_greedy(LLM, prompt, 40)
    stats = bench.engine.stats.as_dict()
    assert stats["acceptance_by_speculator"][0]["speculator"] == "follower"
    assert stats["acceptance_by_speculator"][0]["accepted"] > 0


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("Follower", "expected package.module:Class"),
        ("some_plugin:", "expected package.module:Class"),
        (":Follower", "expected package.module:Class"),
        ("some-plugin:Follower", "expected package.module:Class"),
        ("no_such.plugin:X", "there is no module no_such; expected one that is installed"),
        ("some_plugin.inner:X", r"there is no module some_plugin\.inner"),
        ("some_plugin:Leader", "some_plugin has no class Leader"),
        ("some_plugin:__doc__", "some_plugin has no class __doc__"),
    ],
)
def test_refuses_paths_that_lead_nowhere(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^plugin {path}: {message}"):
        load_plugin(path, {})


@pytest.mark.parametrize(
    ("first_line", "message"),
    [
        ("import no_such_library", "importing it failed: No module named 'no_such_library'"),
        ("1 / 0", r"importing it failed: ZeroDivisionError\('division by zero'\)"),
        ("def (", r"importing it failed: SyntaxError"),
    ],
)
def test_says_why_a_module_cannot_be_imported(module: Path, first_line: str, message: str) -> None:
    module.write_text(f"{first_line}\n")
    with pytest.raises(ConfigError, match=rf"^plugin some_plugin:Follower: {message}"):
        load_plugin("some_plugin:Follower", {})


@pytest.mark.usefixtures("module")
def test_refuses_options_that_the_class_does_not_take() -> None:
    message = r"plugin some_plugin:Follower: Follower\(size=3\) failed: .* argument 'size'"
    with pytest.raises(ConfigError, match=message):
        load_plugin("some_plugin:Follower", {"size": 3})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def accept(", "def take(", "Follower has no accept$"),
        ("def release(", "def free(", "Follower has no release$"),
        ('name = "follower"', "", "Follower has no name$"),
        ('name = "follower"', "name = 3", "name is 3, expected a text"),
        ("self.max_nodes = max_nodes", "self.max_nodes = 0", "max_nodes is 0, expected a number"),
        ("def release(self, request: int)", "def release(self)", r"release\(request\)"),
        ("def draft(self, contexts: Sequence[Context])", "def draft(self)", r"draft\(contexts\)"),
        ("def draft(", "draft = 3\n    def drafted(", r"draft cannot be called"),
    ],
)
def test_says_what_a_speculator_lacks(module: Path, old: str, new: str, message: str) -> None:
    text = module.read_text()
    assert old in text
    module.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=rf"^plugin some_plugin:Follower: .*{message}"):
        load_plugin("some_plugin:Follower", {})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("TokenTree(text[-1])", "TokenTree(11)", "root is 11, expected the last token 1"),
        ("tree.add(0, token)", "tree.add(tree.add(0, token), 3)", "4 nodes, expected at most 3"),
        ("if max_depth else 0", "", "depth 1, expected 0"),
        ("for context in contexts]", "for context in contexts[1:]]", "0 trees for 1 requests"),
    ],
)
def test_trees_that_do_not_fit_are_named(module: Path, old: str, new: str, message: str) -> None:
    text = module.read_text()
    assert old in text
    module.write_text(text.replace(old, new))
    speculator = load_plugin("some_plugin:Follower", {})
    depth = 0 if "depth 1" in message else 9
    with pytest.raises(TreeError, match=rf"^plugin some_plugin:Follower.*{message}"):
        speculator.draft([Context(7, [1, 2, 1, 3, 1], depth)])


def test_options_are_by_name() -> None:
    with pytest.raises(ValueError, match="expected a mapping by name"):
        Plugin("a:B", {1: 2})  # type: ignore[dict-item]


def test_the_example_can_be_imported_without_running() -> None:
    spec = importlib.util.spec_from_file_location("an_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
