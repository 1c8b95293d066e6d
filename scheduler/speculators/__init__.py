"""Speculators guess a token tree for each request; the LLM then verifies them all in one pass.

A new one is a class with the methods of :class:`Speculator`, and passes the conformance test in
``tests/unit/scheduler/test_speculators.py``. It can be wrong, never unsafe: what the LLM does not
agree with is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from specinfer.scheduler.sampling.params import GREEDY, SamplingParams
from specinfer.scheduler.token_tree import TokenTree


@dataclass(frozen=True, slots=True)
class Drawing:
    """How a drafter picks children for a request.

    Attributes:
        how: one of :data:`specinfer.scheduler.speculators.drawing.DRAWS`.
        params: what the LLM samples with; the drafter's own probabilities are processed alike.
        seed: of the request.
        drafter: number of the speculator: its draws are its own.
    """

    how: str = "top_k"
    params: SamplingParams = GREEDY
    seed: int = 0
    drafter: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest tokens are wanted, and nothing changes which these are."""
        return self.how == "top_k" and self.params.is_greedy and self.params.is_plain


PLAIN = Drawing()


@dataclass(frozen=True, slots=True)
class Context:
    """What a speculator sees of a request.

    Attributes:
        request: its number.
        tokens: prompt and output so far; the last one is the root of the tree to draw.
        max_depth: levels of the tree that the request still has room for, at least 0.
        num_prompt: how many of the tokens are the prompt.
        drawing: how to pick children.
        max_nodes: most nodes of the tree, the root not counted; None: as many as the speculator
            proposes.
        computed: how many of the tokens the speculator's model has computed when the step is done,
            if it has one; None: all. With less than all, nothing is drawn yet.
    """

    request: int
    tokens: Sequence[int]
    max_depth: int
    num_prompt: int = 0
    drawing: Drawing = PLAIN
    max_nodes: int | None = None
    computed: int | None = None

    @property
    def may_draw(self) -> bool:
        """Whether a tree is wanted, and all that it hangs on is there."""
        return self.max_depth > 0 and self.computed in (None, len(self.tokens))

    def limit(self, max_nodes: int) -> int:
        """Most nodes that a speculator proposes which would propose so many."""
        return max_nodes if self.max_nodes is None else min(self.max_nodes, max_nodes)


class Speculator(Protocol):
    """Guesses continuations."""

    @property
    def name(self) -> str:
        """For people and statistics."""
        ...

    @property
    def max_nodes(self) -> int:
        """Most nodes of a tree, the root not counted."""
        ...

    def draft(self, contexts: Sequence[Context]) -> list[TokenTree]:
        """A tree for each request, rooted at its last token, no deeper than it allows."""
        ...

    def accept(self, tokens: Mapping[int, Sequence[int]]) -> None:
        """Learn which tokens follow the last tree's root, by request."""
        ...

    def release(self, request: int) -> None:
        """Forget a request; it may never have been asked about."""
        ...
