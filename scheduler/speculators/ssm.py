"""Speculation by a small model: each level expands every node of the one above it.

Source: Miao et al., SpecInfer, ASPLOS 2024, section 3: expansion-based construction with the
configuration <k1, ..., km>: ki continuations of each node of level i - 1. With a limit of nodes it
is a best-first expansion: at every level only what may still be among the likeliest nodes is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from specinfer.models.batch import BatchLimits, TokenBatch
from specinfer.ops.sample import top_k
from specinfer.runtime.context import Runtime
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.region import Subregion
from specinfer.scheduler.decoder import Decoder, Work
from specinfer.scheduler.errors import TreeError
from specinfer.scheduler.kv_pages import KVPages
from specinfer.scheduler.speculators import Context
from specinfer.scheduler.speculators.drawing import Drawn, grow
from specinfer.scheduler.speculators.proposals import Ask, ReducedVocabulary, propose
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


def most_nodes(expansion: Sequence[int], nodes: int = 0) -> tuple[int, int]:
    """The largest tree that is proposed, and the largest one that is computed for it.

    Args:
        expansion: children of each node, by level.
        nodes: most nodes that are proposed; 0: all.

    >>> most_nodes((2, 2, 2)), most_nodes((2, 2, 2), nodes=4)
    ((14, 14), (4, 10))
    """
    sizes = level_sizes(expansion)
    limit = nodes or sum(sizes)
    return min(limit, sum(sizes)), sum(min(size, limit) for size in sizes)


@dataclass(slots=True)
class _Draft:
    """A request's tree while it is drawn.

    Attributes:
        tree: so far.
        limit: most nodes to propose.
        frontier: nodes of its last level.
        computed: nodes, the root among them, whose K/V the model has.
    """

    tree: TokenTree
    limit: int
    frontier: list[int] = field(default_factory=lambda: [0])
    computed: int = 1

    def grow(self, drawn: Sequence[Drawn]) -> None:
        """Add a level.

        Args:
            drawn: children of each node of the frontier.
        """
        self.computed = len(self.tree)
        above, self.frontier = self.frontier, []
        if any(children.row is not None for children in drawn):
            self._grow_whole(above, drawn)
            return
        # A child is less likely than what is above it: of any tree the likeliest nodes are a tree.
        log_probs = self.tree.log_probs
        reached = [*log_probs[1:]]
        reached += [
            log_probs[node] + log_prob
            for node, children in zip(above, drawn, strict=True)
            for log_prob in children.log_probs
        ]
        order = sorted(range(len(reached)), key=lambda i: -reached[i])
        kept, at = set(order[: self.limit]), len(log_probs) - 1
        for node, children in zip(above, drawn, strict=True):
            count = sum(at + i in kept for i in range(len(children.tokens)))
            at += len(children.tokens)
            best = Drawn(children.tokens[:count], children.log_probs[:count], None)
            self.frontier += grow(self.tree, node, best)

    def _grow_whole(self, above: Sequence[int], drawn: Sequence[Drawn]) -> None:
        """All children of a node or none: to leave some out, seeing which, would bias the text."""
        likeliest = sorted(
            zip(above, drawn, strict=True), key=lambda pair: -self.tree.log_probs[pair[0]]
        )
        for node, children in likeliest:
            if len(self.tree) - 1 + len(children.tokens) <= self.limit:
                self.frontier += grow(self.tree, node, children)

    def proposed(self) -> TokenTree:
        """The likeliest nodes."""
        if len(self.tree) - 1 <= self.limit:
            return self.tree
        likeliest = sorted(range(1, len(self.tree)), key=lambda n: -self.tree.log_probs[n])
        return self.tree.restricted(sorted(likeliest[: self.limit]))


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """What a level of all trees computes, and what is then asked for.

    Attributes:
        batch: of the model; without rows where nothing grows.
        asks: for children of the nodes computed, by request.
    """

    batch: TokenBatch
    asks: Sequence[Ask]


class SSMSpeculator:
    """A small speculative model with K/V of its own.

    Accepted tokens that it has not computed (its own leaves, another drafter's, the LLM's bonus
    token) are the chain of its next first level.

    Args:
        name: for statistics.
        decoder: the model; its scratch holds as many nodes a request as :func:`most_nodes` says.
        expansion: children of each node, by level.
        nodes: most nodes of a tree, the likeliest; 0: all.
        vocabulary: the tokens that the model knows, of a larger vocabulary; None: it has the LLM's.
        draws: how children are drawn for requests that sample; None: as the verifier likes it best.

    Attributes:
        max_nodes: most nodes that it proposes.
        draws: see above.

    Raises:
        TreeError: an expansion that cannot make a tree, or wider than the vocabulary.
    """

    def __init__(
        self,
        name: str,
        decoder: Decoder,
        expansion: Sequence[int] = DEFAULT_EXPANSION,
        nodes: int = 0,
        vocabulary: ReducedVocabulary | None = None,
        draws: str | None = None,
    ) -> None:
        self.name = name
        self.draws = draws
        self.max_nodes, _ = most_nodes(expansion, nodes)
        self.vocabulary = vocabulary
        self._num_tokens = vocabulary.num_tokens if vocabulary else decoder.model.vocabulary
        if max(expansion) > self._num_tokens:
            raise TreeError(
                f"{name}: expansion {list(expansion)}: expected widths of at most the "
                f"vocabulary's {self._num_tokens} tokens"
            )
        self.expansion = tuple(expansion)
        self.decoder = decoder
        self._drafts: dict[int, _Draft] = {}
        self._growing: list[tuple[Context, _Draft]] = []
        self._depth = 0
        shape = (decoder.model.limits.logit_rows, max(expansion))
        runtime = self._runtime
        self._tokens = runtime.region(f"{name}.tokens", shape, {"value": torch.int64})
        self._log_probs = runtime.region(f"{name}.log_probs", shape, {"value": torch.float32})

    @property
    def limits(self) -> BatchLimits:
        """Of the model."""
        return self.decoder.model.limits

    @property
    def slots(self) -> KVPages:
        """Of the model's K/V pool; whoever asks for a tree has had the request admitted there."""
        return self.decoder.slots

    def release(self, request: int) -> None:
        """Forget the tree."""
        self._drafts.pop(request, None)

    def draft(self, contexts: Sequence[Context]) -> list[TokenTree]:
        """Expand level by level, all requests in one step a level.

        Texts that are to be computed only in part are so in the first step.
        """
        for _ in self.drafting(contexts):
            pass
        trees = self.proposed()
        return [trees[context.request] for context in contexts]

    def drafting(self, contexts: Sequence[Context]) -> Iterator[None]:
        """Draw trees, giving way to others wherever it would wait; then ask :meth:`proposed`."""
        level = self.begin(contexts)
        while level.batch.num_rows:
            logits = self.decoder.model.forward(level.batch)
            if not level.asks:
                break
            children = self._children(logits, level.asks)
            yield
            level = self.grow(children())

    def begin(self, contexts: Sequence[Context]) -> Level:
        """Start trees; what the first level computes."""
        contexts = [self._as_told(context) for context in contexts]
        drafts = [_Draft(TokenTree(c.tokens[-1]), c.limit(self.max_nodes)) for c in contexts]
        self._drafts = {c.request: d for c, d in zip(contexts, drafts, strict=True)}
        self._growing = [(c, d) for c, d in zip(contexts, drafts, strict=True) if c.may_draw]
        self._depth = 0
        return self._level([self._catch_up(c) for c in contexts if c.max_depth > 0])

    def grow(self, drawn: Sequence[Sequence[Drawn]]) -> Level:
        """Add a level to the trees; what the next one computes.

        Args:
            drawn: by request that was asked about, children of each of its nodes.
        """
        for (_, draft), children in zip(self._growing, drawn, strict=True):
            draft.grow(children)
        self._depth += 1
        self._growing = [(c, d) for c, d in self._growing if c.max_depth > self._depth]
        self._growing = [(c, d) for c, d in self._growing if d.frontier]
        if self._depth == len(self.expansion):
            self._growing = []
        return self._level(
            [Work.of_tree(c.request, d.tree, computed=d.computed) for c, d in self._growing]
        )

    def proposed(self) -> dict[int, TokenTree]:
        """The trees as they are now, by request."""
        return {request: draft.proposed() for request, draft in self._drafts.items()}

    def accept(self, tokens: Mapping[int, Sequence[int]]) -> None:
        """Commit the K/V of accepted nodes that this model proposed and computed itself."""
        self.decoder.commit(self.accepted(tokens))

    def accepted(self, tokens: Mapping[int, Sequence[int]]) -> list[tuple[int, list[int]]]:
        """The nodes to commit, for :meth:`Decoder.commit`; the trees are done with."""
        paths = []
        for request, taken in tokens.items():
            draft = self._drafts.pop(request, None)
            if draft is not None:
                # The last token is the next root: its K/V come with the next tree.
                nodes = [n for n in draft.tree.follow(taken[:-1]) if n < draft.computed]
                paths.append((request, [node - 1 for node in nodes]))
        return paths

    def _as_told(self, context: Context) -> Context:
        drawing = context.drawing
        if self.draws is None or drawing.params.is_greedy:
            return context
        return replace(context, drawing=replace(drawing, how=self.draws))

    def _catch_up(self, context: Context) -> Work:
        """What the model lacks of a text."""
        request = context.request
        chain = context.tokens[self.slots.length(request) : context.computed]
        return Work(request=request, chain=chain, chain_logits=context.may_draw)

    def _level(self, works: Sequence[Work]) -> Level:
        """A level's batch, of texts in the model's own vocabulary, and what is asked of it."""
        if (known := self.vocabulary) is not None:
            works = [
                replace(work, chain=known.to_draft(work.chain), tokens=known.to_draft(work.tokens))
                for work in works
            ]
        asks = [
            Ask(context, draft.tree, draft.frontier, self.expansion[self._depth])
            for context, draft in self._growing
        ]
        return Level(self.decoder.frame(works), asks)

    def _children(self, logits: Subregion, asks: Sequence[Ask]) -> Callable[[], list[list[Drawn]]]:
        """Issue what finds the children of each request's nodes; what waits for them."""
        known = self.vocabulary
        if not all(ask.context.drawing.is_plain for ask in asks):
            future = self._runtime.launch(propose, logits=logits, asks=asks, vocabulary=known)
            return future.get
        part = IndexSpace((0, 0), (logits.space.shape[0], asks[0].count))
        tokens, log_probs = self._tokens.part(part), self._log_probs.part(part)
        possible = logits.region.part(IndexSpace((0, 0), (part.shape[0], self._num_tokens)))
        self._runtime.launch(top_k, logits=possible, tokens=tokens, log_probs=log_probs)

        def read() -> list[list[Drawn]]:
            likeliest = self._runtime.read(tokens).tolist()
            if known is not None:
                likeliest = [known.to_llm(row) for row in likeliest]
            pairs = iter(zip(likeliest, self._runtime.read(log_probs).tolist(), strict=True))
            return [[Drawn(*next(pairs), None) for _ in ask.nodes] for ask in asks]

        return read

    @property
    def _runtime(self) -> Runtime:
        return self.decoder.model.runtime
