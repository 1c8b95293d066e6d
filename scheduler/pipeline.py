"""Iterations as launches only: the next is issued before the one before it was read.

All that an iteration does, from scheduling to commit, is a task; what one hands to the next is a
future. So the host issues an iteration without knowing what came of the one before, and reads it
while the next runs. Two things make this possible:

* *Rooms.* How large launches are must be known when they are issued: a room is the most that an
  iteration may need (:mod:`specinfer.scheduler.room`).
* *The desk.* Trees and the state of requests are plain Python values that tasks change. Who may is
  said by privileges on a region with a place for the LLM and one for each speculator; nothing is
  stored in it. So SSMs, which have places of their own, draw at the same time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import torch
from torch import Tensor

from specinfer.models.batch import StepShape, TokenBatch
from specinfer.ops.attention import commit_kv
from specinfer.runtime.errors import SpecInferError
from specinfer.runtime.future import Future
from specinfer.runtime.privilege import RW, WD, R
from specinfer.runtime.region import Subregion
from specinfer.runtime.task import task
from specinfer.scheduler.acceptance import Found, Verification, accept
from specinfer.scheduler.decoder import Decoder
from specinfer.scheduler.drafting import trees_of
from specinfer.scheduler.iteration import Budgets
from specinfer.scheduler.request import Request
from specinfer.scheduler.room import Room, Rooms
from specinfer.scheduler.serving import Round, Serving, Taken, going_on
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.drawing import Drawn
from specinfer.scheduler.speculators.proposals import ReducedVocabulary, propose
from specinfer.scheduler.speculators.ssm import Level, SSMSpeculator, level_sizes
from specinfer.scheduler.token_tree import TokenTree

Trees = Mapping[int, TokenTree]

DESK = "desk"
"""Name of its region."""
ROOMS = 32
"""Sizes of iterations whose traces are kept."""


# The tasks of an iteration


@task(desk=RW)
def submit(desk: Any, serving: Serving, request: Request) -> None:
    """Queue a request, behind what was issued before."""
    serving.submit(request)


@task(desk=RW)
def cancel(desk: Any, serving: Serving, id: int) -> None:
    """Forget a request, behind what was issued before."""
    serving.cancel(id)


@task(desk=RW)
def begin(desk: Any, serving: Serving, budgets: Budgets) -> Round:
    """Say what the iteration does."""
    return serving.begin(budgets)


@task(desk=RW)
def draw(desk: Any, speculator: Speculator, drafter: int, round: Round) -> Trees:
    """Trees of a speculator without a model."""
    return trees_of(speculator, round.contexts(drafter))


@task(desk=RW)
def begin_trees(desk: Any, ssm: SSMSpeculator, drafter: int, round: Round) -> Level:
    """Start an SSM's trees."""
    return ssm.begin(round.contexts(drafter))


@task()
def batch_of(level: Level) -> TokenBatch:
    """What a level computes."""
    return level.batch


@task(logits=R, pure=True)
def expand(logits: Tensor, level: Level, vocabulary: ReducedVocabulary | None) -> list[list[Drawn]]:
    """Children of a level's nodes; logits (rows, vocabulary)."""
    found: list[list[Drawn]] = propose(logits, level.asks, vocabulary)
    return found


@task(desk=RW)
def grow(desk: Any, ssm: SSMSpeculator, drawn: Sequence[Sequence[Drawn]]) -> Level:
    """Add a level to an SSM's trees."""
    return ssm.grow(drawn)


@task(desk=RW)
def proposed(desk: Any, ssm: SSMSpeculator) -> Trees:
    """An SSM's trees."""
    return ssm.proposed()


@task()
def gather(before: Sequence[Trees], trees: Trees) -> Sequence[Trees]:
    """One speculator's trees, behind those of the others."""
    return [*before, trees]


@task(desk=R)
def merge(desk: Any, serving: Serving, round: Round, drafts: Sequence[Trees]) -> Trees:
    """A tree for each request, of all speculators."""
    if not round.asks:
        return serving.roots(round.iteration)
    return {ask.request: ask.fitted(ask.merged(drafts)) for ask in round.asks}


