"""What a profile tells of iterations: which model a task is of, who ran beside whom, and pauses.

Tasks are looked at in the order in which they were issued. A step of a model is a run of them, from
the loading of its batch to what is made of its logits; models are told from each other by how many
layers a step has. Trees are drawn first, and an iteration ends behind the LLM's acceptance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from specinfer.runtime.profile.intervals import Interval, length, minus, union
from specinfer.runtime.profile.record import Span

SCHEDULING = "scheduling"
"""Whose tasks are of no model: they say what is computed next, and where its K/V go."""

_STEP_BEGINS, _LAYER = "load_batch", "tree_attention"
_STEP_ENDS = ("propose", "expand", "accept")
_ITERATION_BEGINS = ("begin", _STEP_BEGINS)
_ITERATION_ENDS = "accept"
_OF_THE_RUNTIME = ("read", "start")
"""No tasks: the host reads a future, or begins to replay a trace."""


def both(left: Iterable[Interval], right: Iterable[Interval]) -> list[Interval]:
    """Every moment that lies in one of the intervals on both sides.

    >>> both([(0, 4), (6, 9)], [(2, 7), (3, 5), (9, 10)])
    [(2, 4), (6, 7)]
    """
    one, other = union(left), union(right)
    return minus(one, minus(one, other))


def idle(start: int, stop: int, spans: Iterable[Span]) -> int:
    """Nanoseconds from start to stop in which none of the spans ran; 0 if stop comes first."""
    if stop <= start:
        return 0
    return length(minus([(start, stop)], union((s.start, s.stop) for s in spans)))


@dataclass(frozen=True)
class Iteration:
    """The tasks of one iteration.

    Attributes:
        tasks: by whose they are: the name of a model, or :data:`SCHEDULING`.
    """

    tasks: Mapping[str, Sequence[Span]]

    @cached_property
    def spans(self) -> list[Span]:
        """All of them."""
        return [span for spans in self.tasks.values() for span in spans]

    @cached_property
    def start(self) -> int:
        """When its first task began, in ns."""
        return min(span.start for span in self.spans)

    @cached_property
    def stop(self) -> int:
        """When its last task ended, in ns."""
        return max(span.stop for span in self.spans)

    def times(self, owner: str) -> list[Interval]:
        """When tasks of a model ran, as disjoint intervals."""
        return union((span.start, span.stop) for span in self.tasks.get(owner, ()))


def iterations(spans: Iterable[Span], models: Mapping[int, str]) -> list[Iteration]:
    """The iterations of a profile of one rank, in order.

    Args:
        spans: of the profile.
        models: names by the number of layers.

    Raises:
        ValueError: a step that has the layers of none of them.
    """
    ran = [span for span in spans if span.id is not None and span.kind == "task"]
    ran = [span for span in ran if span.name not in _OF_THE_RUNTIME]
    ran.sort(key=lambda span: span.id or 0)
    found: list[dict[str, list[Span]]] = [{}]
    has_ended = False
    for run in _runs(ran):
        if has_ended and run[0].name in _ITERATION_BEGINS:
            found.append({})
            has_ended = False
        owner = _owner(run, models) if run[0].name == _STEP_BEGINS else SCHEDULING
        found[-1].setdefault(owner, []).extend(run)
        has_ended = has_ended or run[-1].name == _ITERATION_ENDS
    return [Iteration(tasks) for tasks in found]


def overlap(iteration: Iteration, left: str, right: str) -> float | None:
    """Of the time in which one of two models ran, the part in which both did; None: neither ran.

    The most that it can be is what the shorter takes over what the longer takes.
    """
    one, other = iteration.times(left), iteration.times(right)
    either = length(union([*one, *other]))
    return length(both(one, other)) / either if either else None


def pause(before: Iteration, after: Iteration, spans: Iterable[Span]) -> int:
    """Nanoseconds between two iterations in which nobody ran a task."""
    return idle(before.stop, after.start, spans)


def _runs(ran: Sequence[Span]) -> list[list[Span]]:
    """A step of a model each, or one task that is of none."""
    runs: list[list[Span]] = []
    in_step = False
    for span in ran:
        if in_step and span.name != _STEP_BEGINS:
            runs[-1].append(span)
            in_step = span.name not in _STEP_ENDS
        else:
            runs.append([span])
            in_step = span.name == _STEP_BEGINS
    return runs


def _owner(step: Sequence[Span], models: Mapping[int, str]) -> str:
    layers = sum(span.name == _LAYER for span in step)
    if layers not in models:
        raise ValueError(f"a step of {layers} layers, expected one of {sorted(models)}")
    return models[layers]
