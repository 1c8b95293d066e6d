"""Trees as large as they are worth: the budget of nodes follows acceptance, machine and load.

Before a step, :func:`~specinfer.scheduler.tree_budget.plan` says which drafters are asked, and how
deeply, by what they proposed and what came of it. Behind drafting,
:func:`~specinfer.scheduler.tree_budget.best_nodes` says which nodes are verified. What both need is
measured: survival by drafter and claim, seconds by phase and size. Where nothing pays, nothing is
asked, but for a probe now and then.

On several ranks all decide alike: tokens are the same everywhere, and of the times, which are not,
only those are used that were agreed on. That is done once in a while.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil

from specinfer.scheduler.drafter import BY_LEVELS, Drafter
from specinfer.scheduler.drafting import Ask
from specinfer.scheduler.online_cost import OnlineCurve
from specinfer.scheduler.probing import SOONEST
from specinfer.scheduler.pruning import takes_any_tree
from specinfer.scheduler.speculators import Context, Speculator
from specinfer.scheduler.step_cost import StepCost
from specinfer.scheduler.survival import Evidence
from specinfer.scheduler.token_tree import TokenTree
from specinfer.scheduler.tree_budget import Plan, Time, best_nodes, plan

TRIED = (0.25, 1.0, 0.0, 0.5)
"""Shares of trees that are drawn and verified on trial, in turn: a curve needs sizes."""
REMINDED_EVERY = 128
"""Steps between those without speculation, whose time would otherwise be forgotten."""
NEGLIGIBLE = 0.002
"""Of a step without speculation: a drafter that takes less time is always asked for everything."""
AGREED_EVERY = 64
"""Steps between agreements on times; fewer at first."""
PLANNED_EVERY = 16
"""Steps between plans for the same load."""
SLACK = 2
"""Nodes that a drafter may propose for a request, over its share: which are best is seen then."""


@dataclass(frozen=True, slots=True)
class Times:
    """Measured seconds that all ranks use.

    Attributes:
        verify: of a pass, by its rows.
        draft: of each drafter, by the binary digits of the number of requests: by levels.
        probe: of each drafter: of a probe.
    """

    verify: StepCost | None = None
    draft: Sequence[Mapping[int, StepCost]] = ()
    probe: Sequence[float | None] = ()

    def drafting(self, drafter: int, requests: int) -> StepCost | None:
        """The curve of the number of requests that is nearest."""
        curves = self.draft[drafter] if self.draft else {}
        digits = requests.bit_length()
        return curves[min(curves, key=lambda known: abs(known - digits))] if curves else None


@dataclass(frozen=True, slots=True)
class _Orders:
    """What a step does.

    Attributes:
        depths: levels that each drafter draws; None: all.
        nodes: of each request, before drawing; None: all are drawn and verified.
        time: of the step by nodes; None: not known.
    """

    depths: Sequence[int | None]
    nodes: int | None = None
    time: Time | None = None


@dataclass(frozen=True, slots=True)
class _Probe:
    """That a drafter is tried.

    Attributes:
        request: for which one.
        depth: levels that it is asked for.
        cost: of the probe, in steps without it.
        is_extra: whether the drafter would not have been asked at all.
    """

    request: int
    depth: int
    cost: float
    is_extra: bool


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What a step waits to learn of a request: its tree, and each drafter's."""

    tree: TokenTree
    drafts: Sequence[TokenTree | None]


