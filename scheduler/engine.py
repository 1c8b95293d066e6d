"""The speculate-verify iteration over any number of requests.

Requests join and leave between iterations. Each iteration drafts a tree for every request that is
past its prompt, verifies all trees and computes prompt chunks in one pass of the LLM, takes the
accepted tokens, and commits their K/V.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import SpecInferError
from specinfer.scheduler.acceptance import Found, Verification, accept
from specinfer.scheduler.adaptive import AdaptiveTrees
from specinfer.scheduler.batcher import Batcher
from specinfer.scheduler.decoder import Decoder, Work
from specinfer.scheduler.drafting import Drafting, FixedTrees
from specinfer.scheduler.errors import RequestError
from specinfer.scheduler.iteration import PREFILL_SHARE, Budgets
from specinfer.scheduler.lanes.ladder import Ladder
from specinfer.scheduler.lanes.reasons import why_by_host
from specinfer.scheduler.lanes.stretch import Stretch
from specinfer.scheduler.late_tree import LateTree
from specinfer.scheduler.pipeline import Done, Pipeline
from specinfer.scheduler.request import Request
from specinfer.scheduler.serving import Round, Serving, Taken, going_on
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.ssm import SSMSpeculator
from specinfer.scheduler.stats import Stats
from specinfer.scheduler.token_tree import TokenTree
from specinfer.scheduler.verifiers.choice import AUTO, verifier_of


@dataclass(frozen=True, slots=True)
class Event:
    """What an iteration did for a request.

    Attributes:
        request: the request, with its output so far.
        tokens: tokens it got; none while its prompt is computed.
        verified: the tree that was verified, if one was.
        accepted: nodes of it that were accepted.
    """

    request: Request
    tokens: list[int]
    verified: TokenTree | LateTree | None = None
    accepted: Sequence[int] = ()

    @property
    def tree(self) -> TokenTree | None:
        """The tree that was verified, made if it was not."""
        found = self.verified
        return found.tree if isinstance(found, LateTree) else found


class Engine:
    """Serves requests with one LLM and any number of speculators.

    Args:
        llm: the model whose text is written.
        speculators: their trees are merged; none gives incremental decoding.
        drafting: says which speculators are asked, and how much of it is verified; by default all.
        verifier: of requests that sample: a name of
            :data:`specinfer.scheduler.verifiers.choice.VERIFIERS`, or ``auto``.
        prefill_share: of the rows of a pass, kept for prompts as long as there are that many.
        lookahead: iterations that are issued before the one before them was read; trees are then
            not for ``drafting`` to decide.
        lanes: whether they are so only as far as all their data can stay on the device; see
            :mod:`specinfer.scheduler.lanes`. How large trees are there is decided by a ladder
            where ``drafting`` is adaptive.
    """

    def __init__(
        self,
        llm: Decoder,
        speculators: Sequence[Speculator] = (),
        drafting: Drafting | None = None,
        *,
        verifier: str = AUTO,
        prefill_share: float = PREFILL_SHARE,
        lookahead: int = 0,
        lanes: bool = False,
    ) -> None:
        self.stats = Stats(tuple(speculator.name for speculator in speculators))
        self._llm = llm
        self._speculators = tuple(speculators)
        ssms = [s for s in speculators if isinstance(s, SSMSpeculator)]
        budgets = _budgets(llm, ssms, self._speculators, prefill_share)
        self._most_requests = budgets.requests
        self._batcher = Batcher(budgets, llm.slots, [ssm.slots for ssm in ssms])
        self._serving = Serving(self._batcher, self._speculators, verifier)
        self._verifier = verifier
        self._drafting = drafting or FixedTrees(self._speculators)
        self._ssms = ssms
        # As it was told: a request is one of them until its last event.
        self._requests: dict[int, Request] = {}
        self._done: deque[Done] = deque()
        self._lookahead = lookahead
        self._pipeline: Pipeline | None = None
        self._stretch: Stretch | None = None
        if lookahead and lanes:
            climbs = None
            if isinstance(drafting, AdaptiveTrees):
                climbs = partial(Ladder, cost=drafting.cost)
            self._stretch = Stretch(
                self._serving, llm, self._speculators, budgets, lookahead, verifier, climbs
            )
        elif lookahead:
            self._pipeline = Pipeline(self._serving, llm, self._speculators, budgets)

    @property
    def runtime(self) -> Runtime:
        """What issues the launches of all of its models."""
        return self._llm.model.runtime

    @property
    def is_idle(self) -> bool:
        """Whether no request waits or runs."""
        return not self._requests

    def check(self, request: Request, who: str = "") -> None:
        """Refuse a request that can never be served.

        Args:
            request: that might be submitted.
            who: what messages call it; by default its number.

        Raises:
            RequestError: what :meth:`Request.check` refuses, or more than the whole K/V pool holds.
            ConfigError: it samples, and the verifier cannot.
        """
        verifier_of(self._verifier, is_greedy=request.sampling.is_greedy)
        request.check(self._llm.model.limits.context, self._llm.model.vocabulary, who)
        self._batcher.check(request, who)

    def submit(self, request: Request) -> None:
        """Queue a request; it joins as soon as there is room.

        Raises:
            RequestError: it can never be served, or its number is in use.
        """
        self.check(request)
        if request.id in self._requests:
            raise RequestError(f"request {request.id}: this number is in use, expected another")
        self._requests[request.id] = request
        if self._pipeline is None:
            self._serving.submit(request)
        else:
            self._pipeline.submit(request)

    def cancel(self, id: int) -> None:
        """Forget a request that has not ended, and free what it holds."""
        request = self._requests.pop(id, None)
        if request is None or request.finish_reason is not None:
            return
        if self._pipeline is None:
            self._serving.cancel(id)
        else:
            self._pipeline.cancel(request)

    def run(self) -> Iterator[Event]:
        """Iterate until all requests are done, yielding what happens."""
        while not self.is_idle:
            yield from self.step()

    def step(self) -> list[Event]:
        """One iteration.

        If it breaks off, what it wrote is told by the next one, and all that ran is computed anew.
        """
        if self.is_idle:
            return []
        if not self._done:
            try:
                self._iterate()
            except BaseException:  # of its K/V some may be there, and some not
                self._recover()
                raise
        round, taken = self._done.popleft()
        self.stats.took(round.iteration, [one for _, one in taken])
        known = [(request, one) for request, one in taken if self._is_served(request)]
        for request, one in known:
            if one.has_ended:
                del self._requests[request.id]
        return [Event(request, list(one.tokens), one.tree, one.accepted) for request, one in known]

    def _is_served(self, request: Request) -> bool:
        """Whether it was not cancelled since."""
        return self._requests.get(request.id) is request

    def _iterate(self) -> None:
        """An iteration from its beginning to its end; or issue some, and read the oldest."""
        if (pipeline := self._pipeline) is not None:
            with self.stats.time("iteration"):
                while pipeline.num_in_flight <= self._lookahead:
                    pipeline.issue()
                self._done.append(pipeline.read())
            return
        if self._stretch is not None:
            with self.stats.time("iteration"):
                done = self._stretch.step()
            if done is not None:
                self.stats.num_by_lanes += 1
                self.stats.by_nodes[self._stretch.nodes] += 1
                self._has_done(*done)
                return
        round = self._serving.begin()
        if self._stretch is not None:
            self.stats.by_host[self._why_by_host(round)] += 1
        taken = self._taken(round)
        self._has_done(round, taken)
        with self.stats.time("commit"):
            self._commit(going_on(taken))
        self._serving.finish(taken)
        self._serving.let_go()

    def _why_by_host(self, round: Round) -> str:
        """What keeps an iteration off the lanes."""
        serving = self._serving
        running = [serving.requests[id] for id in serving.running]
        return why_by_host(
            self._speculators,
            running,
            lanes=self._most_requests,
            has_prompts=bool(round.iteration.chunks),
            verifier=self._verifier,
            may_join=len(running) < min(self._most_requests, len(serving.requests)),
        )

    def _has_done(self, round: Round, taken: Sequence[Taken]) -> None:
        """Have it told what an iteration did."""
        self._done.append((round, [(self._requests[one.request], one) for one in taken]))

    def _recover(self) -> None:
        """Go on behind an iteration that broke off."""
        if self._pipeline is not None:
            self._done += self._pipeline.recover()
            return
        if self._stretch is not None:
            self._stretch.drop()
        with suppress(SpecInferError):  # it was told already
            self.runtime.fence()
        for decoder in (self._llm, *(ssm.decoder for ssm in self._ssms)):
            decoder.model.start_anew()
        going = [r for r in self._requests.values() if r.finish_reason is None]
        self._serving.start_anew(going)

    def _taken(self, round: Round) -> list[Taken]:
        """Draft, verify and accept."""
        serving = self._serving
        with self.stats.time("draft"):
            trees = self._draft(round)
        works = serving.works(round, trees)
        start = perf_counter()
        with self.stats.time("verify" if trees else "prefill"):
            found = self._verify(works, serving.verifications(round, trees))
        if trees:
            nodes = {id: one.nodes for id, (one, _) in zip(trees, found, strict=False)}
            rows = sum(work.num_rows for work in works)
            self._drafting.verified(rows, perf_counter() - start, nodes)
        return serving.take(round, trees, found)

    def _draft(self, round: Round) -> dict[int, TokenTree]:
        """A tree for each request that decodes, the oldest first."""
        if not round.asks:
            return self._serving.roots(round.iteration)
        prompts = sum(chunk.num_rows for chunk in round.iteration.chunks)
        trees = self._drafting.draft(round.asks, prompts)
        return {ask.request: tree for ask, tree in zip(round.asks, trees, strict=True)}

    def _verify(self, works: Sequence[Work], verifications: Sequence[Verification]) -> list[Found]:
        """One pass of the LLM, and what it agrees with."""
        if not works:
            return []
        logits = self._llm.step(works)
        if not verifications:
            return []
        found: list[Found] = self.runtime.launch(
            accept, logits=logits, verifications=verifications
        ).get()
        return found

    def _commit(self, taken: Sequence[Taken]) -> None:
        """Keep the K/V of accepted nodes."""
        self._llm.commit([(one.request, [node - 1 for node in one.accepted]) for one in taken])
        for speculator in self._speculators:
            speculator.accept({one.request: one.tokens for one in taken})


def _budgets(
    llm: Decoder,
    ssms: Sequence[SSMSpeculator],
    speculators: Sequence[Speculator],
    prefill_share: float,
) -> Budgets:
    """The most that one iteration does, by what its models were made for."""
    of_ssms = [ssm.limits for ssm in ssms]
    limits = [llm.model.limits, *of_ssms]
    return Budgets(
        rows=llm.model.limits.rows,
        requests=min(limit.requests for limit in limits),
        chunk=min(limit.nodes for limit in limits),
        nodes=sum(speculator.max_nodes for speculator in speculators),
        depth=max((speculator.max_nodes for speculator in speculators), default=0),
        prefill_share=prefill_share,
        draft_rows=min((limit.rows for limit in of_ssms), default=0),
    )
