"""A verified token tree for Graphviz: a drawing to keep, where the terminal's is to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.engine import Event
from specinfer.scheduler.token_tree import TokenTree

RIGHT = ', style=filled, fillcolor="palegreen"'


def to_dot(
    tree: TokenTree,
    accepted: Sequence[int],
    words: Callable[[int], str],
    name: str = "tree",
    own: Sequence[int] = (),
) -> str:
    """Graphviz's DOT of a tree, its accepted path in green.

    Args:
        tree: what was guessed.
        accepted: its nodes on the accepted path, without the root.
        words: a token as text.
        name: of the graph.
        own: the LLM's token behind them, in a bold frame; none if the text ended before.

    >>> tree = TokenTree(0)
    >>> red, dark = tree.add(0, 1), tree.add(0, 2)
    >>> print(to_dot(tree, [red], ["is", "red", "dark", "!"].__getitem__, own=[3]), end="")
    digraph "tree" {
      node [shape=box, fontname="monospace"];
      n0 [label="is", style=filled, fillcolor="palegreen"];
      n1 [label="red", style=filled, fillcolor="palegreen"];
      n2 [label="dark"];
      own [label="!", style=bold];
      n0 -> n1 [penwidth=2];
      n0 -> n2;
      n1 -> own [style=dashed];
    }
    """
    return "".join(f"{line}\n" for line in _lines(tree, accepted, words, name, own))


def _lines(
    tree: TokenTree,
    accepted: Sequence[int],
    words: Callable[[int], str],
    name: str,
    own: Sequence[int],
) -> Iterator[str]:
    right = {0, *accepted}
    yield f"digraph {_quoted(name)} {{"
    yield '  node [shape=box, fontname="monospace"];'
    for node, token in enumerate(tree.tokens):
        yield f"  n{node} [label={_quoted(words(token))}{RIGHT if node in right else ''}];"
    if own:
        yield f"  own [label={_quoted(words(own[0]))}, style=bold];"
    for node in range(1, len(tree)):
        width = " [penwidth=2]" if node in right else ""
        yield f"  n{tree.parents[node]} -> n{node}{width};"
    if own:
        yield f"  n{accepted[-1] if accepted else 0} -> own [style=dashed];"
    yield "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def written(
    events: Iterable[Event],
    path: Path,
    words: Callable[[int], str],
    number_of: Mapping[int, int],
    num_steps: int = 0,
) -> Iterator[Event]:
    """Pass events on, and write their trees into a file: a graph for each step that verified one.

    Args:
        events: of an engine.
        path: of the file.
        words: a token as text.
        number_of: each request's, from 0, by its id.
        num_steps: of each request; 0: all.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    steps = Counter[int]()
    with file:
        for event in events:
            if event.tree is not None:
                steps[event.request.id] += 1
                step, text = steps[event.request.id], number_of[event.request.id] + 1
                if step <= num_steps or not num_steps:
                    name, own = f"text {text} step {step}", event.tokens[len(event.accepted) :]
                    file.write(to_dot(event.tree, event.accepted, words, name, own))
            yield event
