"""Speculation by a small model: each level expands every node of the one above it.

Source: Miao et al., SpecInfer, ASPLOS 2024, section 3: expansion-based construction with the
configuration <k1, ..., km>: the ki likeliest continuations of each node of level i - 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from specinfer.ops.sample import top_k
from specinfer.runtime.index_space import IndexSpace
from specinfer.scheduler.decoder import Decoder, Work
from specinfer.scheduler.errors import TreeError
from specinfer.scheduler.speculators import Context
from specinfer.scheduler.token_tree import TokenTree

DEFAULT_EXPANSION = (1, 1, 3, 1, 1, 1, 1, 1)
"""The paper's configuration (section 6.1): depth 8, 20 nodes."""


def level_sizes(expansion: Sequence[int]) -> list[int]:
    """Nodes of each level of a full tree.

    >>> level_sizes((2, 2, 1))
    [2, 4, 4]

    Raises:
        TreeError: no level, or a width below 1.
    """
    if not expansion or any(width < 1 for width in expansion):
        raise TreeError(f"expansion {list(expansion)}: expected widths of at least 1")
    sizes = [1]
    for width in expansion:
        sizes.append(sizes[-1] * width)
    return sizes[1:]


@dataclass(slots=True)
class _Draft:
    """A request's tree while it is drawn.

    Attributes:
        tree: so far.
        frontier: nodes of its last level.
        computed: nodes, the root among them, whose K/V the model has.
    """

    tree: TokenTree
    frontier: list[int] = field(default_factory=lambda: [0])
    computed: int = 1


class SSMSpeculator:
    """A small speculative model with K/V of its own.

    Accepted tokens that it has not computed (its own leaves, another drafter's, the LLM's bonus
    token) are the chain of its next first level.

    Args:
        name: for statistics.
        decoder: the model; its scratch holds ``max_nodes`` nodes a request.
        expansion: children of each node, by level.

    Raises:
        TreeError: an expansion that cannot make a tree, or wider than the vocabulary.
    """

    def __init__(
        self, name: str, decoder: Decoder, expansion: Sequence[int] = DEFAULT_EXPANSION
    ) -> None:
        self.name = name
        self.max_nodes = sum(level_sizes(expansion))
        if max(expansion) > decoder.model.vocabulary:
            raise TreeError(
                f"{name}: expansion {list(expansion)}: expected widths of at most the "
                f"vocabulary's {decoder.model.vocabulary} tokens"
            )
        self._expansion = tuple(expansion)
        self._decoder = decoder
        self._drafts: dict[int, _Draft] = {}
        shape = (decoder.model.limits.logit_rows, max(expansion))
        runtime = decoder.model.runtime
        self._tokens = runtime.region(
            f"{name}.tokens", shape, {"value": torch.int64}, {"value": torch.empty(shape).long()}
        )
        self._log_probs = runtime.region(
            f"{name}.log_probs", shape, {"value": torch.float32}, {"value": torch.empty(shape)}
        )

    def admit(self, request: int, tokens: int) -> bool:
        """Reserve K/V slots."""
        return self._decoder.admit(request, tokens)

    def release(self, request: int) -> None:
        """Free K/V slots."""
        self._decoder.release(request)
        self._drafts.pop(request, None)

    def draft(self, contexts: Sequence[Context]) -> list[TokenTree]:
        """Expand level by level, all requests in one step a level."""
        drafts = [_Draft(TokenTree(context.tokens[-1])) for context in contexts]
        self._drafts = {c.request: d for c, d in zip(contexts, drafts, strict=True)}
        growing = [(c, d) for c, d in zip(contexts, drafts, strict=True) if c.max_depth > 0]
        works = self._catch_up([context for context, _ in growing])
        for level, width in enumerate(self._expansion):
            growing = [(c, d) for c, d in growing if c.max_depth > level]
            if not growing:
                break
            if level > 0:
                works = [Work.of_tree(c.request, d.tree, computed=d.computed) for c, d in growing]
            tokens, log_probs = self._likeliest(works, width)
            row = 0
            for _, draft in growing:
                draft.computed = len(draft.tree)
                level_above, draft.frontier = draft.frontier, []
                for node in level_above:
                    for token, log_prob in zip(tokens[row], log_probs[row], strict=True):
                        path = draft.tree.log_probs[node] + log_prob
                        draft.frontier.append(draft.tree.add(node, token, path))
                    row += 1
        return [draft.tree for draft in drafts]

    def accept(self, tokens: Mapping[int, Sequence[int]]) -> None:
        """Commit the K/V of accepted nodes that this model proposed and computed itself."""
        paths = []
        for request, accepted in tokens.items():
            draft = self._drafts.pop(request, None)
            if draft is not None:
                # The last token is the next root: its K/V come with the next tree.
                nodes = [n for n in draft.tree.follow(accepted[:-1]) if n < draft.computed]
                paths.append((request, [node - 1 for node in nodes]))
        self._decoder.commit(paths)

    def _catch_up(self, contexts: Sequence[Context]) -> list[Work]:
        """Compute long chains in chunks; return the first level's works."""
        limit = self._decoder.model.limits
        chunk = min(limit.nodes, limit.rows // max(1, len(contexts)))
        while True:
            pending = [(c, c.tokens[self._decoder.cached[c.request] :]) for c in contexts]
            long = [(c, chain) for c, chain in pending if len(chain) > chunk]
            if not long:
                return [Work(request=c.request, chain=chain) for c, chain in pending]
            self._decoder.step(
                [
                    Work(request=c.request, chain=chain[:chunk], chain_logits=False)
                    for c, chain in long
                ]
            )

    def _likeliest(
        self, works: Sequence[Work], width: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        logits = self._decoder.step(works)
        runtime = self._decoder.model.runtime
        part = IndexSpace((0, 0), (logits.space.shape[0], width))
        tokens, log_probs = self._tokens.part(part), self._log_probs.part(part)
        runtime.launch(top_k, logits=logits, tokens=tokens, log_probs=log_probs)
        return runtime.read(tokens).tolist(), runtime.read(log_probs).tolist()
