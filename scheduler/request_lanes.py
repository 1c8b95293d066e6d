"""Tells a profiler when requests are submitted, get their first token, and end."""

from __future__ import annotations

from specinfer.runtime.profile.profiler import Profiler
from specinfer.scheduler.request import Request

REQUEST, FIRST_TOKEN, DECODE = "request", "first token", "decode"
"""Phases: the whole, until the first token is there, and from then on."""


class RequestLanes:
    """The lane of each request in a profile.

    Args:
        profiler: is told.
    """

    def __init__(self, profiler: Profiler) -> None:
        self._profiler = profiler
        self._decoding: set[int] = set()

    def submitted(self, request: Request) -> None:
        """A request was queued."""
        self._profiler.begin_request(request.id, REQUEST, prompt_tokens=len(request.prompt))
        self._profiler.begin_request(request.id, FIRST_TOKEN)

    def went_on(self, request: Request) -> None:
        """An iteration did something for a request."""
        if request.output and request.id not in self._decoding:
            self._decoding.add(request.id)
            self._profiler.end_request(request.id, FIRST_TOKEN)
            self._profiler.begin_request(request.id, DECODE)
        if request.finish_reason is not None:
            self.ended(request, request.finish_reason)

    def ended(self, request: Request, reason: str) -> None:
        """A request has ended, or was cancelled."""
        self._decoding.discard(request.id)
        tokens = len(request.output)
        self._profiler.end_request(request.id, REQUEST, tokens=tokens, reason=reason)