@task(desk=RW)
def frame(desk: Any, serving: Serving, llm: Decoder, round: Round, trees: Trees) -> TokenBatch:
    """What the LLM computes."""
    return llm.frame(serving.works(round, trees))


@task(desk=R)
def questions(desk: Any, serving: Serving, round: Round, trees: Trees) -> list[Verification]:
    """What is to be verified."""
    return serving.verifications(round, trees)


@task(desk=RW)
def take(
    desk: Any, serving: Serving, round: Round, trees: Trees, found: Sequence[Found]
) -> list[Taken]:
    """Append what was accepted."""
    return serving.take(round, trees, found)


@task(desk=RW)
def moves_of_llm(desk: Any, llm: Decoder, taken: Sequence[Taken]) -> Tensor:
    """Where the K/V of accepted nodes go."""
    return llm.moves([(o.request, [node - 1 for node in o.accepted]) for o in going_on(taken)])


@task(desk=RW)
def moves_of_ssm(desk: Any, ssm: SSMSpeculator, taken: Sequence[Taken]) -> Tensor:
    """Where the K/V of accepted nodes that the SSM has computed go."""
    return ssm.decoder.moves(ssm.accepted({o.request: o.tokens for o in going_on(taken)}))


@task(desk=RW)
def tell(desk: Any, speculator: Speculator, taken: Sequence[Taken]) -> None:
    """Let a speculator without a model know what was accepted."""
    speculator.accept({one.request: one.tokens for one in going_on(taken)})


@task(desk=RW)
def finish(desk: Any, serving: Serving, taken: Sequence[Taken]) -> None:
    """End the iteration."""
    serving.finish(taken)


@task(desk=RW)
def let_go(desk: Any, serving: Serving) -> None:
    """Have speculators forget who has ended."""
    serving.let_go()


@task()
def report(round: Round, taken: Sequence[Taken]) -> tuple[Round, Sequence[Taken]]:
    """What an iteration did."""
    return round, taken


@task(desk=WD)
def start_anew(desk: Any, serving: Serving, requests: Sequence[Request]) -> None:
    """Forget what iterations have done that were not read."""
    serving.start_anew(requests)


Done = tuple[Round, list[tuple[Request, Taken]]]
"""An iteration, and what it did for each request that is still wanted."""


