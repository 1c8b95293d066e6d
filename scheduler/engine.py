"""The speculate-verify iteration over any number of requests.

Requests join and leave between iterations. Each iteration drafts a tree for every request that is
past its prompt, verifies all trees and computes prompt chunks in one pass of the LLM, takes the
accepted tokens, and commits their K/V.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from specinfer.runtime.context import Runtime
from specinfer.scheduler.acceptance import Found, Verification, accept
from specinfer.scheduler.batcher import Batcher
from specinfer.scheduler.decoder import Decoder, Work
from specinfer.scheduler.drafting import Ask, Drafting, FixedTrees
from specinfer.scheduler.iteration import (
    PREFILL_SHARE,
    Budgets,
    Chunk,
    Decode,
    Iteration,
    Outcome,
)
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators import Context, Drawing, Speculator
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
        tree: the tree that was verified, if one was.
        accepted: nodes of it that were accepted.
    """

    request: Request
    tokens: list[int]
    tree: TokenTree | None = None
    accepted: Sequence[int] = ()


class Engine:
    """Serves requests with one LLM and any number of speculators.

    Args:
        llm: the model whose text is written.
        speculators: their trees are merged; none gives incremental decoding.
        drafting: says which speculators are asked, and how much of it is verified; by default all.
        verifier: of requests that sample: a name of
            :data:`specinfer.scheduler.verifiers.choice.VERIFIERS`, or ``auto``.
        prefill_share: of the rows of a pass, kept for prompts as long as there are that many.
    """

    def __init__(
        self,
        llm: Decoder,
        speculators: Sequence[Speculator] = (),
        drafting: Drafting | None = None,
        *,
        verifier: str = AUTO,
        prefill_share: float = PREFILL_SHARE,
    ) -> None:
        self.stats = Stats(tuple(speculator.name for speculator in speculators))
        self._llm = llm
        self._speculators = tuple(speculators)
        ssms = [s for s in speculators if isinstance(s, SSMSpeculator)]
        budgets = _budgets(llm, ssms, self._speculators, prefill_share)
        self._batcher = Batcher(budgets, llm.slots, [ssm.slots for ssm in ssms])
        self._requests: dict[int, Request] = {}
        self._verifier = verifier
        self._drafting = drafting or FixedTrees(self._speculators)

    @property
    def runtime(self) -> Runtime:
        """What issues the launches of all of its models."""
        return self._llm.model.runtime

    @property
    def is_idle(self) -> bool:
        """Whether no request waits or runs."""
        return self._batcher.is_idle

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
        self._batcher.submit(request)
        self._requests[request.id] = request

    def cancel(self, id: int) -> None:
        """Forget a request that has not ended, and free what it holds."""
        if self._batcher.cancel(id):
            self._forget(id)

    def run(self) -> Iterator[Event]:
        """Iterate until all requests are done, yielding what happens."""
        while not self.is_idle:
            yield from self.step()

    def step(self) -> list[Event]:
        """One iteration.

        If it breaks off, what it wrote is kept, and all that ran is computed anew by the next one.
        """
        iteration = self._batcher.begin()
        self.stats.began(iteration)
        lengths = {id: len(self._requests[id].output) for id in self._batcher.running}
        try:
            events = self._carry_out(iteration)
        except BaseException:  # of its K/V some may be there, and some not
            self._batcher.abandon(self._outcomes(lengths))
            for id in lengths:
                self._let_go(id)
            raise
        self._batcher.finish(self._outcomes(lengths))
        for event in events:
            if event.request.finish_reason is not None:
                self._forget(event.request.id)
        return events

    def _forget(self, id: int) -> None:
        del self._requests[id]
        self._let_go(id)

    def _let_go(self, id: int) -> None:
        for speculator in self._speculators:
            speculator.release(id)

    def _outcomes(self, lengths: Mapping[int, int]) -> dict[int, Outcome]:
        """What requests got since their outputs had so many tokens."""
        requests = {id: self._requests[id] for id in lengths}
        return {
            id: Outcome(request.output[lengths[id] :], request.finish_reason is not None)
            for id, request in requests.items()
        }

    def _carry_out(self, iteration: Iteration) -> list[Event]:
        """Draft, verify, accept and commit."""
        with self.stats.time("draft"):
            trees = self._draft(iteration)
        works = [Work.of_tree(request, tree, chain=[tree.root]) for request, tree in trees.items()]
        works += [self._prefill(chunk) for chunk in iteration.chunks]
        start = perf_counter()
        with self.stats.time("verify" if trees else "prefill"):
            accepted = self._verify(works, trees)
        if trees:
            self._tell(works, accepted, perf_counter() - start)
        return self._accept(works, trees, accepted)

    def _draft(self, iteration: Iteration) -> dict[int, TokenTree]:
        """A tree for each request that decodes, the oldest first."""
        if not iteration.decodes:
            return {}
        if not self._speculators:
            last = [(d.request, self._requests[d.request].output[-1]) for d in iteration.decodes]
            return {request: TokenTree(token) for request, token in last}
        computed = [{c.request: c.stop for c in chunks} for chunks in iteration.drafts]
        asks = [self._ask(decode, computed) for decode in iteration.decodes]
        prompts = sum(chunk.num_rows for chunk in iteration.chunks)
        trees = self._drafting.draft(asks, prompts)
        return {ask.request: tree for ask, tree in zip(asks, trees, strict=True)}

    def _ask(self, decode: Decode, computed: Sequence[Mapping[int, int]]) -> Ask:
        """What speculators see of a request, and what verifies what they guess.

        Args:
            decode: the request, and how large its tree may be.
            computed: by SSM: how far it computes each text; who is missing is not asked about.
        """
        request, of_ssms = self._requests[decode.request], iter(computed)
        params = request.sampling
        verifier = verifier_of(self._verifier, is_greedy=params.is_greedy)
        context = Context(
            request.id,
            request.tokens,
            decode.depth,
            len(request.prompt),
            max_nodes=decode.nodes,
        )
        contexts = []
        for drafter, speculator in enumerate(self._speculators):
            drawing = Drawing(verifier.draws, params, params.seed or 0, drafter)
            told = replace(context, drawing=drawing)
            if isinstance(speculator, SSMSpeculator):
                stop = next(of_ssms).get(request.id)
                told = replace(told, computed=stop, max_depth=0 if stop is None else decode.depth)
            contexts.append(told)
        return Ask(contexts, verifier)

    def _tell(self, works: Sequence[Work], accepted: Sequence[Found], seconds: float) -> None:
        """Let drafting learn what a pass came to."""
        verified = (work.request for work in works if work.chain_logits)
        nodes = {id: found.nodes for id, (found, _) in zip(verified, accepted, strict=True)}
        self._drafting.verified(sum(work.num_rows for work in works), seconds, nodes)

    def _prefill(self, chunk: Chunk) -> Work:
        """A part of a text that the LLM lacks."""
        tokens = self._requests[chunk.request].tokens[chunk.start : chunk.stop]
        self.stats.num_prompt_tokens += len(tokens)
        return Work(request=chunk.request, chain=tokens, chain_logits=chunk.is_last)

    def _verify(self, works: Sequence[Work], trees: Mapping[int, TokenTree]) -> list[Found]:
        """One pass of the LLM, and what it agrees with: of each work whose logits are wanted."""
        runtime = self._llm.model.runtime
        logits = self._llm.step(works)
        self.stats.num_passes += 1
        if logits.space.is_empty:
            return []
        verifications = [
            self._verification(self._requests[work.request], trees.get(work.request))
            for work in works
            if work.chain_logits
        ]
        found: list[Found] = runtime.launch(
            accept, logits=logits, verifications=verifications
        ).get()
        return found

    def _verification(self, request: Request, tree: TokenTree | None) -> Verification:
        """Behind a prompt there is nothing to verify, and a token to pick."""
        tokens, params = request.tokens, request.sampling
        return Verification(
            tree or TokenTree(tokens[-1]),
            tokens,
            len(request.prompt),
            params,
            params.seed or 0,
            verifier_of(self._verifier, is_greedy=params.is_greedy),
            request.num_logprobs,
        )

    def _accept(
        self,
        works: Sequence[Work],
        trees: Mapping[int, TokenTree],
        accepted: Sequence[Found],
    ) -> list[Event]:
        events, found = [], iter(accepted)
        for work in works:
            request, tree = self._requests[work.request], trees.get(work.request)
            if not work.chain_logits:
                events.append(Event(request, []))
            elif tree is None:
                events.append(_verified(request, None, next(found)))
            else:
                events.append(_verified(request, tree, next(found)))
                self.stats.verified(tree, events[-1].accepted, len(events[-1].tokens))
        self.stats.num_tokens += sum(len(event.tokens) for event in events)
        with self.stats.time("commit"):
            self._commit([event for event in events if event.tree is not None])
        return events

    def _commit(self, events: Sequence[Event]) -> None:
        """Keep the K/V of accepted nodes; a request that has ended needs none."""
        going_on = [event for event in events if event.request.finish_reason is None]
        self._llm.commit([(e.request.id, [node - 1 for node in e.accepted]) for e in going_on])
        for speculator in self._speculators:
            speculator.accept({event.request.id: event.tokens for event in going_on})


def _verified(request: Request, tree: TokenTree | None, found: Found) -> Event:
    """Take what was accepted; what lies past the end of the text is dropped."""
    accepted, logprobs = found
    kept = request.take(accepted.tokens, logprobs)
    return Event(request, kept, tree, accepted.nodes[: len(kept)])


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
