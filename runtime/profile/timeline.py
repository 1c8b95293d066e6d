"""A profile as a file for ui.perfetto.dev or chrome://tracing, and back.

The file is JSON in Chrome's trace event format. A process is a rank, a thread is a row; arrows are
dependences between rows; requests have lanes of their own. Times are in us from the first event.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from specinfer.runtime.errors import ConfigError
from specinfer.runtime.profile.record import (
    KINDS,
    Instant,
    OperationKey,
    Profile,
    RequestSpan,
    Sample,
    Span,
    row_order,
)

FORMAT, VERSION = "specinfer profile", 1

Event = dict[str, Any]
_Lane = tuple[int, int]  # pid and tid


def to_chrome(profile: Profile) -> dict[str, Any]:
    """The JSON object of a profile."""
    lanes = _lanes(profile.spans)
    origin = profile.origin
    return {
        "traceEvents": [
            *_metadata(profile, lanes),
            *(
                _complete(span, lane, origin)
                for span, lane in zip(profile.spans, lanes, strict=True)
            ),
            *_arrows(profile.spans, lanes, origin),
            *_requests(profile.requests, origin),
            *(_sample(sample, origin) for sample in profile.samples),
            *(_instant(instant, origin) for instant in profile.instants),
        ],
        "displayTimeUnit": "ns",
        "otherData": {"format": FORMAT, "version": VERSION, "num_dropped": profile.num_dropped},
    }


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile; the file is there whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    text = json.dumps(to_chrome(profile), ensure_ascii=False, allow_nan=False)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot write the profile: {error.strerror}") from None


def read_profile(path: Path) -> Profile:
    """What :func:`write_profile` wrote, with times from the first event.

    Raises:
        ConfigError: it cannot be read, or is no such file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or not JSON
        raise ConfigError(
            f"{path}: expected a profile of specinfer, found no JSON: {error}"
        ) from None
    return from_chrome(data, str(path))


def from_chrome(data: Any, where: str = "profile") -> Profile:
    """The profile of a JSON object.

    Args:
        data: as :func:`to_chrome` made it.
        where: what messages begin with.

    Raises:
        ConfigError: it is no such object.
    """
    said = data.get("otherData") if isinstance(data, dict) else None
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise ConfigError(f"{where}: expected a profile of specinfer, found another kind of JSON")
    if said.get("version") != VERSION:
        raise ConfigError(
            f"{where}: found version {said.get('version')!r} of a profile, expected {VERSION}"
        )
    events = data.get("traceEvents")
    if not isinstance(events, list):
        raise ConfigError(f"{where}.traceEvents: expected a list, found {type(events).__name__}")
    reader = _Reader()
    for number, event in enumerate(events):
        try:
            reader.take(event)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"{where}.traceEvents[{number}]: found {str(event)[:80]!r}, expected an event of a "
                f"profile ({reason})"
            ) from None
    return reader.profile(said.get("num_dropped", 0))


def _lanes(spans: Sequence[Span]) -> list[_Lane]:
    """Process and thread of each span, in their order.

    Spans of one thread must nest in this format: a row gets as many threads as it needs.
    """
    by_row: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
    for number, span in enumerate(spans):
        by_row[span.rank, span.row].append(number)
    lanes: list[_Lane] = [(0, 0)] * len(spans)
    tids: defaultdict[int, int] = defaultdict(int)
    for rank, row in sorted(by_row, key=lambda key: (key[0], row_order(key[1]))):
        first = tids[rank]
        ends: list[list[int]] = []  # of the open spans of each thread, the outermost first
        numbers = by_row[rank, row]
        for number in sorted(numbers, key=lambda n: (spans[n].start, -spans[n].stop)):
            thread = _nest(ends, spans[number])
            lanes[number] = (rank, first + thread)
        tids[rank] += len(ends)
    return lanes


def _nest(ends: list[list[int]], span: Span) -> int:
    for thread, stack in enumerate(ends):
        while stack and stack[-1] <= span.start:
            stack.pop()
        if not stack or span.stop <= stack[-1]:
            stack.append(span.stop)
            return thread
    ends.append([span.stop])
    return len(ends) - 1


def _us(time: int, origin: int) -> float:
    return (time - origin) / 1000


def _metadata(profile: Profile, lanes: Sequence[_Lane]) -> Iterator[Event]:
    for rank in profile.ranks:
        yield _named("process", rank, 0, f"rank {rank}")
        yield _sorted_at("process", rank, 0, rank)
    rows = dict(zip(lanes, (span.row for span in profile.spans), strict=True))
    for (rank, tid), row in sorted(rows.items()):
        yield _named("thread", rank, tid, row)
        yield _sorted_at("thread", rank, tid, tid)


def _named(what: str, pid: int, tid: int, name: str) -> Event:
    return {"ph": "M", "name": f"{what}_name", "pid": pid, "tid": tid, "args": {"name": name}}


def _sorted_at(what: str, pid: int, tid: int, order: int) -> Event:
    name = f"{what}_sort_index"
    return {"ph": "M", "name": name, "pid": pid, "tid": tid, "args": {"sort_index": order}}


def _complete(span: Span, lane: _Lane, origin: int) -> Event:
    args = dict(span.args)
    if span.id is not None:
        args["id"] = span.id
    if span.waits_for:
        args["waits_for"] = [id if rank == span.rank else [rank, id] for rank, id in span.waits_for]
    return {
        "ph": "X",
        "name": span.name,
        "cat": span.kind,
        "pid": lane[0],
        "tid": lane[1],
        "ts": _us(span.start, origin),
        "dur": span.duration / 1000,
        "args": args,
    }


