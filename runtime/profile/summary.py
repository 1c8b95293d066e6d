"""What a profile shows, in numbers: where the time went, and what could be had back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from specinfer.runtime.profile.intervals import Interval, length, minus, union
from specinfer.runtime.profile.record import (
    TRACE_HITS,
    TRACE_MISSES,
    OperationKey,
    Profile,
    RequestSpan,
    Sample,
    Span,
    row_order,
)


@dataclass(frozen=True, slots=True)
class NameSummary:
    """Spans of one name: how many, and their time in ns.

    Attributes:
        name: of the task, or of the phase of a request.
        count: how many there were.
        total_ns: of all of them.
        longest_ns: of one of them.
    """

    name: str
    count: int
    total_ns: int
    longest_ns: int

    @property
    def mean_ns(self) -> float:
        """Time of one of them."""
        return self.total_ns / self.count


@dataclass(frozen=True, slots=True)
class RowSummary:
    """How busy a row was.

    Attributes:
        rank: of the process.
        row: what spans ran on.
        count: of spans; waits count too.
        busy_ns: time in which something ran there; waiting is not running.
        utilisation: that over the time from the first span of the rank to the last.
    """

    rank: int
    row: str
    count: int
    busy_ns: int
    utilisation: float


@dataclass(frozen=True, slots=True)
class RankSummary:
    """Where the time of a rank went, in ns.

    Attributes:
        rank: of the process.
        total_ns: from the first span to the last.
        task_ns: with a task running.
        communication_ns: with data on its way.
        exposed_communication_ns: of that, with no task running.
        exposed_host_ns: with neither: what ran, if anything, was the host.
    """

    rank: int
    total_ns: int
    task_ns: int
    communication_ns: int
    exposed_communication_ns: int
    exposed_host_ns: int


@dataclass(frozen=True, slots=True)
class CriticalPath:
    """The chain of operations, each waiting for the one before, that takes longest.

    With any number of workers and no overhead, the program takes at least this long.

    Attributes:
        total_ns: time on it.
        operations: rank and number of each, the first first.
        names: time on it by name, the most first.
    """

    total_ns: int
    operations: tuple[OperationKey, ...]
    names: tuple[NameSummary, ...]


@dataclass(frozen=True, slots=True)
class CounterSummary:
    """A counter: its last value and its highest."""

    rank: int
    name: str
    last: float
    highest: float


@dataclass(frozen=True, slots=True)
class InstantSummary:
    """How often something happened for one reason."""

    name: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What a profile shows.

    Attributes:
        total_ns: from the first span to the last, of all ranks.
        ranks: where the time of each went.
        rows: how busy each was.
        critical_path: the longest chain of dependences.
        tasks: tasks and communication by name, the most time first.
        trace_hit_rate: part of the tries to replay a trace that could; None without any.
        requests: phases of requests by name; of what several ranks serve, the first one's.
        counters: values by name.
        instants: by name and reason, the most frequent first.
        num_dropped: events that the profiler had no room for.
    """

    total_ns: int
    ranks: tuple[RankSummary, ...]
    rows: tuple[RowSummary, ...]
    critical_path: CriticalPath
    tasks: tuple[NameSummary, ...]
    trace_hit_rate: float | None
    requests: tuple[NameSummary, ...]
    counters: tuple[CounterSummary, ...]
    instants: tuple[InstantSummary, ...]
    num_dropped: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def summarize(profile: Profile) -> Summary:
    """What a profile shows."""
    spans = profile.spans
    by_rank: defaultdict[int, list[Span]] = defaultdict(list)
    for span in spans:
        by_rank[span.rank].append(span)
    ranks = tuple(_rank(rank, by_rank[rank]) for rank in sorted(by_rank))
    work = (span for span in spans if span.kind in ("task", "communication"))
    counters = _counters(profile.samples)
    return Summary(
        total_ns=_extent(spans),
        ranks=ranks,
        rows=tuple(row for rank in ranks for row in _rows(rank, by_rank[rank.rank])),
        critical_path=critical_path(spans),
        tasks=_by_name((span.name, span.duration) for span in work),
        trace_hit_rate=_hit_rate(counters),
        requests=_requests(profile.requests),
        counters=counters,
        instants=_instants((instant.name, instant.reason) for instant in profile.instants),
        num_dropped=profile.num_dropped,
    )