class Pipeline:
    """Issues iterations, and reads them later.

    Args:
        serving: the state of all requests; from now on only tasks touch it.
        llm: the model whose text is written.
        speculators: all of them are asked, for all that they draw.
        budgets: the most that one iteration does.
    """

    def __init__(
        self,
        serving: Serving,
        llm: Decoder,
        speculators: Sequence[Speculator],
        budgets: Budgets,
    ) -> None:
        self._serving = serving
        self._llm = llm
        self._speculators = speculators
        self._runtime = runtime = llm.model.runtime
        self._desk = runtime.region(DESK, (1 + len(speculators),), {"value": torch.int64})
        self._in_flight: deque[Future] = deque()
        self._numbers = count()
        self._requests: dict[int, Request] = {}
        self._iteration = runtime.trace("iteration", self._launch_iteration, keeps=ROOMS)
        self._ssms = [s for s in speculators if isinstance(s, SSMSpeculator)]
        self._rooms = Rooms(
            budgets,
            [[min(n, s.max_nodes) for n in level_sizes(s.expansion)] for s in self._ssms],
        )

    @property
    def num_in_flight(self) -> int:
        """Iterations that were issued, and not read."""
        return len(self._in_flight)

    def submit(self, request: Request) -> None:
        """Queue a request, behind the iterations that were issued.

        Tasks get one of their own with a number of its own: a user's may be used again.
        """
        own = self._own(request)
        self._runtime.launch(submit, desk=self._desk.part(), serving=self._serving, request=own)

    def cancel(self, request: Request) -> None:
        """Forget a request, behind the iterations that were issued."""
        (id,) = (number for number, known in self._requests.items() if known is request)
        del self._requests[id]
        self._runtime.launch(cancel, desk=self._desk.part(), serving=self._serving, id=id)

    def _own(self, request: Request) -> Request:
        number = next(self._numbers)
        self._requests[number] = request
        return request.anew(number, request.output)

    def issue(self) -> None:
        """Issue an iteration of the requests that have not ended, by what was read."""
        round, taken = self._iteration(self._rooms.next(self._requests))
        # The trace's own futures get new values with its next replay.
        self._in_flight.append(self._runtime.launch(report, round=round, taken=taken))
        self._runtime.launch(let_go, desk=self._desk.part(), serving=self._serving)

    def _launch_iteration(self, room: Room) -> tuple[Future, Future]:
        """The body of the trace: all launches of an iteration; what it did."""
        launch, serving = self._runtime.launch, self._serving
        desk, place = self._desk.part(), self._place(0)
        round = launch(begin, desk=desk, serving=serving, budgets=room.budgets)
        drafts: Any = ()
        levels = iter(room.ssms)
        for drafter, speculator in enumerate(self._speculators):
            if isinstance(speculator, SSMSpeculator):
                trees = self._drawn(drafter, speculator, round, next(levels))
            else:
                own = self._place(1 + drafter)
                trees = launch(draw, desk=own, speculator=speculator, drafter=drafter, round=round)
            drafts = launch(gather, before=drafts, trees=trees)
        trees = launch(merge, desk=place, serving=serving, round=round, drafts=drafts)
        of_round: dict[str, Any] = {"serving": serving, "round": round, "trees": trees}
        asked = launch(questions, desk=place, **of_round)
        batch = launch(frame, desk=place, llm=self._llm, **of_round)
        logits = self._llm.model.issue(batch, room.llm)
        found = launch(accept, logits=logits, verifications=asked)
        taken = launch(take, desk=place, found=found, **of_round)
        moves = launch(moves_of_llm, desk=place, llm=self._llm, taken=taken)
        launch(commit_kv, kv=self._llm.model.kv.part(), moves=moves)
        for drafter, speculator in enumerate(self._speculators):
            own = self._place(1 + drafter)
            if isinstance(speculator, SSMSpeculator):
                moves = launch(moves_of_ssm, desk=own, ssm=speculator, taken=taken)
                launch(commit_kv, kv=speculator.decoder.model.kv.part(), moves=moves)
            else:
                launch(tell, desk=own, speculator=speculator, taken=taken)
        launch(finish, desk=desk, serving=serving, taken=taken)
        return round, taken

    def read(self) -> Done:
        """What the oldest iteration in flight has done."""
        done = self._in_flight[0].get()
        self._in_flight.popleft()
        return self._told(*done)

    def _told(self, round: Round, taken: Sequence[Taken]) -> Done:
        self._rooms.read(round.iteration)
        known = [
            (self._requests[one.request], one) for one in taken if one.request in self._requests
        ]
        for request, one in known:
            request.take(one.tokens, one.logprobs)
            if one.has_ended:
                del self._requests[one.request]
        return round, known

    def recover(self) -> list[Done]:
        """Go on behind an iteration that broke off: all requests are computed anew.

        Returns:
            What those before it have done.
        """
        with suppress(SpecInferError):  # it was told already
            self._runtime.fence()
        done = []
        with suppress(SpecInferError):  # of the one that broke off
            while self._in_flight:
                done.append(self.read())
        self._in_flight.clear()
        for decoder in [self._llm, *(ssm.decoder for ssm in self._ssms)]:
            decoder.model.start_anew()
        going, self._requests = list(self._requests.values()), {}
        own = [self._own(request) for request in going]
        self._runtime.launch(
            start_anew, desk=self._desk.part(), serving=self._serving, requests=own
        )
        self._runtime.fence()
        return done

    def _place(self, number: int) -> Subregion:
        return self._desk.rows(number, number + 1)

    def _drawn(
        self, drafter: int, ssm: SSMSpeculator, round: Future, levels: Sequence[StepShape]
    ) -> Future:
        """Issue what draws an SSM's trees."""
        launch, desk = self._runtime.launch, self._place(1 + drafter)
        level = launch(begin_trees, desk=desk, ssm=ssm, drafter=drafter, round=round)
        for shape in levels:
            batch = launch(batch_of, level=level)
            logits = ssm.decoder.model.issue(batch, shape)
            children = launch(expand, logits=logits, level=level, vocabulary=ssm.vocabulary)
            level = launch(grow, desk=desk, ssm=ssm, drawn=children)
        return launch(proposed, desk=desk, ssm=ssm)
