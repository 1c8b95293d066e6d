"""The task that turns a small model's logits into children of tree nodes, request by request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specinfer.models.draft_vocabulary import DraftVocabulary
from specinfer.ops.sample import top_k
from specinfer.runtime.privilege import R
from specinfer.runtime.task import task
from specinfer.scheduler.errors import RequestError
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


class ReducedVocabulary:
    """What a small model knows of the LLM's vocabulary.

    Args:
        known: the tokens.
        size: of the LLM's vocabulary.

    Attributes:
        num_tokens: how many it knows: the first columns of its logits.
        ids: (num_tokens,) the LLM's numbers of the model's tokens.
    """

    def __init__(self, known: DraftVocabulary, size: int) -> None:
        self.num_tokens = len(known)
        self._known = known
        self.ids = known.ids
        self._size = size

    @property
    def draft_ids(self) -> NDArray[np.int64]:
        """(size,) the model's numbers of the LLM's tokens."""
        return self._known.to_draft(np.arange(self._size))

    def to_draft(self, tokens: Sequence[int]) -> list[int]:
        """The model's numbers of the LLM's tokens."""
        found: list[int] = self._known.to_draft(np.array(tokens, np.int64)).tolist()
        return found

    def to_llm(self, ids: Sequence[int]) -> list[int]:
        """The LLM's numbers of the model's tokens."""
        found: list[int] = self._known.to_llm(list(ids)).tolist()
        return found

    def widened(self, logits: Tensor) -> Tensor:
        """A row of logits over the LLM's vocabulary; what is not known cannot be drawn."""
        wide = logits.new_full((self._size,), -torch.inf)
        wide[torch.from_numpy(self.ids).to(wide.device)] = logits[: self.num_tokens]
        return wide


@task(logits=R, pure=True)
def propose(
    logits: Tensor, asks: Sequence[Ask], vocabulary: ReducedVocabulary | None
) -> list[list[Drawn]]:
    """Draw children, by their numbers in the LLM's vocabulary.

    Args:
        logits: (nodes of all asks, vocabulary of the model); more rows are padding.
        asks: what is wanted.
        vocabulary: the model's; None: the LLM's.
    """
    found, row = [], 0
    for ask in asks:
        children = []
        if ask.context.drawing.is_plain:
            found.append(_likeliest(logits[row : row + len(ask.nodes)], ask.count, vocabulary))
            row += len(ask.nodes)
            continue
        for node in ask.nodes:
            children.append(_possible_children(logits[row], ask, node, vocabulary))
            row += 1
        found.append(children)
    return found


def _likeliest(logits: Tensor, count: int, vocabulary: ReducedVocabulary | None) -> list[Drawn]:
    """The likeliest children of some nodes; logits (nodes, vocabulary of the model)."""
    if vocabulary is not None:
        logits = logits[:, : vocabulary.num_tokens]
    tokens = logits.new_empty((len(logits), count), dtype=torch.int64)
    log_probs = logits.new_empty((len(logits), count), dtype=torch.float32)
    top_k(logits, tokens, log_probs)
    pairs = zip(tokens.tolist(), log_probs.tolist(), strict=True)
    return [
        Drawn(ids if vocabulary is None else vocabulary.to_llm(ids), found, None)
        for ids, found in pairs
    ]


def _possible_children(
    logits: Tensor, ask: Ask, node: int, vocabulary: ReducedVocabulary | None
) -> Drawn:
    """None, where biases and bad words leave no token behind a path that only this model takes."""
    wide = logits if vocabulary is None else vocabulary.widened(logits)
    try:
        return _children(wide, ask, node)
    except RequestError:
        if not logits.isfinite().all():
            raise
        return Drawn([], [], None)


def _children(logits: Tensor, ask: Ask, node: int) -> Drawn:
    context, drawing = ask.context, ask.context.drawing
    params = drawing.params
    if params.is_greedy:  # one token is right, but which are the likeliest is still to be told
        params = replace(params, temperature=1.0)
    text = [*context.tokens, *ask.tree.path(node)[1:]]
    prompt, output = text[: context.num_prompt], text[context.num_prompt :]
    row = distribution(logits, params, prompt, output).numpy()
    # A position is the root of one tree only, so that no draw is made twice.
    chance = SeededChance(drawing.seed, drawing.drafter, len(context.tokens), node)
    return draw(drawing.how, row, ask.count, chance, len(text))
