"""The task that turns a small model's logits into children of tree nodes, request by request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from specinfer.runtime.privilege import R
from specinfer.runtime.task import task
from specinfer.scheduler.sampling.process import distribution
from specinfer.scheduler.speculators import Context
from specinfer.scheduler.speculators.drawing import Drawn, draw
from specinfer.scheduler.token_tree import TokenTree
from specinfer.scheduler.verifiers.chance import SeededChance


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """Children that are wanted, for some nodes of a request's tree.

    Attributes:
        context: of the request.
        tree: so far.
        nodes: whose children; the logits have a row for each.
        count: draws at each node.
    """

    context: Context
    tree: TokenTree
    nodes: Sequence[int]
    count: int


@task(logits=R, pure=True)
def propose(logits: Tensor, asks: Sequence[Ask]) -> list[list[Drawn]]:
    """Draw children; logits (nodes of all asks, vocabulary)."""
    found, row = [], 0
    for ask in asks:
        found.append([_children(logits[row + i], ask, node) for i, node in enumerate(ask.nodes)])
        row += len(ask.nodes)
    return found


def _children(logits: Tensor, ask: Ask, node: int) -> Drawn:
    context, drawing = ask.context, ask.context.drawing
    text = [*context.tokens, *ask.tree.path(node)[1:]]
    prompt, output = text[: context.num_prompt], text[context.num_prompt :]
    row = distribution(logits, drawing.params, prompt, output).numpy()
    # A position is the root of one tree only, so that no draw is made twice.
    chance = SeededChance(drawing.seed, drawing.drafter, len(context.tokens), node)
    return draw(drawing.how, row, ask.count, chance, len(text))
