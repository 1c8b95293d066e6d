"""Task graphs as text, as networkx graphs, and as DOT.

A recorded graph (:class:`specinfer.runtime.executor.record.RecordingExecutor`) has a node for each
launch. What is printed of it is decided here; where it is printed, by the caller.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx

from specinfer.runtime.call import Call
from specinfer.runtime.dependence import Requirement
from specinfer.runtime.executor import Operation
from specinfer.runtime.region import Subregion


@dataclass(frozen=True, slots=True)
class Repeated:
    """A stretch of a sequence that comes several times, one right behind the other.

    Attributes:
        start: where the first one begins.
        length: of one of them.
        count: how often it comes.
    """

    start: int
    length: int
    count: int

    @property
    def folded(self) -> range:
        """Positions of all but the first one."""
        return range(self.start + self.length, self.start + self.length * self.count)


def find_repeated(kinds: Sequence[Hashable]) -> Repeated | None:
    """The stretch whose repetitions make up the most of a sequence; None if nothing repeats.

    >>> find_repeated("embed norm linear add norm linear add norm linear add head".split())
    Repeated(start=1, length=3, count=3)
    """
    best: Repeated | None = None
    for length in range(1, len(kinds) // 2 + 1):
        run = 0  # positions in a row that are like the one `length` behind them
        for at in range(len(kinds) - length + 1):
            if at + length < len(kinds) and kinds[at] == kinds[at + length]:
                run += 1
                continue
            if run >= length:
                found = Repeated(at - run, length, run // length + 1)
                if best is None or len(found.folded) > len(best.folded):
                    best = found
            run = 0
    return best


def launch_kind(launch: Call) -> Hashable:
    """What launches of repeated parts of a program share: the task, and the shapes it is given."""
    return launch.task.name, tuple(
        value.space.shape if isinstance(value, Subregion) else repr(value)
        for value in launch.arguments.values()
    )


def describe_launch(graph: nx.DiGraph, id: int) -> str:
    """One line: number, task with privileges and regions, and the launches it waits for.

    Those that it waits for only because their temporary values had its bytes are counted.
    """
    for_memory = waits_for_memory(graph, id)
    waits = ", ".join(str(n) for n in sorted(graph.predecessors(id)) if n not in for_memory)
    count = f"{len(for_memory)} for memory" if for_memory else ""
    if waits and count:
        count = f" (+ {count})"
    after = f" after {waits}{count}" if waits or count else ""
    return f"{id:>4} {graph.nodes[id]['launch']}{after}"


def waits_for_memory(graph: nx.DiGraph, id: int) -> set[int]:
    """Launches that one waits for without need of their data: they share bytes of an arena only."""
    own = _of_data(graph.nodes[id]["launch"])
    return {
        earlier
        for earlier in graph.predecessors(id)
        if not any(
            one.conflicts_with(other)
            for one in _of_data(graph.nodes[earlier]["launch"])
            for other in own
        )
    }


def _of_data(operation: Operation) -> list[Requirement]:
    return [need for need in operation.requirements if not _is_of_arena(need.key)]


def _is_of_arena(key: Hashable) -> bool:
    """Whether it is :attr:`specinfer.runtime.region.Storage.key`."""
    return isinstance(key, tuple) and key[0] == "arena"


def launch_record(graph: nx.DiGraph, id: int) -> dict[str, Any]:
    """The same as plain values, for JSON."""
    launch: Call = graph.nodes[id]["launch"]
    privileges = launch.task.privileges
    return {
        "id": id,
        "task": launch.task.name,
        "arguments": {
            name: f"{privileges[name]} {value}" if name in privileges else repr(value)
            for name, value in launch.arguments.items()
        },
        "waits_for": sorted(graph.predecessors(id)),
        "waits_for_memory": sorted(waits_for_memory(graph, id)),
    }


def fold(graph: nx.DiGraph, nodes: Sequence[Hashable], label: str) -> nx.DiGraph:
    """The graph with ``nodes`` drawn together to one of that label."""
    gone = set(nodes)
    folded = nx.DiGraph()
    for node, data in graph.nodes(data=True):
        if node not in gone:
            folded.add_node(node, **data)
        elif label not in folded:
            folded.add_node(label, label=label)
    for source, target in graph.edges:
        ends = label if source in gone else source, label if target in gone else target
        if ends[0] != ends[1]:
            folded.add_edge(*ends)
    return folded


def to_dot(graph: nx.DiGraph, name: str) -> str:
    """Graphviz's DOT of a graph; a node is shown as its ``label``, else as itself.

    >>> print(to_dot(nx.DiGraph([("a", "b")]), "tiny"), end="")
    digraph "tiny" {
      node [shape=box, fontname="monospace"];
      n0 [label="a"];
      n1 [label="b"];
      n0 -> n1;
    }
    """
    return "".join(f"{line}\n" for line in _dot_lines(graph, name))


def _dot_lines(graph: nx.DiGraph, name: str) -> Iterator[str]:
    number = {node: n for n, node in enumerate(graph)}
    yield f"digraph {_quoted(name)} {{"
    yield '  node [shape=box, fontname="monospace"];'
    for node, data in graph.nodes(data=True):
        yield f"  n{number[node]} [label={_quoted(str(data.get('label', node)))}];"
    for source, target in graph.edges:
        yield f"  n{number[source]} -> n{number[target]};"
    yield "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