class AdaptiveTrees:
    """Draws what is worth its time.

    Args:
        speculators: in the order of their numbers.
        cost: of a pass of the LLM by its rows, in any unit.
        max_rows: of a pass.
        agree: gives all ranks the first one's value.

    Attributes:
        cost: of a pass, see above.
    """

    def __init__(
        self,
        speculators: Sequence[Speculator],
        cost: StepCost,
        max_rows: int,
        agree: Callable[[Times], Times],
    ) -> None:
        self._drafters = [Drafter(speculator) for speculator in speculators]
        self.cost = cost
        self._verify = OnlineCurve(cost)
        self._max_rows = max_rows
        self._agree = agree
        self._times = Times()
        self._step = 0
        self._next_agreement = 1
        self._plans: dict[tuple[int, int], Plan] = {}
        self._drawn: dict[int, _Drawn] = {}
        self._probes: dict[int, _Probe] = {}

    def draft(self, asks: Sequence[Ask], other_rows: int) -> list[TokenTree]:
        """Ask whom it pays to ask, and keep what it pays to verify."""
        self._begin_step()
        able = [ask for ask in asks if any(context.max_depth > 0 for context in ask.contexts)]
        others = len(asks) - len(able) + min(other_rows, self._max_rows - len(asks))
        orders = self._orders(len(able), others)
        self._probes = self._due(orders, able)
        asked = [
            {c.request: c for c in self._contexts(number, able, orders)}
            for number in range(len(self._drafters))
        ]
        drafts = [
            drafter.draft([*contexts.values()], is_probe=self._is_extra(number))
            for number, (drafter, contexts) in enumerate(zip(self._drafters, asked, strict=True))
        ]
        self._learn_supply(able, drafts, asked)
        trees = self._chosen(able, drafts, orders, others)
        self._drawn = {
            request: _Drawn(tree, [drawn.get(request) for drawn in drafts])
            for request, tree in trees.items()
        }
        return [trees.get(ask.request) or TokenTree(ask.root) for ask in asks]

    def verified(self, rows: int, seconds: float, accepted: Mapping[int, Sequence[int]]) -> None:
        """Learn how long it took, and what survived."""
        self._verify.add(rows, seconds)
        for number, drafter in enumerate(self._drafters):
            trees, probe = [], self._probes.get(number)
            for request, drawn in self._drawn.items():
                if (draft := drawn.drafts[number]) is None:
                    continue
                survived = {0, *accepted.get(request, ())}
                nodes = _nodes_of(draft, drawn.tree)
                trees.append([*_evidence(draft, nodes, survived)])
                if probe is not None and probe.request == request:
                    path = [nodes[node] for node in _likeliest_path(draft, probe.depth)]
                    tried = [node in survived for node in path if node is not None]
                    if tried or probe.is_extra:
                        was_right = bool(tried) and all(tried)
                        may_go_on = was_right and probe.depth < drafter.supply.depth
                        drafter.probing.took(self._step, was_right=may_go_on, cost=probe.cost)
            if trees := [evidence for evidence in trees if evidence]:
                drafter.survival.learn(trees, self._step - drafter.seen)
                drafter.seen = self._step
        self._drawn = {}

    # What all ranks know

    def _begin_step(self) -> None:
        self._step += 1
        if self._step >= self._next_agreement:
            self._times = self._agree(
                Times(
                    self._verify.curve(),
                    [drafter.curves for drafter in self._drafters],
                    [drafter.probe_seconds for drafter in self._drafters],
                )
            )
            self._next_agreement = self._step + min(self._step, AGREED_EVERY)
            self._plans.clear()
        if self._step % PLANNED_EVERY == 0:
            self._plans.clear()

    # Before drafting

    def _orders(self, requests: int, other_rows: int) -> _Orders:
        """Whom to ask, for so many requests."""
        verify, numbers = self._times.verify, range(len(self._drafters))
        if not requests or self._step % REMINDED_EVERY == 0:
            return _Orders([0 for _ in numbers])
        if verify is None:
            return self._trial([None for _ in numbers])
        time = _beside(verify, requests, other_rows)
        costs = [self._times.drafting(number, requests) for number in numbers]
        made = self._plans.get((requests, other_rows))
        if made is None:
            known = [cost or BY_LEVELS for cost in costs]
            made = self._made(known, requests, time)
            self._plans[requests, other_rows] = made
        depths = [
            None if cost is None or drafter.is_on_trial else depth
            for cost, drafter, depth in zip(costs, self._drafters, made.depths, strict=True)
        ]
        if None in depths:
            return self._trial(depths)
        drafting = made.draft_seconds
        return _Orders(depths, ceil(made.nodes / requests), lambda nodes: drafting + time(nodes))

    def _trial(self, depths: Sequence[int | None]) -> _Orders:
        """Some drafter is on trial: trees of different sizes."""
        share = TRIED[self._step % len(TRIED)]
        if not share:
            return _Orders([0 for _ in depths])
        found = sum(float(drafter.supply.table.sum()) for drafter in self._drafters)
        return _Orders(depths, None if share == 1 else ceil(share * found))

    def _made(self, costs: Sequence[StepCost], requests: int, time: Time) -> Plan:
        """A plan; those who cost nothing are asked for everything."""
        pairs = [*zip(self._drafters, costs, strict=True)]
        offers = [drafter.offer(cost) for drafter, cost in pairs]
        found = plan(offers, requests, time, max(self._max_rows - requests, 0))
        depths = [*found.depths]
        for number, (drafter, cost) in enumerate(pairs):
            whole = max(1, drafter.supply.depth)
            if cost.time(whole) < NEGLIGIBLE * time(0):
                depths[number] = whole
        return replace(found, depths=tuple(depths))

    def _due(self, orders: _Orders, able: Sequence[Ask]) -> dict[int, _Probe]:
        """Who is tried in this step, by drafter; each time for another request."""
        found: dict[int, _Probe] = {}
        time = orders.time
        for number, drafter in enumerate(self._drafters):
            depth = orders.depths[number]
            if time is None or depth is None or not drafter.probing.is_due(self._step):
                continue
            is_known = self._step - drafter.seen < SOONEST
            request = self._tried(number, able)
            if request is not None and (not is_known or depth < drafter.supply.depth):
                more = drafter.probing.more
                cost = more * self._probe_cost(number, time, len(able))
                above = depth if is_known else 0
                found[number] = _Probe(request, above + more, cost, depth == 0)
        return found

    def _tried(self, number: int, able: Sequence[Ask]) -> int | None:
        """For which request a drafter is tried; None: it can be asked about none."""
        contexts = [ask.contexts[number] for ask in able]
        if ready := [context.request for context in contexts if context.may_draw]:
            return ready[self._step % len(ready)]
        # The same one until the drafter has all of its text.
        return next((context.request for context in contexts if context.max_depth > 0), None)

    def _probe_cost(self, number: int, time: Time, requests: int) -> float:
        """Of a level that is probed, in steps without it."""
        drawing = self._times.probe[number]
        if drawing is None:
            drawing = self._cost_of(number, requests)
        return (drawing + time(1) - time(0)) / time(0)

    def _cost_of(self, number: int, requests: int) -> float:
        """Seconds of a level, as far as it is known."""
        curve = self._times.drafting(number, requests)
        return curve.time(1) if curve else 0.0

    def _is_extra(self, number: int) -> bool:
        return number in self._probes and self._probes[number].is_extra

    def _contexts(self, number: int, able: Sequence[Ask], orders: _Orders) -> Iterable[Context]:
        """What a drafter is told of those that it is asked for."""
        probe = self._probes.get(number)
        for ask in able:
            context, depth, nodes = ask.contexts[number], orders.depths[number], orders.nodes
            if nodes is not None and takes_any_tree(ask.verifier):
                nodes *= SLACK
            if probe is not None and probe.request == ask.request:
                depth = max(depth or 0, probe.depth)
                nodes = None if nodes is None else max(nodes, probe.depth)
            if depth is not None:
                context = replace(context, max_depth=min(context.max_depth, depth))
            if nodes is not None:
                context = replace(context, max_nodes=context.limit(nodes))
            if context.max_depth > 0 and context.max_nodes != 0:
                yield context

    # Behind drafting

    def _learn_supply(
        self,
        able: Sequence[Ask],
        drafts: Sequence[Mapping[int, TokenTree]],
        asked: Sequence[Mapping[int, Context]],
    ) -> None:
        """A node that several have proposed is counted for the one that costs least."""
        numbers = sorted(range(len(drafts)), key=lambda n: self._cost_of(n, len(able)))
        for ask in able:
            paths = TokenTree(ask.root)
            for number in numbers:
                draft = drafts[number].get(ask.request)
                if draft is None:
                    continue
                nodes, new = [0], []
                for node in range(1, len(draft)):
                    size = len(paths)
                    nodes.append(paths.add(nodes[draft.parents[node]], draft.tokens[node]))
                    if nodes[-1] == size:
                        new.append((draft.depths[node], draft.log_probs[node]))
                context = asked[number][ask.request]
                is_full = context.max_nodes is not None and len(draft) > context.max_nodes
                least = min(draft.log_probs) if is_full else None
                self._drafters[number].supply.learn(new, context.max_depth, least)

    def _chosen(
        self,
        able: Sequence[Ask],
        drafts: Sequence[Mapping[int, TokenTree]],
        orders: _Orders,
        others: int,
    ) -> dict[int, TokenTree]:
        """The trees that are worth it, by request."""
        trees, free = {}, []
        for ask in able:
            tree = ask.merged(drafts)
            if orders.time is not None and takes_any_tree(ask.verifier):
                free.append((ask, tree))
                continue
            nodes = orders.nodes
            if nodes is not None:
                probes = (p.depth for p in self._probes.values() if p.request == ask.request)
                nodes = max([nodes, *probes])
            trees[ask.request] = ask.fitted(tree, nodes)
        if orders.time is None:
            return trees
        rows = others + len(able) + sum(len(tree) - 1 for tree in trees.values())
        best = best_nodes(
            [self._survivals(ask.request, tree, drafts) for ask, tree in free],
            [len(tree) if ask.max_nodes is None else ask.max_nodes for ask, tree in free],
            orders.time,
            lambda nodes: is_step_size(rows + nodes),
        )
        for (ask, tree), likeliest in zip(free, best, strict=True):
            kept = {*likeliest, *self._forced(ask.request, tree, drafts)}
            if ask.max_nodes is not None and len(kept) > ask.max_nodes:
                kept = {*likeliest}
            trees[ask.request] = tree.restricted(sorted(kept))
        return trees

    def _survivals(
        self, request: int, tree: TokenTree, drafts: Sequence[Mapping[int, TokenTree]]
    ) -> list[float]:
        """Of each node of a merged tree, by the drafter that is surest of it."""
        found = [1.0] + [0.0] * (len(tree) - 1)
        for drafter, drawn in zip(self._drafters, drafts, strict=True):
            if (draft := drawn.get(request)) is not None:
                nodes = _nodes_of(draft, tree)
                for node, survival in zip(nodes, drafter.survival.of_tree(draft), strict=True):
                    if node:
                        found[node] = max(found[node], survival)
        return found

    def _forced(
        self, request: int, tree: TokenTree, drafts: Sequence[Mapping[int, TokenTree]]
    ) -> Iterable[int]:
        """Nodes that are verified to learn of them."""
        for number, probe in self._probes.items():
            draft = drafts[number].get(request)
            if draft is not None and probe.request == request:
                nodes = _nodes_of(draft, tree)
                path = (nodes[node] for node in _likeliest_path(draft, probe.depth))
                yield from (node for node in path if node is not None)


