"""A watchdog: ends a job whose ranks wait for each other, instead of leaving it to hang.

Ranks that do not run the same program may wait in different transfers, where nothing can be
exchanged any more. Each rank therefore has a thread that looks at it a few times a second. If its
rank has waited for too long, the thread asks the threads of the others what their ranks do. Only if
*all* wait, or have ended, and none has moved when it is asked again, they are taken to be stuck; a
rank that calculates for hours is left alone.

The thread also keeps a witness informed (:mod:`specinfer.runtime.witness`), and lets no rank's
process end before those of the others do: a rank that ended could not be asked.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Protocol

from specinfer.runtime.divergence import Told, first_difference, ranks_text
from specinfer.runtime.replication import History
from specinfer.runtime.witness import Witness

EXIT_CODE = 70
"""Of a job that is ended."""
TICK_SECONDS = 0.2
HASTE_SECONDS = 2.0
"""The patience where some rank has left: it cannot be waited for."""
RETRY_SECONDS = 1.0
"""Between questions to ranks that were busy."""
SILENT = 30
"""A rank whose thread does not answer for so many times the patience is given up."""


class Place:
    """Where a rank is; kept by whatever waits for other ranks.

    Attributes:
        at: what it waits in; None while it does not.
        visits: how often it has waited so far.
    """

    __slots__ = ("at", "visits")

    def __init__(self) -> None:
        self.at: object = None
        self.visits = 0


@dataclass(frozen=True, slots=True)
class State:
    """What a rank does, as its thread tells the others.

    Attributes:
        what: for people.
        visits: how often it has waited so far.
        seconds: how long it has been waiting; None if it does not.
        has_left: it will never wait again.
        told: what it issued last, if that was asked for.
    """

    what: str
    visits: int
    seconds: float | None
    has_left: bool
    told: list[Told]


@dataclass(frozen=True, slots=True)
class Question:
    """What are you doing, and what did you issue last?"""

    number: int
    wants_history: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """To a question of this number."""

    number: int
    state: State


@dataclass(frozen=True, slots=True)
class Farewell:
    """The job is being ended, and why is told by the sender."""


Message = Question | Answer | Farewell


class Wire(Protocol):
    """Messages between the threads."""

    @property
    def rank(self) -> int:
        """This one."""
        ...

    @property
    def num_ranks(self) -> int:
        """How many there are."""
        ...

    def post(self, rank: int, message: Message) -> None:
        """Send without waiting."""
        ...

    def take(self) -> tuple[int, Message] | None:
        """The next message and who sent it, if there is one."""
        ...

    def all_left(self) -> bool:
        """Whether every rank has asked this; does not wait."""
        ...

    def abort(self, code: int) -> None:
        """End all processes."""
        ...

    def free(self) -> None:
        """Give back what it took; every rank has left."""
        ...


@dataclass(slots=True)
class _Inquiry:
    """A round of questions.

    Attributes:
        number: of the round.
        ranks: who is asked.
        started: when.
        before: how often each rank had waited in the round before, when all did; None in the first.
        states: answers so far.
    """

    number: int
    ranks: list[int]
    started: float
    before: dict[int, int] | None
    states: dict[int, State] = field(default_factory=dict)


class Watchdog(threading.Thread):
    """Watches this rank.

    Args:
        wire: to the others.
        place: where this rank is.
        patience_seconds: how long a rank may wait for others that wait, too.

    Attributes:
        history: what this rank issued, once there is a runtime.
    """

    def __init__(self, wire: Wire, place: Place, patience_seconds: float) -> None:
        super().__init__(name="specinfer-watchdog", daemon=True)
        self.history: History | None = None
        self._wire = wire
        self._place = place
        self._patience = patience_seconds
        self._haste = min(HASTE_SECONDS, patience_seconds)
        self._tick = min(TICK_SECONDS, patience_seconds / 4)
        self._leaving = threading.Event()
        self._seen: tuple[int, object] = (0, None)
        self._since = time.monotonic()
        self._rounds = 0
        self._inquiry: _Inquiry | None = None
        self._is_over = False
        self._witness = Witness()  # at once: a rank may be killed before this thread first looks
        self._inform()

    def leave(self) -> None:
        """This rank needs nothing from the others any more; the thread ends when all have left."""
        self._leaving.set()

    def finish(self) -> None:
        """Leave, and wait for the others, before this process ends."""
        self.leave()
        self.join()

    def run(self) -> None:
        """Look, answer and ask until every rank has left, or the job is ended."""
        while not self._is_over:
            if not self._leaving.wait(self._tick):
                self._inform()
            elif self._wire.all_left():
                self._wire.free()
                break
            else:
                time.sleep(min(self._tick, 0.01))
            self._look()
            self._listen()
            self._inquire()
        self._witness.dismiss()
        self.history = None

    # This rank

    def _look(self) -> None:
        seen = (self._place.visits, self._place.at)
        if seen != self._seen:
            self._seen = seen
            self._since = time.monotonic()

    def _waits_seconds(self) -> float | None:
        if self._leaving.is_set() or self._seen[1] is not None:
            return time.monotonic() - self._since
        return None

    def _describe(self) -> str:
        last = "before its first launch" if self.history is None else self.history.last
        at = self._seen[1]
        if self._leaving.is_set():
            return f"ended its program {last}"
        return f"was {last}" + ("" if at is None else f", in {at}")

    def _state(self, *, wants_history: bool) -> State:
        told = self.history.told() if wants_history and self.history is not None else []
        waits, has_left = self._waits_seconds(), self._leaving.is_set()
        return State(self._describe(), self._seen[0], waits, has_left, told)

    def _inform(self) -> None:
        self._witness.note(
            f"specinfer: rank {self._wire.rank} (process {os.getpid()}) {self._describe()}, when "
            "it was ended at"
        )

    # The others

    def _listen(self) -> None:
        while (taken := self._wire.take()) is not None:
            rank, message = taken
            match message:
                case Question(number, wants_history):
                    self._wire.post(rank, Answer(number, self._state(wants_history=wants_history)))
                case Answer(number, state):
                    if self._inquiry is not None and self._inquiry.number == number:
                        self._inquiry.states[rank] = state
                case Farewell():
                    self._is_over = True

    def _inquire(self) -> None:
        """Find out whether all ranks are stuck; the first rank does, the others only ask for it."""
        seconds = self._waits_seconds()
        if seconds is None or seconds < self._haste:
            self._inquiry = None
            return
        inquiry = self._inquiry
        if inquiry is None:
            self._ask(None)
            return
        asked_seconds = time.monotonic() - inquiry.started
        if len(inquiry.states) < len(inquiry.ranks):
            if asked_seconds > SILENT * self._patience:
                silent = [rank for rank in inquiry.ranks if rank not in inquiry.states]
                self._end(f"{ranks_text(silent)} did not answer for {asked_seconds:.0f} s", inquiry)
            return
        states = [*inquiry.states.values(), self._state(wants_history=False)]
        limit = self._haste if any(state.has_left for state in states) else self._patience
        is_stuck = all(s.seconds is not None and s.seconds >= limit for s in states)
        visits = {rank: state.visits for rank, state in inquiry.states.items()}
        if self._wire.rank == 0 and is_stuck:
            if inquiry.before == visits:  # in between, all of them waited at the same time
                self._end("the ranks wait for each other in vain", inquiry)
            else:
                self._ask(visits)
        elif asked_seconds > RETRY_SECONDS:
            self._ask(None)

    def _ask(self, before: dict[int, int] | None) -> None:
        self._rounds += 1
        others = [rank for rank in range(self._wire.num_ranks) if rank != self._wire.rank]
        ranks = others if self._wire.rank == 0 else [0]
        self._inquiry = _Inquiry(self._rounds, ranks, time.monotonic(), before)
        for rank in ranks:
            self._wire.post(rank, Question(self._rounds, before is not None))

    def _end(self, why: str, inquiry: _Inquiry) -> None:
        """Say where each rank is, and end the job."""
        states = {self._wire.rank: self._state(wants_history=True), **inquiry.states}
        states = dict(sorted(states.items()))
        lines = [f"specinfer: {why}: the job is ended"]
        for rank, state in states.items():
            waits = "" if state.seconds is None else f", {state.seconds:.1f} s ago"
            lines.append(f"  rank {rank} {state.what}{waits}")
        difference = first_difference({rank: state.told for rank, state in states.items()})
        if difference is not None:
            lines.append(f"  the ranks do not run the same program: {difference}")
        print("\n".join(lines), file=sys.stderr, flush=True)
        for rank in range(self._wire.num_ranks):
            if rank != self._wire.rank:
                self._wire.post(rank, Farewell())
        self._witness.dismiss()
        time.sleep(2 * TICK_SECONDS)  # their witnesses need say nothing
        self._wire.abort(EXIT_CODE)
