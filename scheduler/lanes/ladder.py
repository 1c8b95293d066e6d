"""Which rung an iteration over lanes draws: the one that gives most tokens in a given time.

What a rung gives is known from every iteration on it or on a larger one, whose trees contain its
own (:mod:`specinfer.scheduler.lanes.rungs`). Gains, the tokens beside the LLM's own, are averages
that follow the text. What has not been seen of late is guessed from the rung below: how many times
its gain a rung has, changes less than the gain itself.

What a rung takes is measured where it follows itself; before that it is guessed from a curve of
costs, stretched by what is known. The first runs on a rung are recorded and captured, and tell
nothing.

A larger rung must be tried, now and then, to know what it gives, and a smaller one to know what it
takes. Each rung earns a share of the time that passes, and is tried when that pays for it. What a
trial costs is what could have been written in its time on the best rung; one that looks well is
followed by a longer one at once. Nothing here waits, or looks at a clock: whoever asks tells times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import ceil, log
from operator import mul

import numpy as np

from specinfer.scheduler.lanes.rungs import Rung
from specinfer.scheduler.step_cost import StepCost

SHARE = 0.015
"""Of the time that may go into trials in the long run."""
HOPELESS, FALLING = 0.03, 4.0
"""The least part of that for a rung, and how fast it falls with the rate that one seems to have."""
SHORT, LONG = 4, 16
"""Texts' iterations of a trial, and of one behind a trial that looked well."""
SOONEST = 24
"""Iterations between trials, if the last one did not look well."""
FORGOTTEN = 160
"""Tokens of a text after which what was seen counts half."""
REMEMBERED = 16
"""Iterations of texts that what was seen last counts for, however long ago that was."""
LEARNED = 1024
"""Iterations of texts after which what was learned of gains in the long run counts half."""
GUESSED = 8
"""Iterations of texts that a guess of a gain counts for."""
ACCEPTANCE = [n / 20 for n in range(21)]
"""Where gains are computed, to see what that of one rung says of the next."""
HOPE = 0.6
"""The one that is expected before anything is known."""
TINY = 1e-9
LEVEL = 0.1
"""Of an LLM's step: what an SSM's level is expected to take."""
FIRST = 12
"""Iterations of texts on the first rung, before any others are thought of."""
UNTOLD = 3
"""First runs on a rung, of which times tell nothing."""
KEPT = 9
"""Times that are kept."""
BETTER = 1.01
"""Times the tokens in a given time that another rung must give."""
ENOUGH = 3
"""Times that are believed, however they differ from what was expected."""
DOUBTED = 2.0
"""Times what was expected: fewer ones are not believed to be more."""
HOPED, UNKNOWN = 0.8, 0.3
"""What a smaller rung may take, over what it seems to take; and if that is not known well."""
LASTING = 32
"""Iterations that must be left for a rung that was never run for so many lanes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Climb:
    """What an iteration did.

    Attributes:
        lanes: that it computed.
        rung: that it drew.
        gains: by rung up to this one: tokens beside the LLM's own that it gave, or would have
            given, over all texts.
        texts: that are going on.
        seconds: since the one before was done; None: not known.
        is_steady: whether the one before was on the same rung, and nothing else was computed.
    """

    lanes: int
    rung: int
    gains: Sequence[float]
    texts: int
    seconds: float | None = None
    is_steady: bool = False


@dataclass(slots=True)
class _Gain:
    """Of a rung: sums over iterations of texts.

    Attributes:
        curve: gains by acceptance, see :func:`_expected`.
        is_own: whether the rung below tells nothing, for a drafter draws here that does not there.
        seen: of late.
        count: iterations of that.
        above: in the long run, on the same iterations as ``below``.
        below: of the rung below; or iterations, where that one tells nothing.
    """

    curve: Sequence[float]
    is_own: bool
    seen: float = 0.0
    count: float = 0.0
    above: float = 0.0
    below: float = 0.0


@dataclass(slots=True)
class _Times:
    """Of a rung and a number of lanes.

    Attributes:
        runs: how many there were.
        kept: seconds of the last ones.
    """

    runs: int = 0
    kept: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    @property
    def typical(self) -> float:
        """An iteration may be slow for many reasons, and fast for none."""
        return sorted(self.kept)[(len(self.kept) - 1) // 4]


@dataclass(slots=True)
class _Trial:
    """Iterations on a rung that is tried.

    Attributes:
        rung: which.
        left: iterations that are not yet issued.
        is_long: whether it is of the second kind.
        unread: iterations that were issued, and not yet told of.
        gain: of those that were.
        count: iterations of texts.
    """

    rung: int
    left: int
    is_long: bool = False
    unread: int = 0
    gain: float = 0.0
    count: int = 0


class Ladder:
    """Says which rung is next.

    Args:
        rungs: the first one draws nothing.
        cost: of a step of the LLM by its rows, in any unit.
    """

    def __init__(self, rungs: Sequence[Rung], cost: StepCost) -> None:
        self._rungs = rungs
        self._cost = cost
        self._times: dict[tuple[int, int], _Times] = {}
        self._gains = [_Gain(_expected(rungs[0]), is_own=True)]
        for below, rung in pairwise(rungs):
            is_own = any(
                bool(share) and not less
                for share, less in zip(rung.shares, below.shares, strict=True)
            )
            self._gains.append(_Gain(_expected(rung), is_own))
        self._base = len(rungs) // 2
        self._trial: _Trial | None = None
        self._saved = [0.0] * len(rungs)
        self._since = 0
        self._is_timed = False

    def begin(self) -> None:
        """Nothing that was asked for is in flight."""
        self._trial = None

    def next(self, lanes: int, left: int) -> int:
        """The rung of the next iteration.

        Args:
            lanes: that it computes.
            left: iterations until the last text ends, if nothing is accepted.
        """
        if self._trial is None:
            self._base = self._best(lanes, left)
            if self._is_timed and self._since >= SOONEST and left >= LASTING:
                self._try_one(lanes)
        trial = self._trial
        if trial is None or not trial.left:
            self._since += 1
            return self._base
        trial.left -= 1
        trial.unread += 1
        return trial.rung

    def took(self, climb: Climb) -> None:
        """Take what an iteration did."""
        times = self._times.setdefault((climb.lanes, climb.rung), _Times())
        times.runs += 1
        is_told = times.runs > UNTOLD and climb.seconds is not None
        if is_told and climb.is_steady and climb.seconds is not None:
            times.kept.append(climb.seconds)
            self._is_timed = True
        self._learn(climb)
        if not self._is_timed:
            return
        gains = self._estimates()
        rates = [(1 + gain) / self._time(climb.lanes, rung) for rung, gain in enumerate(gains)]
        usual = self._time(climb.lanes, climb.rung)
        seconds = climb.seconds if is_told and climb.seconds is not None else usual
        self._save(rates, seconds)
        trial = self._trial
        if trial is None or not trial.unread or climb.rung != trial.rung:
            return
        trial.unread -= 1
        trial.gain += climb.gains[climb.rung]
        trial.count += climb.texts
        written = 1 + climb.gains[climb.rung] / climb.texts
        rate = rates[self._base]
        self._saved[trial.rung] -= seconds - written / rate
        if not trial.left and not trial.unread:
            looks_well = (1 + trial.gain / trial.count) / usual > rate
            self._trial, self._since = None, 0
            if looks_well and not trial.is_long:
                self._trial = _Trial(trial.rung, ceil(LONG / climb.lanes), is_long=True)

    def _learn(self, climb: Climb) -> None:
        """Learn what rungs give."""
        tokens = 1 + climb.gains[climb.rung] / climb.texts
        kept = 0.5 ** (tokens / FORGOTTEN)
        for rung, gain in enumerate(self._gains):
            if rung <= climb.rung or gain.count * kept > REMEMBERED:
                gain.seen *= kept
                gain.count *= kept
        kept = 0.5 ** (climb.texts / LEARNED)
        for rung in range(1, climb.rung + 1):
            gain = self._gains[rung]
            gain.seen += climb.gains[rung]
            gain.count += climb.texts
            below = climb.texts if gain.is_own else climb.gains[rung - 1]
            gain.above = gain.above * kept + climb.gains[rung]
            gain.below = gain.below * kept + below

    def _save(self, rates: Sequence[float], seconds: float) -> None:
        """Have rungs earn the time to be tried: more of it, the better they seem to be."""
        worths = [max(HOPELESS, 1 - FALLING * (1 - rate / rates[self._base])) for rate in rates]
        worths[self._base] = 0.0
        total = sum(worths) + TINY
        for rung, worth in enumerate(worths):
            self._saved[rung] += SHARE * seconds * worth / total

    def _estimates(self) -> list[float]:
        """The gain of each rung: never less than that of the rung below."""
        found = [0.0]
        for below, gain in pairwise(self._gains):
            if gain.is_own:
                known, less = HOPE, 1.0
            else:
                less = found[-1]
                known = float(np.interp(less, below.curve, ACCEPTANCE))
            expected = float(np.interp(known, ACCEPTANCE, gain.curve))
            more = (gain.above + GUESSED * expected) / (gain.below + GUESSED * less + TINY)
            estimate = (gain.seen + GUESSED * more * less) / (gain.count + GUESSED)
            found.append(max(found[-1], estimate))
        return found

    def _best(self, lanes: int, left: int) -> int:
        """The rung that seems to give most tokens in a given time."""
        if self._base and (self._gains[self._base].count < FIRST or not self._is_timed):
            return self._base
        known = [rung for rung in range(len(self._rungs)) if self._runs(lanes, rung)]
        if left >= LASTING or not known:
            known = [*range(len(self._rungs))]
        gains = self._estimates()
        rates = {rung: (1 + gains[rung]) / self._time(lanes, rung) for rung in known}
        best = max(known, key=lambda rung: rates[rung])
        if self._base in known and rates[best] < BETTER * rates[self._base]:
            return self._base
        return best

    def _try_one(self, lanes: int) -> None:
        """Begin a trial, if one may pay that is paid for."""
        gains, base = self._estimates(), self._base
        rate = (1 + gains[base]) / self._time(lanes, base)
        paid: list[tuple[float, float, int, int]] = []
        for rung, one in enumerate(self._rungs):
            time = self._time(lanes, rung)
            # What a larger rung gives is not known; what others take changes, if it is known.
            most = one.depth if rung > base else gains[rung]
            hoped = time * self._hoped(lanes, rung)
            if rung == base or (1 + most) / hoped < BETTER * rate:
                continue
            count = max(2, ceil(SHORT / lanes)) + max(0, UNTOLD - self._runs(lanes, rung))
            least = 1 + min(gains[rung], gains[base])
            cost = max(0.0, count * (time - least / rate))
            if rung < base and self._runs(lanes, rung) < UNTOLD:
                cost = 0.0  # whoever does not know what is cheap may stay where it is dear
            if self._saved[rung] >= cost:
                paid.append((self._saved[rung] - cost, cost, rung, count))
        if paid:
            _, cost, rung, count = max(paid)
            self._saved[rung] = cost
            self._trial = _Trial(rung, count)

    def _hoped(self, lanes: int, rung: int) -> float:
        """How little a rung may take, over what it seems to take."""
        times = self._times.get((lanes, rung))
        if not times or not times.kept:
            return UNKNOWN
        # What a smaller one takes may be known from long ago; a larger one's gain is the question.
        return 1.0 if rung > self._base else HOPED

    def _runs(self, lanes: int, rung: int) -> int:
        times = self._times.get((lanes, rung))
        return times.runs if times else 0

    def _time(self, lanes: int, rung: int) -> float:
        """Seconds of an iteration; before any are known, in another unit."""
        times = self._times.get((lanes, rung))
        if times and len(times.kept) >= ENOUGH:
            return times.typical
        guess = self._guessed_time(lanes, rung)
        return min(times.typical, DOUBTED * guess) if times and times.kept else guess

    def _guessed_time(self, lanes: int, rung: int) -> float:
        """By what is known of others, the nearest."""
        known = [at for at, times in self._times.items() if times.kept and at != (lanes, rung)]
        if not known:
            return self._expected_time(lanes, rung)
        near = min(known, key=lambda at: abs(log(at[0] / lanes, 2)) + abs(at[1] - rung))
        stretched = self._times[near].typical / self._expected_time(*near)
        return stretched * self._expected_time(lanes, rung)

    def _expected_time(self, lanes: int, rung: int) -> float:
        """Of the curve alone."""
        drawing = LEVEL * self._rungs[rung].levels * self._cost.time(lanes)
        return self._cost.time(lanes * (1 + self._rungs[rung].nodes)) + drawing


def _expected(rung: Rung) -> list[float]:
    """Gains of a rung for each of :data:`ACCEPTANCE`: that of a node without siblings.

    Beside SSMs n-grams, which are right seldom and then for long, are taken to give nothing.
    """
    trees = [share for share in rung.shares if isinstance(share, tuple)]
    if not rung.levels:
        trees = [(1,) * min(s, rung.deepest) for s in rung.shares if isinstance(s, int)]
    found = []
    for right in ACCEPTANCE:
        levels = ([1 - (1 - right) ** ((1 + width) / 2) for width in tree] for tree in trees)
        found.append(max((sum(accumulate(tree, mul)) for tree in levels), default=0.0))
    return found
