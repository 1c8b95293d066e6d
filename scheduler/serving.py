"""What an iteration does to requests, as pure code between the passes of the models.

Who conducts it is another matter: :mod:`specinfer.scheduler.engine` waits for each result before it
goes on, :mod:`specinfer.scheduler.pipeline` makes launches of all of it and reads them later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from specinfer.scheduler.acceptance import Found, Verification
from specinfer.scheduler.batcher import Batcher
from specinfer.scheduler.decoder import Work
from specinfer.scheduler.drafting import Ask
from specinfer.scheduler.iteration import Budgets, Chunk, Decode, Iteration, Outcome
from specinfer.scheduler.late_tree import LateTree
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.logprobs import TokenLogprobs
from specinfer.scheduler.speculators import Context, Drawing, Speculator
from specinfer.scheduler.speculators.ssm import SSMSpeculator
from specinfer.scheduler.token_tree import TokenTree
from specinfer.scheduler.verifiers.choice import verifier_of


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """What one iteration does.

    Attributes:
        iteration: what the batcher has told.
        asks: for the trees of all requests that decode; none without speculators.
    """

    iteration: Iteration
    asks: Sequence[Ask]

    def contexts(self, drafter: int) -> list[Context]:
        """What a speculator is told, of all requests that it is asked about."""
        contexts = (ask.contexts[drafter] for ask in self.asks)
        return [context for context in contexts if context.max_depth > 0]


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """What an iteration did for a request.

    Attributes:
        request: its number.
        tokens: those it got; none while its text is computed.
        logprobs: of each of them, if they are wanted.
        tree: that was verified, if one was.
        accepted: nodes of it.
        has_ended: whether the text ends with these tokens.
    """

    request: int
    tokens: Sequence[int] = ()
    logprobs: Sequence[TokenLogprobs] = ()
    tree: TokenTree | LateTree | None = None
    accepted: Sequence[int] = ()
    has_ended: bool = False


class Serving:
    """Requests that are served, as far as iterations were carried out.

    In turn: :meth:`begin`, :meth:`works`, :meth:`verifications`, :meth:`take`, :meth:`finish`; or
    :meth:`start_anew` anywhere.

    Args:
        batcher: says what is done.
        speculators: in the order of their numbers.
        verifier: of requests that sample, by name.

    Attributes:
        requests: by number.
    """

    def __init__(self, batcher: Batcher, speculators: Sequence[Speculator], verifier: str) -> None:
        self.requests: dict[int, Request] = {}
        self._batcher = batcher
        self._speculators = speculators
        self._verifier = verifier
        self._lengths: dict[int, int] = {}
        self._ended: list[int] = []

    @property
    def running(self) -> list[int]:
        """Requests that have K/V, the oldest first."""
        return self._batcher.running

    def submit(self, request: Request) -> None:
        """Queue a request that was checked.

        Raises:
            RequestError: its number is in use.
        """
        self._batcher.submit(request)
        self.requests[request.id] = request

    def cancel(self, id: int) -> None:
        """Forget a request, between iterations."""
        if self._batcher.cancel(id):
            del self.requests[id]
            self._ended.append(id)
            self.let_go()

    def begin(self, budgets: Budgets | None = None, *, asks: bool = True) -> Round:
        """What the next iteration does.

        Args:
            budgets: it does at most so much; by default what the batcher was told.
            asks: whether speculators are to be asked.
        """
        iteration = self._batcher.begin(budgets)
        self._lengths = {id: len(self.requests[id].output) for id in self._batcher.running}
        computed = [{c.request: c.stop for c in chunks} for chunks in iteration.drafts]
        decodes = iteration.decodes if self._speculators and asks else ()
        return Round(iteration, [self._ask(decode, computed) for decode in decodes])

    def roots(self, iteration: Iteration) -> dict[int, TokenTree]:
        """Trees of an iteration in which nobody guesses."""
        ids = (decode.request for decode in iteration.decodes)
        return {id: TokenTree(self.requests[id].output[-1]) for id in ids}

    def works(self, round: Round, trees: Mapping[int, TokenTree]) -> list[Work]:
        """What the LLM computes: trees behind their roots, then parts of texts."""
        works = [Work.of_tree(id, tree, chain=[tree.root]) for id, tree in trees.items()]
        return works + [self._prefill(chunk) for chunk in round.iteration.chunks]

    def verifications(self, round: Round, trees: Mapping[int, TokenTree]) -> list[Verification]:
        """What is verified, in the order of the works whose logits are wanted."""
        ends = (chunk.request for chunk in round.iteration.chunks if chunk.is_last)
        return [self._verification(id, tree) for id, tree in trees.items()] + [
            # Behind a prompt there is nothing to verify, and a token to pick.
            self._verification(id, TokenTree(self.requests[id].tokens[-1]))
            for id in ends
        ]

    def take(
        self, round: Round, trees: Mapping[int, TokenTree | LateTree], found: Sequence[Found]
    ) -> list[Taken]:
        """Append what was accepted, up to the end of each text.

        Args:
            round: of the iteration.
            trees: that were verified.
            found: of each verification; what is behind them is nobody's.
        """
        each = iter(found)
        taken = [self._taken(id, tree, next(each)) for id, tree in trees.items()]
        for chunk in round.iteration.chunks:
            is_last = chunk.is_last
            id = chunk.request
            taken.append(self._taken(id, None, next(each)) if is_last else Taken(id))
        return taken

    def finish(self, taken: Sequence[Taken]) -> None:
        """End an iteration whose K/V have been committed; then :meth:`let_go`."""
        self._batcher.finish(self._outcomes())
        ended = [one.request for one in taken if one.has_ended]
        for id in ended:
            del self.requests[id]
        self._ended += ended

    def let_go(self) -> None:
        """Tell speculators, which somebody else may have written, who has ended.

        Raises:
            Exception: what the first one raised that did.
        """
        ended, self._ended = self._ended, []
        errors = []
        for speculator in self._speculators:
            for id in ended:
                try:
                    speculator.release(id)
                except Exception as error:
                    errors.append(error)
        if errors:
            raise errors[0]

    def start_anew(self, requests: Sequence[Request]) -> None:
        """Forget all, wherever an iteration broke off and its K/V too, and serve these requests."""
        self._ended += self.requests
        if self._batcher.is_in_flight:
            self._batcher.abandon({})
        for id in self.requests:
            self._batcher.cancel(id)
        self._batcher.forget()
        self.requests.clear()
        for request in requests:
            self.submit(request)
        with suppress(Exception):  # something else broke off
            self.let_go()

    def _outcomes(self) -> dict[int, Outcome]:
        """What requests got since the iteration began."""
        requests = {id: self.requests[id] for id in self._lengths}
        return {
            id: Outcome(request.output[self._lengths[id] :], request.finish_reason is not None)
            for id, request in requests.items()
        }

    def _ask(self, decode: Decode, computed: Sequence[Mapping[int, int]]) -> Ask:
        """What speculators see of a request, and what verifies what they guess.

        Args:
            decode: the request, and how large its tree may be.
            computed: by SSM: how far it computes each text; who is missing is not asked about.
        """
        request, of_ssms = self.requests[decode.request], iter(computed)
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

    def _prefill(self, chunk: Chunk) -> Work:
        """A part of a text that the LLM lacks."""
        tokens = self.requests[chunk.request].tokens[chunk.start : chunk.stop]
        return Work(request=chunk.request, chain=tokens, chain_logits=chunk.is_last)

    def _verification(self, id: int, tree: TokenTree) -> Verification:
        request = self.requests[id]
        params = request.sampling
        return Verification(
            tree,
            request.tokens,
            len(request.prompt),
            params,
            params.seed or 0,
            verifier_of(self._verifier, is_greedy=params.is_greedy),
            request.num_logprobs,
        )

    def _taken(self, id: int, tree: TokenTree | LateTree | None, found: Found) -> Taken:
        """Take what was accepted; what lies past the end of the text is dropped."""
        accepted, logprobs = found
        request = self.requests[id]
        kept = request.take(accepted.tokens, logprobs)
        return Taken(
            id,
            kept,
            logprobs[: len(kept)],
            tree,
            accepted.nodes[: len(kept)],
            request.finish_reason is not None,
        )


def going_on(taken: Sequence[Taken]) -> list[Taken]:
    """What had a tree verified, and goes on: the K/V of one that has ended are of no use."""
    return [one for one in taken if one.tree is not None and not one.has_ended]
