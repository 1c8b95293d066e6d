"""The operations of one process: analysed, kept for a trace, and handed to an executor."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn, cast

from specinfer.runtime.agreement import Agreement
from specinfer.runtime.answer import Answer
from specinfer.runtime.dependence import DependenceAnalyzer, LaunchId
from specinfer.runtime.errors import LaunchError, PoisonedError
from specinfer.runtime.executor import Executor, Operation, ReplayingExecutor
from specinfer.runtime.observer import Observer
from specinfer.runtime.recorder import Recorder
from specinfer.runtime.trace import Template
from specinfer.runtime.waiting import Border

LONGEST = 1 << 16
"""Operations of replays, one right behind the other, of which an end still waits for each."""

logger = logging.getLogger("specinfer.runtime")


class Stream:
    """Operations in program order.

    Args:
        executor: carries them out.
        agreement: with other ranks; None if there are none.
        observer: is told what the program issues.

    Attributes:
        executor: the same.
        agreement: the same.
        observer: the same.
        is_open: it was not closed.
        num_operations: issued so far.
        recorder: of the trace whose body runs, if one does.
        replayed: the template behind which nothing else was issued yet.
    """

    def __init__(
        self, executor: Executor, agreement: Agreement | None, observer: Observer | None
    ) -> None:
        self.executor = executor
        self.agreement = agreement
        self.observer = observer
        self.is_open = True
        self.num_operations = 0
        self.recorder: Recorder | None = None
        self.replayed: Template | None = None
        self._analyzer = DependenceAnalyzer()
        self._start = -1  # of the last replays

    def close(self) -> None:
        """Stop the executor, and log what raised and was told to nobody."""
        self.is_open = False
        self.executor.close()
        for failure in self.executor.take_failures():
            if not isinstance(failure.error, PoisonedError):  # it only wanted what was never made
                logger.error("closed, and nobody was told: %s", failure.story)

    def refuse(self, what: str) -> NoReturn:
        """Refuse something that comes too late.

        Raises:
            LaunchError: always.
        """
        raise LaunchError(f"{what}: the runtime was closed, expected it before `close`")

    def submit(self, operation: Operation) -> LaunchId:
        """Issue one operation."""
        if self.replayed is not None:
            self.leave_replay()
        id = self.num_operations
        self.num_operations += 1
        if self.recorder is not None:
            self.recorder.operations.append(operation)
        executor = self.executor
        if executor.is_in_order:
            executor.submit(id, operation, ())
        else:
            waits_for = self._analyzer.launch(id, operation.requirements)
            self._hand_over(id, operation.as_of_now(), waits_for)
        return id

    def say(
        self,
        what: str,
        arguments: Mapping[str, Any] | None = None,
        answer: Answer | None = None,
    ) -> None:
        """Take in something that is no launch, and must be the same on all ranks.

        Args:
            what: it is.
            arguments: of it, by name.
            answer: the mapper's, for it.
        """
        if self.agreement is not None:
            self.agreement.history.say(self.num_operations, what, arguments, answer)
        if self.observer is not None:
            self.observer.said(self.num_operations, what)

    def wait(self, ids: Sequence[LaunchId] | None) -> None:
        """Return when these have run, or all; on several ranks all, on every rank.

        Raises:
            PoisonedError: a task raised, on any rank.
            DivergenceError: the ranks issued different things.
        """
        self.executor.wait(ids if self.agreement is None else None)
        failures = self.executor.take_failures()
        if self.agreement is not None:
            self.agreement.meet(failures, self.executor.poisoned)
        elif failures:
            error = failures[0].error
            if not isinstance(error, Exception):
                raise error
            raise PoisonedError(failures[0].story) from error

    def replay(self, template: Template, *, is_recurrent: bool) -> None:
        """Issue what was recorded.

        Args:
            template: the recording.
            is_recurrent: it is replayed right behind itself.
        """
        executor, recording = self.executor, template.recording
        for future, ranks in zip(recording.results, recording.result_ranks, strict=True):
            future.ranks = ranks
            if executor.is_in_order:  # else launches before this one may still want the old value
                future.clear()
        if not is_recurrent:
            self._enter_replay(template)
        base = self.num_operations
        self.num_operations += len(recording.operations)
        if self.agreement is not None:
            self.agreement.history.replay(base, recording.launches)
        if self.observer is not None:
            self.observer.replayed(base, recording.issued)
        if executor.is_in_order:
            cast(ReplayingExecutor, executor).replay(base, template.calls, recording.operations)
        else:
            for at, (operation, edges) in enumerate(
                zip(recording.operations, template.edges, strict=True)
            ):
                own = [base + edge for edge in edges if is_recurrent or edge >= 0]
                self._hand_over(base + at, operation.as_of_now(), own or [self._start])
        self.replayed = template

    def _enter_replay(self, template: Template) -> None:
        """To the analysis a replay is one launch: here is its start."""
        if self.replayed is not None:
            self.leave_replay()
        if not self.executor.is_in_order:
            self._start = self._issue_border("start", template, ())

    def leave_replay(self) -> None:
        """What is issued next is analysed again, against all that the last replays did."""
        template, self.replayed = self.replayed, None
        if self.executor.is_in_order or template is None:
            return
        replayed = range(self._start + 1, self.num_operations)
        if len(replayed) > LONGEST:
            self.executor.wait(None)
            self._analyzer = DependenceAnalyzer()
        else:
            self._issue_border("end", template, replayed)

    def _issue_border(self, what: str, template: Template, behind: Sequence[LaunchId]) -> LaunchId:
        id = self.num_operations
        self.num_operations += 1
        waits_for = self._analyzer.launch(id, template.uses)
        self._hand_over(id, Border(what), waits_for.union(behind))
        return id

    def _hand_over(
        self, id: LaunchId, operation: Operation, waits_for: Collection[LaunchId]
    ) -> None:
        for finished in self.executor.submit(id, operation, waits_for):
            self._analyzer.complete(finished)
