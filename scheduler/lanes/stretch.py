"""Stretches of iterations that run on the device, and the host's books of them.

While all that run pick tokens as lanes can (:func:`~specinfer.scheduler.lanes.racing.can_write`),
and nobody can join them, iterations are issued ahead over lanes
(:mod:`specinfer.scheduler.lanes.loop`), and the host learns one iteration late what was written. It
then goes through the same steps as for any other iteration: the batcher begins it, the requests
take their tokens up to their ends, and it is finished. So a stretch may end after any iteration,
and what the host knows is as if there had been none.

What a lane writes behind the end of its text is dropped; pages are held for it beforehand.

With a :class:`~specinfer.scheduler.lanes.ladder.Ladder` each iteration draws as much as that says.
SSMs fall behind the texts where they draw nothing, and catch up right before they draw again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

from specinfer.scheduler.acceptance import Found
from specinfer.scheduler.decoder import Decoder
from specinfer.scheduler.iteration import Budgets
from specinfer.scheduler.lanes.drafters import can_catch_up, can_draw, full_rung
from specinfer.scheduler.lanes.ladder import Climb
from specinfer.scheduler.lanes.loop import Issued, LaneLoop, Result
from specinfer.scheduler.lanes.racing import can_write
from specinfer.scheduler.lanes.rungs import Rung, rungs_of, yields
from specinfer.scheduler.late_tree import LateTree
from specinfer.scheduler.request import Request
from specinfer.scheduler.serving import Round, Serving, Taken, going_on
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.ssm import SSMSpeculator
from specinfer.scheduler.token_tree import TokenTree
from specinfer.scheduler.verifiers.choice import AUTO

SHORTEST = 4
"""Iterations that a stretch must have room for to be begun."""


class Climber(Protocol):
    """Says what iterations draw, as :class:`~specinfer.scheduler.lanes.ladder.Ladder` does."""

    def begin(self) -> None:
        """Nothing that was asked for is in flight."""
        ...

    def next(self, lanes: int, left: int) -> int:
        """The rung of the next iteration."""
        ...

    def took(self, climb: Climb) -> None:
        """Take what an iteration did."""
        ...


@dataclass(frozen=True, slots=True)
class _Flying:
    """An iteration that was issued, and not read.

    Attributes:
        issued: it.
        rung: that it draws.
        has_caught_up: whether SSMs caught up right before it.
        behind: the rung of the one before it, if that was not read when it was issued.
    """

    issued: Issued
    rung: int
    has_caught_up: bool
    behind: int | None


class Stretch:
    """Runs iterations on the device for as long as it can.

    Args:
        serving: the requests, as far as the host knows.
        llm: the model whose text is written.
        speculators: of the engine.
        budgets: of any iteration.
        ahead: iterations that are issued before the one before them was read.
        verifier: of requests that sample, by name.
        ladder: makes what says how much is drawn, of the rungs that there are; None: all.
        clock: in seconds.

    Attributes:
        nodes: most of a text's tree in the iteration that was read last.
    """

    def __init__(
        self,
        serving: Serving,
        llm: Decoder,
        speculators: Sequence[Speculator],
        budgets: Budgets,
        ahead: int,
        verifier: str = AUTO,
        ladder: Callable[[Sequence[Rung]], Climber] | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._serving = serving
        self._llm = llm
        self._speculators = speculators
        self._verifier = verifier
        self._ssms = [s for s in speculators if isinstance(s, SSMSpeculator)]
        self._budgets = budgets
        self._ahead = ahead
        self._clock = clock
        self._loop: LaneLoop | None = None
        self._ladder: Climber | None = None
        if all(map(can_draw, speculators)) and can_catch_up(speculators, budgets.requests):
            full = full_rung(speculators, budgets.requests)
            rungs = (full,) if ladder is None else rungs_of(full)
            self._loop = LaneLoop(llm, speculators, rungs)
            self._ladder = None if ladder is None else ladder(rungs)
        self.nodes = 0
        self._lanes: list[Request | None] = []
        self._capacity: list[int] = []
        self._in_flight: deque[_Flying] = deque()
        self._lacking = 0
        self._read_at = 0.0

    def step(self) -> tuple[Round, list[Taken]] | None:
        """Issue what may be issued, and read the oldest iteration; None: there is none."""
        loop = self._loop
        if loop is None:
            return None
        if not self._in_flight and not self._begin(loop):
            return None
        self._retire(loop)
        if not any(self._lanes):
            self.drop()  # whoever it was issued for has ended
            return None
        while len(self._in_flight) <= self._ahead and self._may_issue(loop):
            self._in_flight.append(self._issue(loop))
        if not self._in_flight:
            return None
        done = self._read(loop, self._in_flight.popleft())
        if not self._in_flight:
            self._end(loop)
        return done

    def drop(self) -> None:
        """Forget what was issued: all that runs is computed anew."""
        self._in_flight.clear()
        self._lanes.clear()

    def _begin(self, loop: LaneLoop) -> bool:
        """Take all requests that run into lanes, if that may be done."""
        requests = self._serving.requests
        running = self._serving.running
        if not running or self._may_join(len(running)):
            return False
        texts = [requests[id].tokens for id in running]
        if not all(can_write(requests[id], self._speculators, self._verifier) for id in running):
            return False
        if not all(
            self._is_caught_up(loop, id, len(text)) for id, text in zip(running, texts, strict=True)
        ):
            return False
        least = SHORTEST * (1 + loop.depth)
        wanted = [
            len(text) + requests[id].num_remaining + (1 + self._ahead) * (1 + loop.depth)
            for id, text in zip(running, texts, strict=True)
        ]
        most = min(d.model.limits.context for d in self._decoders)
        wanted = [min(tokens, most) for tokens in wanted]
        if any(tokens < len(text) + least for tokens, text in zip(wanted, texts, strict=True)):
            return False
        for decoder in self._decoders:
            for id, tokens in zip(running, wanted, strict=True):
                if not decoder.slots.grow(id, tokens):
                    return False
        idle = rounded_lanes(len(running), self._llm.model.limits.requests) - len(running)
        self._lanes = [*(requests[id] for id in running), *[None] * idle]
        self._capacity = wanted
        pages = [
            [d.slots.pages(id, tokens) for id, tokens in zip(running, wanted, strict=True)]
            for d in self._decoders
        ]
        loop.load(texts, [requests[id].sampling for id in running], pages)
        have = [[ssm.slots.length(id) for id in running] for ssm in self._ssms]
        loop.set_drafted(have)
        lacks = (len(t) - n for own in have for t, n in zip(texts, own, strict=True))
        self._lacking = max(lacks, default=0)
        if self._ladder is not None:
            self._ladder.begin()
        return True

    @property
    def _decoders(self) -> list[Decoder]:
        return [self._llm, *(ssm.decoder for ssm in self._ssms)]

    def _is_caught_up(self, loop: LaneLoop, id: int, length: int) -> bool:
        """Whether a request is past its prompt, for all models; SSMs may be far behind on rungs."""
        if id not in self._llm.slots or self._llm.slots.length(id) != length - 1:
            return False
        least = length - loop.chain if self._ladder is None else 0
        return all(id in ssm.slots and least <= ssm.slots.length(id) < length for ssm in self._ssms)

    def _retire(self, loop: LaneLoop) -> None:
        """Write nothing more for who has ended."""
        for lane, request in enumerate(self._lanes):
            if request is not None and not self._is_served(request):
                loop.clear(lane)
                self._lanes[lane] = None

    def _is_served(self, request: Request) -> bool:
        """Whether it has not ended; another one may have its number by now."""
        return self._serving.requests.get(request.id) is request

    def _may_join(self, running: int) -> bool:
        """Whether somebody waits, and so many leave room for one more."""
        return running < min(self._budgets.requests, len(self._serving.requests))

    def _may_issue(self, loop: LaneLoop) -> bool:
        going = [(lane, one) for lane, one in enumerate(self._lanes) if one is not None]
        if not going or self._may_join(len(going)):
            return False
        # The oldest in flight may write as much as the youngest.
        written = (1 + len(self._in_flight)) * (1 + loop.depth)
        if any(one.length + written > self._capacity[lane] for lane, one in going):
            return False
        # What all of them are known to end with needs no further iteration.
        return any(one.num_remaining > len(self._in_flight) for _, one in going)

    def _issue(self, loop: LaneLoop) -> _Flying:
        """Issue an iteration, and before it what SSMs lack that are to draw."""
        lanes, rung = len(self._lanes), len(loop.rungs) - 1
        if self._ladder is not None:
            left = max(one.num_remaining for one in self._lanes if one is not None)
            rung = self._ladder.next(lanes, left - len(self._in_flight))
        lacking = self._lacking
        for one in self._in_flight:
            lacking = self._lacks_behind(loop, lacking, one, 1 + loop.rungs[one.rung].depth)
        has_caught_up = loop.rungs[rung].levels > 0 and lacking > loop.chain
        if has_caught_up:
            loop.catch_up(lanes, lacking)
        behind = self._in_flight[-1].rung if self._in_flight else None
        return _Flying(loop.issue(lanes, rung), rung, has_caught_up, behind)

    def _lacks_behind(self, loop: LaneLoop, lacking: int, one: _Flying, taken: int) -> int:
        """Most tokens of a text that SSMs lack behind an iteration.

        Args:
            loop: that was told of it.
            lacking: before it.
            one: the iteration.
            taken: most tokens that it took for a text.
        """
        return loop.chain if loop.rungs[one.rung].levels else lacking + taken

    def _learn(self, loop: LaneLoop, one: _Flying, results: Sequence[Result]) -> None:
        """Tell the ladder what an iteration did."""
        now, before = self._clock(), self._read_at
        self._read_at = now
        if self._ladder is None or not results:
            return
        gains = [0] * (1 + one.rung)
        for result in results:
            tokens = result.accepted.tokens[:-1]
            for rung, given in enumerate(yields(loop.rungs, one.rung, result.drafts, tokens)):
                gains[rung] += given - 1
        self._ladder.took(
            Climb(
                lanes=len(self._lanes),
                rung=one.rung,
                gains=gains,
                texts=len(results),
                seconds=None if one.behind is None else now - before,
                is_steady=one.behind == one.rung and not one.has_caught_up,
            )
        )

    def _read(self, loop: LaneLoop, one: _Flying) -> tuple[Round, list[Taken]]:
        """An iteration as the host sees it."""
        serving = self._serving
        lanes = {one.id: lane for lane, one in enumerate(self._lanes) if one is not None}
        budgets = replace(self._budgets, requests=len(serving.running))
        round = serving.begin(budgets, asks=False)
        ids = [decode.request for decode in round.iteration.decodes]
        results = one.issued.read([lanes[id] for id in ids])
        self._learn(loop, one, results)
        most = max((len(result.accepted.tokens) for result in results), default=0)
        self._lacking = self._lacks_behind(loop, self._lacking, one, most)
        self.nodes = loop.rungs[one.rung].nodes
        verified: dict[int, TokenTree | LateTree] = {}
        found: list[Found] = []
        for id, result in zip(ids, results, strict=True):
            root = serving.requests[id].output[-1]
            verified[id] = LateTree(root, result.drafts, result.num_nodes)
            found.append((result.accepted, []))
        taken = serving.take(round, verified, found)
        for text in going_on(taken):
            self._llm.slots.commit(text.request, len(text.tokens))
        serving.finish(taken)
        serving.let_go()
        return round, taken

    def _end(self, loop: LaneLoop) -> None:
        """Nothing is in flight: what SSMs have computed meanwhile is theirs."""
        for ssm, lengths in zip(self._ssms, loop.drafted(), strict=True):
            for lane, one in enumerate(self._lanes):
                if one is not None and self._is_served(one):
                    ssm.slots.commit(one.id, lengths[lane] - ssm.slots.length(one.id))
        self._lanes.clear()


def rounded_lanes(texts: int, most: int) -> int:
    """Lanes for so many texts: few numbers of them, since iterations of each are recorded.

    >>> [rounded_lanes(texts, 60) for texts in (1, 2, 3, 5, 8, 9, 13, 33, 50)]
    [1, 2, 3, 6, 8, 12, 16, 48, 60]
    """
    power = 1 << (texts - 1).bit_length()
    return min(power * 3 // 4 if texts <= power * 3 // 4 else power, most)
