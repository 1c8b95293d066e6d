"""From speculators to one tree for each request: whom to ask, and how much of it to verify.

:class:`FixedTrees` asks everyone for everything;
:class:`~specinfer.scheduler.adaptive.AdaptiveTrees` asks for what is worth its time. Neither
changes what is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from specinfer.scheduler.pruning import limited
from specinfer.scheduler.speculators import Context, Speculator
from specinfer.scheduler.speculators.ssm import SSMSpeculator
from specinfer.scheduler.token_tree import TokenTree, merge
from specinfer.scheduler.verifiers.choice import Verifier


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """A tree that is wanted.

    Attributes:
        contexts: what each speculator is told of the request. A depth of 0: it is not asked.
        verifier: what verifies the tree.
    """

    contexts: Sequence[Context]
    verifier: Verifier

    @property
    def request(self) -> int:
        """Its number."""
        return self.contexts[0].request

    @property
    def max_nodes(self) -> int | None:
        """Most nodes of the tree, the root not counted."""
        return self.contexts[0].max_nodes

    @property
    def root(self) -> int:
        """The last token of its text."""
        return self.contexts[0].tokens[-1]

    def merged(self, drafts: Sequence[Mapping[int, TokenTree]]) -> TokenTree:
        """What all speculators have drawn, each by request; who was not asked drew nothing."""
        return merge([of_one.get(self.request) or TokenTree(self.root) for of_one in drafts])

    def fitted(self, tree: TokenTree, nodes: int | None = None) -> TokenTree:
        """The tree without what is too much.

        Args:
            tree: merged.
            nodes: most nodes, decided before it was drawn; by default what the request allows.
        """
        given = [most for most in (nodes, self.max_nodes) if most is not None]
        return limited(tree, min(given), self.verifier) if given else tree


class Drafting(Protocol):
    """Draws the trees of a step, and learns what came of them."""

    def draft(self, asks: Sequence[Ask], other_rows: int) -> list[TokenTree]:
        """A tree for each request.

        Args:
            asks: one for each; there is at least one speculator.
            other_rows: of prompts, that the step computes, too, if it has room.
        """
        ...

    def verified(self, rows: int, seconds: float, accepted: Mapping[int, Sequence[int]]) -> None:
        """Learn from the step whose trees were drawn last.

        Args:
            rows: that the LLM computed.
            seconds: that it took.
            accepted: nodes of each request's tree that the LLM agreed with.
        """
        ...


def trees_of(speculator: Speculator, contexts: Sequence[Context]) -> dict[int, TokenTree]:
    """A speculator's trees, by request; it is left alone if nobody asks."""
    trees = speculator.draft(contexts) if contexts else []
    return {context.request: tree for context, tree in zip(contexts, trees, strict=True)}


def _in_turns(steps: Iterable[Iterator[None]]) -> None:
    """Go on with each until it would wait, then with the next."""
    going = deque(steps)
    while going:
        if next(going[0], _DONE) is _DONE:
            going.popleft()
        else:
            going.rotate(-1)


_DONE = object()


class FixedTrees:
    """Every speculator draws a tree for every request, and all of it is verified.

    SSMs do not wait for each other: each goes on with its next level as soon as it can.

    Args:
        speculators: in the order of their numbers.
    """

    def __init__(self, speculators: Sequence[Speculator]) -> None:
        self._speculators = speculators

    def draft(self, asks: Sequence[Ask], other_rows: int) -> list[TokenTree]:
        """What was proposed, merged."""
        asked = [
            [c for ask in asks if (c := ask.contexts[drafter]).max_depth > 0]
            for drafter in range(len(self._speculators))
        ]
        pairs = [*zip(self._speculators, asked, strict=True)]
        _in_turns([s.drafting(c) for s, c in pairs if c and isinstance(s, SSMSpeculator)])
        drafts = [
            s.proposed() if c and isinstance(s, SSMSpeculator) else trees_of(s, c) for s, c in pairs
        ]
        return [ask.fitted(ask.merged(drafts)) for ask in asks]

    def verified(self, rows: int, seconds: float, accepted: Mapping[int, Sequence[int]]) -> None:
        """Do nothing."""
