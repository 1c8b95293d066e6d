"""The runtime: makes regions, takes launches in program order, and hands them to an executor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from reprlib import repr as short
from types import TracebackType
from typing import Any, Self

from specinfer.runtime.agreement import Agreement
from specinfer.runtime.binding import Binding
from specinfer.runtime.bindings import Bindings
from specinfer.runtime.call import check_values
from specinfer.runtime.debug import CheckingExecutor
from specinfer.runtime.dependence import Requirement
from specinfer.runtime.distributor import Distributor
from specinfer.runtime.errors import (
    ConfigError,
    LaunchError,
    PoisonedError,
    TraceError,
)
from specinfer.runtime.executor import Executor
from specinfer.runtime.executor.in_order import InOrderExecutor
from specinfer.runtime.executor.serial import SerialExecutor
from specinfer.runtime.future import Future, FutureMap
from specinfer.runtime.index_space import ONE
from specinfer.runtime.launch import Launch
from specinfer.runtime.loops import LoopWatch
from specinfer.runtime.machine import Machine
from specinfer.runtime.machine.one import OneRank
from specinfer.runtime.mapper import Mapper
from specinfer.runtime.memory import Memory
from specinfer.runtime.mesh import line
from specinfer.runtime.observer import Observer
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.region import Region, Subregion
from specinfer.runtime.store import Store
from specinfer.runtime.stream import Stream
from specinfer.runtime.task import Task
from specinfer.runtime.temporaries import Temporary
from specinfer.runtime.trace import TEMPLATES, Trace
from specinfer.runtime.tracing import Tracing
from specinfer.runtime.waiting import Observation, ValueMove

BINDINGS = 32768
"""Checked launches that are kept: those used last."""


class Runtime:
    """Where a program makes its regions and launches its tasks.

    Args:
        executor: carries out the launches; by default one after another.
        processors: kinds of processor whose variants may run, the preferred first; for a mapper,
            its own.
        machine: ranks and their memories; by default this process alone.
        mapper: says where launches run.
        memories: by name, with their budgets; by default one, ``cpu``, without end.
        observer: is told what the program issues; see :mod:`specinfer.runtime.oplog`.
        debug: hold tasks to what they declare; see :mod:`specinfer.runtime.debug`.

    Attributes:
        traces: made so far.

    >>> import numpy as np
    >>> from specinfer.runtime.privilege import RW
    >>> from specinfer.runtime.task import task
    >>> @task(x=RW)
    ... def increment(x, by):
    ...     x += by
    ...     return int(x.sum())
    >>> with Runtime() as runtime:
    ...     x = runtime.region("x", (3,), {"value": "int64"}, {"value": np.zeros(3, int)})
    ...     total = runtime.launch(increment, x=x.part(), by=2)
    ...     total = runtime.launch(increment, x=x.rows(0, 1), by=1)
    ...     print(runtime.read(x.part()), total.get())
    [3 2 2] 3
    """

    def __init__(
        self,
        executor: Executor | None = None,
        processors: Sequence[str] = ("cpu",),
        *,
        machine: Machine | None = None,
        mapper: Mapper | None = None,
        memories: Sequence[Memory] = (),
        observer: Observer | None = None,
        debug: bool = False,
    ) -> None:
        _check_kind("executor", executor, "is_in_order", "an object such as SerialExecutor()")
        _check_kind("machine", machine, "num_ranks", "an object such as SimulatedRanks(2)")
        _check_kind("mapper", mapper, "mesh", "an object such as YamlMapper('mapper.yaml')")
        self._machine: Machine = machine or OneRank()
        several = self._machine.num_ranks > 1
        self._everyone = (1 << self._machine.num_ranks) - 1
        executor = executor or (InOrderExecutor() if several else SerialExecutor())
        control = self._machine.control
        if control is not None and not executor.is_in_order:
            raise ConfigError(
                f"executor {type(executor).__name__} runs operations in an order of its own, "
                "but each of several processes must keep that of the program, for messages to "
                "arrive where they belong; expected InOrderExecutor"
            )
        if debug:
            executor = CheckingExecutor(executor)
        mapper = mapper or Mapper(line(self._machine.num_ranks), processors)
        mapper.mesh.check_ranks(self._machine.num_ranks)
        agreement = None if control is None else Agreement(control)
        self._stream = Stream(executor, agreement, observer)
        self._distributor = Distributor(self._machine, mapper, agreement)
        self._store = Store(self._machine, mapper, self._distributor, memories)
        self._bindings = Bindings(self._store)
        self._tracing = Tracing(self._stream, self._distributor, self._store, mapper)
        self._loops = LoopWatch()
        self._num_launches = 0
        self.traces: list[Trace] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for everything that was issued, unless the program raises, and close.

        Raises:
            PoisonedError: a task raised, and nobody was told.
            DivergenceError: the ranks issued different things.
        """
        try:
            if kind is None and self._stream.is_open:
                self.fence()
        finally:
            self.close()

    def close(self) -> None:
        """Stop the executor; launches that have not started are dropped.

        What raised, and was told to nobody, is logged.
        """
        if not self._stream.is_open:
            return
        self._stream.close()
        self._machine.close()

    @property
    def memories(self) -> Mapping[str, Memory]:
        """By name; each tells who holds how much of it."""
        return self._store.memories

    @property
    def num_ranks(self) -> int:
        """Ranks that the program runs on."""
        return self._machine.num_ranks

    # Regions

    def region(
        self,
        name: str,
        shape: tuple[int, ...],
        fields: Mapping[str, Any],
        arrays: Mapping[str, Any] | None = None,
    ) -> Region:
        """Make a region, and attach memory to its fields if ``arrays`` are given.

        Fields without memory start as zeros.

        Raises:
            LaunchError: no fields, or what cannot be their memory.
            OutOfMemoryError: they take more than is left of the region's memory.
        """
        return self._store.make(name, shape, fields, arrays or {})

    def temporaries(self, name: str, values: Sequence[Temporary]) -> dict[str, Region]:
        """Regions of one field ``value`` whose memory is shared by those not needed at once.

        What such a region holds is lost when the next one takes its bytes.

        Args:
            name: of the arena, for people.
            values: what there is, and when.

        Raises:
            ArenaError: lifetimes that cannot be, or values of several array libraries.
            MapperError: the mapper puts them into several memories.
            OutOfMemoryError: the arena is larger than what is left of its memory.
        """
        return self._store.temporaries(name, values)

    def attach(self, region: Region, field: str, array: Any) -> None:
        """Make ``array`` the memory of a field: NumPy, torch, CuPy, or anything with DLPack.

        On several ranks every one attaches its own array, of the same values.

        Raises:
            LaunchError: no such field, or what cannot be its memory.
            PoisonedError: a task raised; the memory is as before.
        """
        self._store.check_known(region, f"region {region.name}")
        self.fence()
        self._store.attach(region, field, array)
        self._exchanged(region, field)

    def detach(self, region: Region, field: str) -> Any:
        """Give the memory of a field back, with the values of all ranks in it.

        Later launches find zeros.

        Raises:
            LaunchError: no such field.
            PoisonedError: a task raised that should have made its values.
        """
        array = self.read(region.part(None, field))
        self.fence()  # a task that only reads it may still have to run
        self._store.detach(region, field)
        self._exchanged(region, field)
        return array

    def _exchanged(self, region: Region, field: str) -> None:
        """All ranks have new values: nothing of the field is missing any more."""
        stream = self._stream
        made = Requirement((region.id, field), region.space, WD)
        stream.executor.poisoned.spreads(self._distributor.requirements_here([made]))
        if stream.agreement is not None:
            stream.agreement.made(made)
        if stream.observer is not None:
            stream.observer.exchanged(stream.num_operations, (region.id, field))

    def device_of(self, region: Region) -> str:
        """Whose memory a region lies in, as torch calls it.

        Raises:
            LaunchError: a region of another runtime.
        """
        self._store.check_known(region, f"region {region.name}")
        return self._store.memory_of(region).device

    def array(self, region: Region, field: str) -> Any:
        """This process's memory of a field as it is now, without waiting: for a look.

        Raises:
            LaunchError: no such field.
        """
        self._store.check_known(region, region.part(None, field))
        return self._machine.instances(self._machine.ranks[0]).main((region.id, field))

    # Launches

    def launch(
        self,
        task: Task,
        /,
        *,
        predicate: Future | None = None,
        otherwise: Any = None,
        **arguments: Any,
    ) -> Future:
        """Check and issue one launch.

        Args:
            task: what to run.
            predicate: a future truth; if it is false the task does not run.
            otherwise: what its future gives then; None in any case if the task is `-> None`.
            arguments: subregions and values, by parameter; a value may be a future.

        Raises:
            LaunchError: an argument missing, unknown or of the wrong kind; two arguments of this
                launch that overlap with privileges that do not commute.
        """
        binding = self._bindings.bind(task, arguments)
        return self._issue(binding, arguments, predicate, otherwise)[0]

    def index_launch(
        self,
        task: Task,
        domain: int | tuple[int, ...],
        /,
        *,
        predicate: Future | None = None,
        otherwise: Any = None,
        **arguments: Any,
    ) -> FutureMap:
        """Issue one launch for every point of a domain; the points may run at the same time.

        Args:
            task: what to run.
            domain: how many points there are, along each dimension.
            predicate: as for a single launch, as are ``otherwise`` and ``arguments``.
            otherwise: what the futures give if the predicate is false.
            arguments: a partition stands for the part of each point, ``partition[projection]`` for
                the part that the projection chooses; ``ID`` as a value stands for the point.

        Raises:
            LaunchError: as for a single launch; two points that overlap with privileges that do
                not commute; a projection that leaves its partition.
        """
        binding = self._bindings.bind(task, arguments, domain)
        futures = self._issue(binding, arguments, predicate, otherwise)
        colours = [point.colour for point in binding.points]
        return FutureMap(dict(zip(colours, futures, strict=True)))  # type: ignore[arg-type]

    def bind(self, task: Task, /, **arguments: Any) -> Launch:
        """Check a launch once, to issue it many times."""
        binding = self._bindings.bind(task, arguments)
        check_values(self, binding, arguments)
        return Launch(binding, {n: v for n, v in arguments.items() if n not in binding.regions})

    def issue(self, launch: Launch) -> None:
        """Issue a launch that was bound before; there is no future."""
        self._issue(launch.binding, launch.values, None, None)

    def issue_all(self, launches: Iterable[Launch]) -> None:
        """Issue launches in order."""
        for launch in launches:
            self._issue(launch.binding, launch.values, None, None)

    def _issue(
        self,
        binding: Binding,
        arguments: Mapping[str, Any],
        predicate: Future | None,
        otherwise: Any,
    ) -> list[Future]:
        check_values(self, binding, arguments, predicate, otherwise)
        launch = self._begin(binding, arguments, predicate, otherwise)
        share = self._distributor.share(binding, keeps=predicate is not None)
        if self._machine.num_ranks > 1:
            self._spread(binding, arguments, predicate)
        futures = {
            point.colour: Future(self, launch, share.ranks_of(point.colour), point.colour)
            for point in binding.points
        }
        returns = binding.task.returns
        if not returns:
            for future in futures.values():
                future.put(None)
                future.ranks = self._everyone
        elif self._stream.recorder is not None:
            self._stream.recorder.results += futures.values()
        for operation in share.transfers:
            self._stream.submit(operation)
        for executable in share.executables:
            result = futures[executable.colour] if returns else None
            self._stream.submit(executable.call(arguments, result, predicate, otherwise))
        return list(futures.values())

    def _begin(
        self,
        binding: Binding,
        values: Mapping[str, Any],
        predicate: Future | None = None,
        otherwise: Any = None,
    ) -> int:
        stream = self._stream
        if not stream.is_open:
            stream.refuse(f"launch of {binding}")
        if stream.replayed is not None:  # also where this rank has nothing to do for the launch
            stream.leave_replay()
            self._loops.broke()
        if stream.recorder is None:
            self._loops.saw(binding)
        else:
            given = values
            if predicate is not None:
                given = {**values, "predicate": predicate, "otherwise": otherwise}
            stream.recorder.launch(binding, given, self._distributor.states)
        launch = self._num_launches
        self._num_launches += 1
        if stream.agreement is not None:
            if stream.agreement.is_due:
                stream.wait(None)
            entry = stream.agreement.history.launch(
                stream.num_operations, launch, binding, values, predicate, otherwise
            )
            if stream.recorder is not None:
                stream.recorder.launches.append(entry)
        if stream.observer is not None:
            is_predicated = predicate is not None
            stream.observer.launched(stream.num_operations, binding, is_predicated=is_predicated)
        return launch

    def _spread(
        self, binding: Binding, arguments: Mapping[str, Any], predicate: Future | None
    ) -> None:
        """Make every rank have the values that a launch is given, if it has not."""
        given = [v for v in (*arguments.values(), predicate) if isinstance(v, (Future, FutureMap))]
        for value in given:
            for future in [value] if isinstance(value, Future) else value:
                if future.ranks != self._everyone:
                    self._stream.submit(ValueMove(self._machine, future))
                    future.ranks = self._everyone

    # Waiting

    def read(self, part: Subregion | Region) -> Any:
        """The memory of a one-field subregion, once every launch that writes it has run.

        It is no copy: later launches may change it. On several ranks every one gets it.

        Raises:
            LaunchError: a subregion of several fields, or none.
            PoisonedError: a task raised that should have made it.
            TraceError: inside a trace.
        """
        part = part.part() if isinstance(part, Region) else part
        if not isinstance(part, Subregion):
            raise LaunchError(
                f"read of {short(part)}, a {type(part).__name__}, expected a region or a subregion"
            )
        self._store.check_known(part.region, part)
        if len(part.fields) > 1:
            raise LaunchError(
                f"read {part}: has {len(part.fields)} fields, expected one: `part(space, field)`"
            )
        self._check_waiting(f"reads {part}")
        replication = self._distributor.replication(part)
        self._stream.say("read", {"part": part}, replication.answer)
        (field,) = part.fields
        key = (part.region.id, field)
        here = self._distributor.requirements_here([Requirement(key, part.space, R)])
        if self._stream.agreement is not None:  # before anything moves
            self._stream.wait(None)
            self._check_made(here, f"{part} was never made")
        for operation in self._distributor.replicate(replication):
            self._stream.submit(operation)
        self._stream.wait([self._stream.submit(Observation(here, part))])
        self._check_made(here, f"{part} was never made")
        return self._machine.instances(self._machine.ranks[0]).view(key, part.space)

    def _check_made(self, requirements: Sequence[Requirement], otherwise: str) -> None:
        for requirement in requirements:
            if cause := self._stream.executor.poisoned.cause_in(requirement.key, requirement.space):
                raise PoisonedError(f"{otherwise}: {cause}")

    def fence(self) -> None:
        """Return when everything issued has run.

        Raises:
            PoisonedError: a task raised.
            TraceError: inside a trace.
        """
        self._check_waiting("waits at a fence")
        self._stream.say("fence")
        self._stream.wait(None)

    def settle(self, future: Future) -> None:
        """Return when a future has its value here; called by ``Future.get``."""
        if not self._stream.is_open and future.is_ready:
            return
        self._check_waiting("reads a future")
        value = Requirement(future.key, ONE, R)
        what = f"the future of launch {future.launch} has no value"
        if future.ranks != self._everyone:
            self._stream.say("value", {"of": future})
            if self._stream.agreement is not None:  # before anything moves
                self._stream.wait(None)
                self._check_made([value], what)
            self._stream.submit(ValueMove(self._machine, future))
            future.ranks = self._everyone
        is_in_order, num_ranks = self._stream.executor.is_in_order, self._machine.num_ranks
        # Where a task has run when it is issued, a GPU may be busy with what comes behind it.
        is_settled = future.holds_value and is_in_order and num_ranks == 1
        if future.is_ready and not is_settled:  # there is no value, or it was asked for before
            self._stream.wait(None)
        elif not is_in_order:
            seen = Observation([value], f"launch {future.launch}")
            self._stream.wait([self._stream.submit(seen)])
        else:
            self._stream.wait(())
        self._check_made([value], what)
        if not future.is_ready:
            raise PoisonedError(f"{what}: it has not run, and will not")

    def agree(self, value: Any) -> Any:
        """The first rank's value, on all ranks: for what may differ, such as a measured time.

        Raises:
            PoisonedError: a task raised on one of several processes.
            TraceError: inside a trace.
        """
        self._check_waiting("agrees on a value")
        self._stream.say("agree")
        if self._stream.agreement is not None:  # before anything moves
            self._stream.wait(None)
        return self._machine.send_value(value, 0)

    def _check_waiting(self, what: str) -> None:
        if not self._stream.is_open:
            self._stream.refuse(f"a program that {what}")
        if self._stream.recorder is not None:
            raise TraceError(
                f"the body of a trace {what}, which a replay could not do: return it, and read it "
                "behind the trace"
            )
        self._loops.broke()

    # Traces

    def trace(
        self,
        name: str,
        body: Callable[..., Any],
        *,
        strict: bool = False,
        keeps: int = TEMPLATES,
    ) -> Trace:
        """A part of the program that repeats: recorded, verified, and then replayed.

        Args:
            name: for people.
            body: launches tasks; see :class:`specinfer.runtime.trace.Trace`.
            strict: raise where a run could have been a replay, and is not.
            keeps: most recordings that are kept, over all buckets.
        """
        trace = Trace(self._tracing, name, body, is_strict=strict, keeps=keeps)
        self.traces.append(trace)
        return trace


def _check_kind(what: str, given: object, has: str, expected: str) -> None:
    if given is not None and (isinstance(given, type) or not hasattr(given, has)):
        kind = "class" if isinstance(given, type) else type(given).__name__
        raise ConfigError(f"{what} is {short(given)} ({kind}), expected {expected}")