def _arrows(spans: Sequence[Span], lanes: Sequence[_Lane], origin: int) -> Iterator[Event]:
    """An arrow for each dependence between two rows, from the end of one span to the other."""
    by_key: dict[OperationKey, int] = {
        (span.rank, span.id): number for number, span in enumerate(spans) if span.id is not None
    }
    arrow = 0
    for number, span in enumerate(spans):
        for key in span.waits_for:
            source = by_key.get(key)
            if source is None:
                continue
            before = spans[source]
            if (before.rank, before.row) == (span.rank, span.row):
                continue
            # An arrow is fixed to the span that holds its time: the end itself is outside.
            left = max(before.start, before.stop - 1)
            yield _end("s", arrow, lanes[source], _us(left, origin))
            yield _end("f", arrow, lanes[number], _us(span.start, origin)) | {"bp": "e"}
            arrow += 1


def _end(phase: str, arrow: int, lane: _Lane, time: float) -> Event:
    event = {"ph": phase, "name": "dependence", "cat": "dependence", "id": arrow}
    return event | {"pid": lane[0], "tid": lane[1], "ts": time}


def _requests(requests: Iterable[RequestSpan], origin: int) -> Iterator[Event]:
    """Begins and ends in an order in which they nest."""
    by_request: defaultdict[tuple[int, str], list[RequestSpan]] = defaultdict(list)
    for request in requests:
        by_request[request.rank, request.request].append(request)
    for phases in by_request.values():
        open_phases: list[RequestSpan] = []
        for phase in sorted(phases, key=lambda p: (p.start, -p.stop)):
            while open_phases and open_phases[-1].stop <= phase.start:
                yield _request("e", last := open_phases.pop(), _us(last.stop, origin))
            yield _request("b", phase, _us(phase.start, origin)) | {"args": dict(phase.args)}
            open_phases.append(phase)
        for phase in reversed(open_phases):
            yield _request("e", phase, _us(phase.stop, origin))


def _request(phase: str, request: RequestSpan, time: float) -> Event:
    return {
        "ph": phase,
        "name": request.name,
        "cat": "request",
        "id2": {"local": request.request},
        "pid": request.rank,
        "tid": 0,
        "ts": time,
    }


def _sample(sample: Sample, origin: int) -> Event:
    return {
        "ph": "C",
        "name": sample.name,
        "pid": sample.rank,
        "tid": 0,
        "ts": _us(sample.time, origin),
        "args": {"value": sample.value},
    }


def _instant(instant: Instant, origin: int) -> Event:
    return {
        "ph": "i",
        "name": instant.name,
        "s": "p",
        "pid": instant.rank,
        "tid": 0,
        "ts": _us(instant.time, origin),
        "args": {"reason": instant.reason},
    }


class _Reader:
    """Takes events one after another, names of rows before the spans on them."""

    def __init__(self) -> None:
        self._rows: dict[_Lane, str] = {}
        self._spans: list[Span] = []
        self._instants: list[Instant] = []
        self._samples: list[Sample] = []
        self._requests: list[RequestSpan] = []
        self._open: defaultdict[tuple[int, str], list[Event]] = defaultdict(list)
        self._take: Mapping[str, Callable[[Event], None]] = {
            "M": self._metadata,
            "X": self._complete,
            "s": lambda event: None,
            "f": lambda event: None,
            "b": self._begin,
            "e": self._end,
            "C": self._sample,
            "i": self._instant,
        }

    def take(self, event: Event) -> None:
        """Take in the next event."""
        self._take[event["ph"]](event)

    def profile(self, num_dropped: int) -> Profile:
        """What was read."""
        return Profile(
            tuple(self._spans),
            tuple(self._instants),
            tuple(self._samples),
            tuple(self._requests),
            num_dropped,
        )

    def _metadata(self, event: Event) -> None:
        if event["name"] == "thread_name":
            self._rows[event["pid"], event["tid"]] = str(event["args"]["name"])

    def _complete(self, event: Event) -> None:
        rank, start = int(event["pid"]), _ns(event["ts"])
        args = dict(event["args"])
        if event["cat"] not in KINDS:
            raise ValueError(f"cat is {event['cat']!r}")
        id = args.pop("id", None)
        waits_for = tuple(
            (int(told[0]), int(told[1])) if isinstance(told, list) else (rank, int(told))
            for told in args.pop("waits_for", ())
        )
        self._spans.append(
            Span(
                rank,
                self._rows[rank, event["tid"]],
                str(event["name"]),
                start,
                start + _ns(event["dur"]),
                event["cat"],
                None if id is None else int(id),
                waits_for,
                args,
            )
        )

    def _begin(self, event: Event) -> None:
        self._open[event["pid"], event["id2"]["local"]].append(event)

    def _end(self, event: Event) -> None:
        rank, request = int(event["pid"]), str(event["id2"]["local"])
        begin = self._open[rank, request].pop()
        if begin["name"] != event["name"]:
            raise ValueError(f"{begin['name']!r} is not ended yet")
        start, stop = _ns(begin["ts"]), _ns(event["ts"])
        name = str(begin["name"])
        self._requests.append(RequestSpan(rank, request, name, start, stop, begin["args"]))

    def _sample(self, event: Event) -> None:
        value = event["args"]["value"]
        if not isinstance(value, (int, float)):
            raise ValueError(f"value is {value!r}")
        self._samples.append(Sample(event["pid"], event["name"], _ns(event["ts"]), value))

    def _instant(self, event: Event) -> None:
        reason = str(event["args"]["reason"])
        self._instants.append(Instant(event["pid"], event["name"], _ns(event["ts"]), reason))


def _ns(us: float) -> int:
    return round(us * 1000)
