"""What a runtime does for its traces: records what a body issues, replays it where that fits."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, cast

from specinfer.runtime.distributor import Distributor
from specinfer.runtime.errors import TraceError
from specinfer.runtime.executor import ReplayingExecutor
from specinfer.runtime.mapper import Mapper
from specinfer.runtime.placement import FieldState
from specinfer.runtime.recorder import Recorder
from specinfer.runtime.region import FieldKey
from specinfer.runtime.store import Store
from specinfer.runtime.stream import Stream
from specinfer.runtime.trace import Prepare, Recording, States, Template


class Tracing:
    """The host of a runtime's traces.

    Args:
        stream: of operations.
        distributor: knows where data are.
        store: knows regions, and when their memory was exchanged.
        mapper: may forbid replays.
    """

    def __init__(
        self, stream: Stream, distributor: Distributor, store: Store, mapper: Mapper
    ) -> None:
        self._stream = stream
        self._distributor = distributor
        self._store = store
        self._mapper = mapper

    @property
    def epoch(self) -> Hashable:
        """Changes when mappers or memories change."""
        return (self._mapper.epoch, self._store.exchanges)

    @property
    def prepare(self) -> Prepare | None:
        """Makes the calls of operations that run as they are issued; None: they do not."""
        executor = self._stream.executor
        return cast(ReplayingExecutor, executor).prepare if executor.is_in_order else None

    @property
    def last_replayed(self) -> Template | None:
        """The template behind which nothing else was issued yet."""
        return self._stream.replayed

    def may_replay(self, name: str) -> bool:
        """Whether the mapper lets a trace be replayed; the same on all ranks."""
        answer = self._mapper.replays(name)
        self._stream.say(f"the mapper on replays of trace {name}", {"answer": answer})
        return answer

    def begin_run(self, name: str, bucket: Hashable, parameters: Mapping[str, Any]) -> None:
        """Take in that a trace is run.

        Raises:
            LaunchError: the runtime was closed.
            TraceError: inside another one.
        """
        if not self._stream.is_open:
            self._stream.refuse(f"trace {name}")
        if self._stream.recorder is not None:
            raise TraceError(
                f"trace {name} is run in the body of another trace, expected launches only: call "
                "the function that it was made of"
            )
        self._stream.say(f"trace {name}", {"bucket": bucket, **parameters})

    def begin_recording(self) -> None:
        """Keep what is issued from now on."""
        self._stream.recorder = Recorder()

    def end_recording(self) -> Recording:
        """What was issued since then."""
        recorder, self._stream.recorder = self._stream.recorder, None
        assert recorder is not None
        return recorder.recording(self._distributor.states)

    def states_are(self, states: States) -> str | None:
        """A field that does not lie as it should; None if all do."""
        now: Mapping[FieldKey, FieldState] = self._distributor.states
        for key, state in states.items():
            if now[key] is not state:
                return f"{self._store.region(key[0]).name}.{key[1]}"
        return None

    def replay(self, template: Template, *, is_recurrent: bool) -> None:
        """Run what was recorded."""
        self._stream.replay(template, is_recurrent=is_recurrent)
        if not is_recurrent:
            self._distributor.install(template.recording.after)
