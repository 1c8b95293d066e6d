"""The speculate-verify iteration over any number of requests.

Requests join and leave between iterations. Each iteration drafts a tree for every request that is
past its prompt, verifies all trees and computes prompt chunks in one pass of the LLM, takes the
accepted tokens, and commits their K/V.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from specinfer.runtime.context import Runtime
from specinfer.scheduler.acceptance import Found, Verification, accept
from specinfer.scheduler.decoder import Decoder, Work
from specinfer.scheduler.drafting import Ask, Drafting, FixedTrees
from specinfer.scheduler.errors import RequestError
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators import Context, Drawing, Speculator
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
        verifier: of requests that sample: a name of
            :data:`specinfer.scheduler.verifiers.choice.VERIFIERS`, or ``auto``.
        drafting: says which speculators are asked, and how much of it is verified; by default all.
    """

    def __init__(
        self,
        llm: Decoder,
        speculators: Sequence[Speculator] = (),
        *,
        verifier: str = AUTO,
        drafting: Drafting | None = None,
    ) -> None:
        self.stats = Stats(tuple(speculator.name for speculator in speculators))
        self._llm = llm
        self._speculators = tuple(speculators)
        self._holders: tuple[Decoder | Speculator, ...] = (llm, *speculators)
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._verifier = verifier
        self._drafting = drafting or FixedTrees(self._speculators)

    @property
    def runtime(self) -> Runtime:
        """What issues the launches of all of its models."""
        return self._llm.model.runtime

    @property
    def is_idle(self) -> bool:
        """Whether no request waits or runs."""
        return not self._waiting and not self._running

    def check(self, request: Request, who: str = "") -> None:
        """Refuse a request that can never be served.

        Args:
            request: that might be submitted.
            who: what messages call it; by default its number.

        Raises:
            RequestError: what :meth:`Request.check` refuses.
            ConfigError: it samples, and the verifier cannot.
        """
        verifier_of(self._verifier, is_greedy=request.sampling.is_greedy)
        request.check(self._llm.model.limits.context, self._llm.model.vocabulary, who)

    def submit(self, request: Request) -> None:
        """Queue a request; it joins as soon as there is room.

        Raises:
            RequestError: it can never be served, or its number is in use.
        """
        self.check(request)
        if any(request.id == other.id for other in (*self._waiting, *self._running)):
            raise RequestError(f"request {request.id}: this number is in use, expected another")
        self._waiting.append(request)

    def cancel(self, id: int) -> None:
        """Forget a request that has not ended, and free what it holds."""
        self._waiting = deque(request for request in self._waiting if request.id != id)
        if any(request.id == id for request in self._running):
            self._running = [request for request in self._running if request.id != id]
            for holder in self._holders:
                holder.release(id)

    def run(self) -> Iterator[Event]:
        """Iterate until all requests are done, yielding what happens."""
        while not self.is_idle:
            yield from self.step()

    def step(self) -> list[Event]:
        """One iteration."""
        self._admit()
        decoding = [r for r in self._running if self._num_pending(r) == 1 and r.output]
        with self.stats.time("draft"):
            trees = self._draft(decoding)
        works = [Work.of_tree(r.id, trees[r.id], chain=self._pending(r)) for r in decoding]
        works += self._prefill(sum(work.num_rows for work in works))
        start = perf_counter()
        with self.stats.time("verify" if decoding else "prefill"):
            accepted = self._verify(works, trees)
        if decoding:
            self._tell(works, accepted, perf_counter() - start)
        return self._accept(works, trees, accepted)

    def _admit(self) -> None:
        while self._waiting:
            request = self._waiting[0]
            tokens = len(request.prompt) + request.max_new_tokens
            holders = self._holders
            admitted = [h for h in holders if h.admit(request.id, tokens)]
            if len(admitted) < len(holders):
                for holder in admitted:
                    holder.release(request.id)
                if not self._running:
                    raise RequestError(
                        f"request {request.id}: no room for {tokens} tokens in an empty K/V pool"
                    )
                return
            self._running.append(self._waiting.popleft())

    def _pending(self, request: Request) -> list[int]:
        return request.tokens[self._llm.cached[request.id] :]

    def _num_pending(self, request: Request) -> int:
        return len(request.prompt) + len(request.output) - self._llm.cached[request.id]

    def _draft(self, requests: Sequence[Request]) -> dict[int, TokenTree]:
        if not requests:
            return {}
        if not self._speculators:
            return {r.id: TokenTree(r.output[-1]) for r in requests}
        prompts = sum(self._num_pending(r) for r in self._running if not r.output)
        trees = self._drafting.draft([self._ask(request) for request in requests], prompts)
        return {request.id: tree for request, tree in zip(requests, trees, strict=True)}

    def _ask(self, request: Request) -> Ask:
        """What speculators see of a request, and what verifies what they guess."""
        params, allowed = request.sampling, request.speculation
        verifier = verifier_of(self._verifier, is_greedy=params.is_greedy)
        # The last level is the LLM's own token: a tree deeper than the rest would be dropped.
        depth = allowed.depth(request.num_remaining - 1)
        context = Context(
            request.id,
            request.tokens,
            depth,
            len(request.prompt),
            max_nodes=allowed.max_nodes or None,
        )
        drawings = [
            Drawing(verifier.draws, params, params.seed or 0, drafter)
            for drafter in range(len(self._speculators))
        ]
        return Ask([replace(context, drawing=drawing) for drawing in drawings], verifier)

    def _tell(self, works: Sequence[Work], accepted: Sequence[Found], seconds: float) -> None:
        """Let drafting learn what a pass came to."""
        verified = (work.request for work in works if work.chain_logits)
        nodes = {id: found.nodes for id, (found, _) in zip(verified, accepted, strict=True)}
        self._drafting.verified(sum(work.num_rows for work in works), seconds, nodes)

    def _prefill(self, num_rows: int) -> list[Work]:
        """Chunks of prompts, first come first served, in the rows that are left."""
        works = []
        limits = self._llm.model.limits
        for request in self._running:
            room = min(limits.rows - num_rows, limits.nodes)
            if not request.output and room > 0:
                pending = self._pending(request)
                chunk = pending[:room]
                is_last = len(chunk) == len(pending)
                works.append(Work(request=request.id, chain=chunk, chain_logits=is_last))
                num_rows += len(chunk)
                self.stats.num_prompt_tokens += len(chunk)
        return works

    def _verify(self, works: Sequence[Work], trees: Mapping[int, TokenTree]) -> list[Found]:
        """One pass of the LLM, and what it agrees with: of each work whose logits are wanted."""
        runtime = self._llm.model.runtime
        logits = self._llm.step(works)
        self.stats.num_passes += 1
        if logits.space.is_empty:
            return []
        requests = {request.id: request for request in self._running}
        verifications = [
            self._verification(requests[work.request], trees.get(work.request))
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
        requests = {request.id: request for request in self._running}
        for work in works:
            request, tree = requests[work.request], trees.get(work.request)
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
        self._running = [request for request in self._running if request.finish_reason is None]
        for event in events:
            if event.request.finish_reason is not None:
                for holder in self._holders:
                    holder.release(event.request.id)
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