def critical_path(spans: Sequence[Span]) -> CriticalPath:
    """The chain of dependences that takes longest.

    An operation counts from the end of the one that it waited for: a receive that was posted
    early does not count the time until the message was sent.

    >>> a, b = Span(0, "w", "load", 0, 4, id=0), Span(0, "w", "store", 9, 10, id=1)
    >>> critical_path([a, b]).total_ns
    4
    >>> critical_path([a, Span(0, "w", "store", 9, 10, id=1, waits_for=((0, 0),))]).total_ns
    5
    """
    spans_by_key: dict[OperationKey, Span] = {}
    longest: dict[OperationKey, int] = {}
    previous: dict[OperationKey, OperationKey | None] = {}
    # Whoever is waited for has ended no later: by the end, all of a chain is seen in order.
    numbered = [(span, span.id) for span in spans if span.id is not None]
    for span, id in sorted(numbered, key=lambda pair: (pair[0].stop, pair[0].start, pair[1])):
        key = (span.rank, id)
        best, source = span.duration, None
        for earlier in span.waits_for:
            if earlier in longest and earlier != key:
                time = longest[earlier] + _behind(span, spans_by_key[earlier])
                if time > best:
                    best, source = time, earlier
        spans_by_key[key], longest[key], previous[key] = span, best, source
    chain: list[OperationKey] = []
    at = max(longest, key=lambda key: longest[key], default=None)
    while at is not None:
        chain.append(at)
        at = previous[at]
    chain.reverse()
    times = [
        (spans_by_key[key].name, longest[key] - (longest[chain[n - 1]] if n else 0))
        for n, key in enumerate(chain)
    ]
    return CriticalPath(sum(time for _, time in times), tuple(chain), _by_name(times))


def _behind(span: Span, earlier: Span) -> int:
    """How long a span ran behind the end of another one."""
    return span.stop - max(span.start, earlier.stop)


def _extent(spans: Sequence[Span]) -> int:
    if not spans:
        return 0
    return max(span.stop for span in spans) - min(span.start for span in spans)


def _busy(spans: Iterable[Span], *kinds: str) -> list[Interval]:
    return union((span.start, span.stop) for span in spans if span.kind in kinds)


def _rank(rank: int, spans: Sequence[Span]) -> RankSummary:
    total = _extent(spans)
    tasks, communication = _busy(spans, "task"), _busy(spans, "communication")
    exposed = length(minus(communication, tasks))
    return RankSummary(
        rank=rank,
        total_ns=total,
        task_ns=length(tasks),
        communication_ns=length(communication),
        exposed_communication_ns=exposed,
        exposed_host_ns=total - length(tasks) - exposed,
    )


def _rows(rank: RankSummary, spans: Sequence[Span]) -> list[RowSummary]:
    by_row: defaultdict[str, list[Span]] = defaultdict(list)
    for span in spans:
        by_row[span.row].append(span)
    summaries = []
    for row in sorted(by_row, key=row_order):
        busy = length(_busy(by_row[row], "task", "communication", "host"))
        utilisation = busy / rank.total_ns if rank.total_ns else 0.0
        summaries.append(RowSummary(rank.rank, row, len(by_row[row]), busy, utilisation))
    return summaries


def _by_name(times: Iterable[tuple[str, int]]) -> tuple[NameSummary, ...]:
    """Counts and times by name, the most time first."""
    by_name: defaultdict[str, list[int]] = defaultdict(list)
    for name, time in times:
        by_name[name].append(time)
    summaries = [NameSummary(name, len(all), sum(all), max(all)) for name, all in by_name.items()]
    return tuple(sorted(summaries, key=lambda summary: (-summary.total_ns, summary.name)))


def _requests(phases: Sequence[RequestSpan]) -> tuple[NameSummary, ...]:
    ranks: dict[str, int] = {}
    for phase in phases:
        ranks[phase.request] = min(phase.rank, ranks.get(phase.request, phase.rank))
    first = (phase for phase in phases if phase.rank == ranks[phase.request])
    return _by_name((phase.name, phase.stop - phase.start) for phase in first)


def _counters(samples: Sequence[Sample]) -> tuple[CounterSummary, ...]:
    by_name: defaultdict[tuple[int, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        by_name[sample.rank, sample.name].append(sample)
    return tuple(
        CounterSummary(
            rank,
            name,
            by_name[rank, name][-1].value,
            max(sample.value for sample in by_name[rank, name]),
        )
        for rank, name in sorted(by_name)
    )


def _hit_rate(counters: Sequence[CounterSummary]) -> float | None:
    hits = sum(counter.last for counter in counters if counter.name == TRACE_HITS)
    misses = sum(counter.last for counter in counters if counter.name == TRACE_MISSES)
    return hits / (hits + misses) if hits + misses else None


def _instants(instants: Iterable[tuple[str, str]]) -> tuple[InstantSummary, ...]:
    counts: defaultdict[tuple[str, str], int] = defaultdict(int)
    for instant in instants:
        counts[instant] += 1
    summaries = [InstantSummary(name, reason, count) for (name, reason), count in counts.items()]
    return tuple(sorted(summaries, key=lambda s: (-s.count, s.name, s.reason)))
