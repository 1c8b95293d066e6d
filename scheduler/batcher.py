"""Who computes what in the next iteration: a state machine without models, time or threads.

Requests are served in the order they came. One is admitted when there are pages for its text as it
is now, not for the longest that it may become. When pages run out, the youngest one that runs is
preempted: it gives back its K/V, waits, and goes on from prompt and output later. The oldest one is
never preempted and gets rows in every iteration; so each request becomes the oldest, and ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.errors import RequestError
from specinfer.scheduler.iteration import (
    Admitted,
    Allocate,
    Budgets,
    Chunk,
    Decode,
    Iteration,
    Outcome,
    equal_shares,
)
from specinfer.scheduler.kv_pages import KVPages, num_pages
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculation import UNLIMITED, Speculation

_NOTHING = Outcome()


@dataclass(slots=True, eq=False)
class _Text:
    """A request as the batcher sees it.

    Attributes:
        id: its number.
        tokens: prompt and output.
        num_remaining: tokens that may still be written.
        has_output: whether one was.
        speculation: how much may be guessed for it.
        is_leaving: whether it is cancelled or has ended, and leaves when the iteration is done.
    """

    id: int
    tokens: list[int]
    num_remaining: int
    has_output: bool
    speculation: Speculation = UNLIMITED
    is_leaving: bool = False

    def take(self, tokens: Sequence[int]) -> None:
        """Append what was written."""
        self.tokens += tokens
        self.num_remaining -= len(tokens)
        self.has_output |= len(tokens) > 0


class Batcher:
    """Schedules requests over the K/V pools of one LLM and any number of SSMs.

    :meth:`begin` says what an iteration does; who carries it out tells the pools how many tokens of
    a text the models have computed; :meth:`finish` takes what came of it, or :meth:`abandon`.

    Args:
        budgets: the most that one iteration does.
        llm: the LLM's pages. A request runs if it has its text there.
        ssms: pages of each SSM. One that has no room for a request is not asked about it.
        allocate: divides the rows that roots and prompts leave over among the trees.
    """

    def __init__(
        self,
        budgets: Budgets,
        llm: KVPages,
        ssms: Sequence[KVPages] = (),
        allocate: Allocate = equal_shares,
    ) -> None:
        self._usual = self._budgets = budgets
        self._llm = llm
        self._pools = (llm, *ssms)
        self._allocate = allocate
        # All that run are older than all that wait; both are in the order in which they came.
        self._running: list[_Text] = []
        self._waiting: deque[_Text] = deque()
        self._freed: list[list[int]] = [[] for _ in self._pools]
        self._in_flight: Iteration | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request waits or runs."""
        return not self._waiting and not self._running

    @property
    def is_in_flight(self) -> bool:
        """Whether an iteration has begun, and not ended."""
        return self._in_flight is not None

    @property
    def running(self) -> list[int]:
        """Requests that have K/V, the oldest first."""
        return [text.id for text in self._running]

    @property
    def waiting(self) -> list[int]:
        """Requests that have none, the next to be admitted first."""
        return [text.id for text in self._waiting]

    def check(self, request: Request, who: str = "") -> None:
        """Refuse a request that could not run even alone.

        Args:
            request: that might be submitted.
            who: what messages call it; by default its number.

        Raises:
            RequestError: the pool of the LLM has not the pages of its longest text.
        """
        # The last token is never computed.
        longest = len(request.prompt) + request.max_new_tokens - 1
        if (needed := num_pages(longest)) > self._llm.num_pages:
            raise RequestError(
                f"{who or f'request {request.id}'}: {len(request.prompt)} prompt tokens and "
                f"{request.max_new_tokens} new ones take {needed} pages, expected at most "
                f"{self._llm.num_pages}, which is the whole K/V pool"
            )

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            RequestError: it can never run, or its number is in use.
        """
        self.check(request)
        if any(request.id == text.id for text in self._all()):
            raise RequestError(f"request {request.id}: this number is in use, expected another")
        self._waiting.append(
            _Text(
                request.id,
                request.tokens,
                request.num_remaining,
                bool(request.output),
                request.speculation,
            )
        )

    def cancel(self, request: int) -> bool:
        """Forget a request; if it runs, when the iteration is done.

        Returns:
            Whether there was such a request.
        """
        for text in self._all():
            if text.id == request and not text.is_leaving:
                text.is_leaving = True
                if self._in_flight is None:
                    self._let_leave()
                return True
        return False

    def begin(self, budgets: Budgets | None = None) -> Iteration:
        """What the next iteration does; empty if no request is there.

        Args:
            budgets: of this iteration; by default, those of all. There must be a row for each
                request that runs.
        """
        assert self._in_flight is None, "the last iteration was not finished"
        self._budgets = budgets or self._usual
        assert len(self._running) <= self._budgets.requests
        preempted = self._make_room()
        admitted = () if preempted else tuple(self._admit())
        decoding = [text for text in self._running if self._is_decoding(text)]
        prefilling = [text for text in self._running if not self._is_decoding(text)]
        rows = self._budgets.rows - len(decoding)
        pending = sum(min(self._num_pending(text), self._budgets.chunk) for text in prefilling)
        decodes = self._decodes(decoding, rows - min(pending, self._budgets.prefill_rows))
        rows -= sum(decode.nodes for decode in decodes)
        drafting = [
            (text, decode) for text, decode in zip(decoding, decodes, strict=True) if decode.nodes
        ]
        self._in_flight = Iteration(
            admitted=admitted,
            preempted=preempted,
            chunks=tuple(self._chunks(self._llm, prefilling, rows)),
            decodes=decodes,
            drafts=tuple(self._drafts(ssm, drafting) for ssm in range(1, len(self._pools))),
            freed=tuple(map(tuple, self._freed)),
        )
        self._freed = [[] for _ in self._pools]
        return self._in_flight

    def finish(self, outcomes: Mapping[int, Outcome]) -> None:
        """Take what an iteration did.

        Args:
            outcomes: by request; who is missing got nothing.
        """
        done = self._take(outcomes)
        for text in self._running:
            for pool in self._pools:
                if text.id in pool:
                    pool.share(text.id, text.tokens)
        self._let_leave()
        going_on = {text.id: text for text in self._running}
        for chunk in done.chunks:
            if chunk.request in going_on:
                assert self._llm.length(chunk.request) == chunk.stop, chunk
        for decode in done.decodes:
            if decode.request in going_on:
                assert self._is_decoding(going_on[decode.request]), decode

    def abandon(self, outcomes: Mapping[int, Outcome]) -> None:
        """Take what an iteration did that broke off: what it computed is unknown, and forgotten.

        All that run give back their K/V and wait. Their texts go on with the next iteration.

        Args:
            outcomes: by request; who is missing got nothing.
        """
        self._take(outcomes)
        self._let_leave()
        while self._running:
            self._preempt()

    def forget(self) -> None:
        """Find no K/V of what was computed up to now; no request runs."""
        for pool in self._pools:
            pool.forget()

    def _take(self, outcomes: Mapping[int, Outcome]) -> Iteration:
        """Append what was written; return what had been told."""
        done, self._in_flight = self._in_flight, None
        assert done is not None, "no iteration was begun"
        assert outcomes.keys() <= {text.id for text in self._running}
        for text in self._running:
            outcome = outcomes.get(text.id, _NOTHING)
            text.take(outcome.tokens)
            text.is_leaving |= outcome.has_ended
            assert text.is_leaving or text.num_remaining > 0, text.id
        return done

    def _all(self) -> Iterable[_Text]:
        return (*self._running, *self._waiting)

    def _num_pending(self, text: _Text) -> int:
        """Tokens whose K/V the LLM lacks; the last one always."""
        return len(text.tokens) - self._llm.length(text.id)

    def _is_decoding(self, text: _Text) -> bool:
        return text.has_output and self._num_pending(text) == 1

    def _let_leave(self) -> None:
        for text in self._running:
            if text.is_leaving:
                self._give_back(text)
        self._running = [text for text in self._running if not text.is_leaving]
        self._waiting = deque(text for text in self._waiting if not text.is_leaving)

    def _give_back(self, text: _Text) -> None:
        for model, pool in enumerate(self._pools):
            if text.id in pool:
                self._release(model, text)

    def _release(self, model: int, text: _Text) -> None:
        self._pools[model].release(text.id)
        self._freed[model].append(text.id)

    def _make_room(self) -> tuple[int, ...]:
        """Have pages for all texts as they are, preempting the youngest as long as it must be."""
        preempted = []
        at = 0
        while at < len(self._running):
            if self._llm.grow(self._running[at].id, len(self._running[at].tokens)):
                at += 1
            else:
                preempted.append(self._preempt())
        return tuple(reversed(preempted))

    def _preempt(self) -> int:
        youngest = self._running.pop()
        self._give_back(youngest)
        self._waiting.appendleft(youngest)
        return youngest.id

    def _admit(self) -> Iterable[Admitted]:
        """Those who came first, as long as there are pages, and rows that nobody else takes."""
        taken = sum(min(self._num_pending(text), self._budgets.chunk) for text in self._running)
        while (
            self._waiting
            and len(self._running) < self._budgets.requests
            and taken < self._budgets.rows
        ):
            text = self._waiting[0]
            # A page for each that runs: else who comes now may have to go at once.
            cached = self._llm.admit(text.id, text.tokens, spare=len(self._running))
            if cached is None:
                return
            self._running.append(self._waiting.popleft())
            taken += min(self._num_pending(text), self._budgets.chunk)
            yield Admitted(text.id, cached)

    def _decodes(self, texts: Sequence[_Text], rows: int) -> tuple[Decode, ...]:
        """How large the trees may be: by pages that nobody needs more, and by rows."""
        asking = []
        for text in texts:
            # The last token is the LLM's own: a tree deeper than the rest would be dropped.
            depth = text.speculation.depth(min(self._budgets.depth, text.num_remaining - 1))
            if not self._llm.grow(text.id, len(text.tokens) + depth):
                depth = self._llm.capacity(text.id) - len(text.tokens)
            most = min(self._budgets.nodes, text.speculation.max_nodes or self._budgets.nodes)
            asking.append(Decode(text.id, most if depth else 0, depth))
        nodes = self._allocate(asking, rows)
        if (
            len(nodes) != len(asking)
            or sum(nodes) > rows
            or any(not 0 <= n <= decode.nodes for n, decode in zip(nodes, asking, strict=True))
        ):
            raise ConfigError(
                f"allocation of nodes: {list(nodes)}, expected at most "
                f"{[decode.nodes for decode in asking]}, and {rows} together"
            )
        return tuple(
            replace(decode, nodes=n, depth=min(n, decode.depth))
            for n, decode in zip(nodes, asking, strict=True)
        )

    def _chunks(self, pool: KVPages, texts: Iterable[_Text], rows: int) -> Iterable[Chunk]:
        """What a model computes of these texts, the first of them first."""
        for text in texts:
            start = pool.length(text.id)
            stop = min(start + min(self._budgets.chunk, rows), len(text.tokens))
            if stop > start:
                rows -= stop - start
                yield Chunk(text.id, start, stop, is_last=stop == len(text.tokens))

    def _drafts(self, ssm: int, drafting: Sequence[tuple[_Text, Decode]]) -> tuple[Chunk, ...]:
        """What an SSM computes of the texts that it has room for."""
        pool = self._pools[ssm]
        texts = [text for text, decode in drafting if self._has_room(ssm, text, decode.depth)]
        return tuple(self._chunks(pool, texts, self._budgets.draft_rows or self._budgets.rows))

    def _has_room(self, ssm: int, text: _Text, depth: int) -> bool:
        """Whether an SSM has pages for a text and its tree; the younger make room for the older.

        Who has none yet takes them from nobody: else two would take them from each other for ever.
        """
        pool, length = self._pools[ssm], len(text.tokens)
        if text.id not in pool:
            spare = num_pages(length + depth) - num_pages(length) + len(pool.requests)
            if pool.admit(text.id, text.tokens, spare) is None:
                return False
        while not pool.grow(text.id, length + depth):
            youngest = [other for other in self._running if other.id in pool][-1]
            self._release(ssm, youngest)
            if youngest is text:
                return False
        return True