def is_step_size(rows: int) -> bool:
    """Whether a pass may have so many rows: few sizes, so that each is recorded only once.

    >>> [rows for rows in range(14, 26) if is_step_size(rows)]
    [14, 15, 16, 18, 20, 22, 24]
    """
    return rows % (1 << max(0, rows.bit_length() - 4)) == 0


def _beside(verify: StepCost, requests: int, other_rows: int) -> Time:
    """Seconds by nodes: of a step without the other rows, and what nodes add beside them."""
    rows = requests + other_rows
    own = verify.time(requests) - verify.time(rows)

    @cache
    def time(nodes: int) -> float:
        return own + verify.time(rows + nodes)

    return time


def _nodes_of(draft: TokenTree, tree: TokenTree) -> list[int | None]:
    """Where each node of a draft is in another tree; None: it is not."""
    found: list[int | None] = [0]
    for parent, token in [*zip(draft.parents, draft.tokens, strict=True)][1:]:
        above = found[parent]
        found.append(None if above is None else tree.child(above, token))
    return found


def _evidence(
    draft: TokenTree, nodes: Sequence[int | None], survived: Container[int]
) -> Iterable[Evidence]:
    """Of the nodes of a draft that were verified."""
    claims = zip(draft.depths, draft.log_probs, nodes, strict=True)
    return (Evidence(depth, log_prob, node in survived) for depth, log_prob, node in claims if node)


def _likeliest_path(tree: TokenTree, depth: int) -> list[int]:
    """Nodes from the root down, each the likeliest child; at most so many."""
    path: list[int] = []
    while len(path) < depth and (below := tree.children(path[-1] if path else 0)):
        path.append(max(below, key=lambda node: tree.log_probs[node]))
    return path
