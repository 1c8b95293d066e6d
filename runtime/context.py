"""The runtime: makes regions, takes launches in program order, and hands them to an executor."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast

from specinfer.runtime.agreement import Agreement
from specinfer.runtime.arrays import bytes_like, itemsize, over, zeros
from specinfer.runtime.binding import Binding, bind_index, bind_single
from specinfer.runtime.call import check_values
from specinfer.runtime.debug import CheckingExecutor
from specinfer.runtime.dependence import DependenceAnalyzer, Requirement
from specinfer.runtime.distributor import Distributor
from specinfer.runtime.errors import (
    ConfigError,
    LaunchError,
    MapperError,
    PoisonedError,
    TraceError,
)
from specinfer.runtime.executor import Executor, Operation, ReplayingExecutor
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
from specinfer.runtime.partition import Projected, points
from specinfer.runtime.placement import FieldState
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.recorder import Recorder
from specinfer.runtime.region import FieldKey, Region, Storage, Subregion
from specinfer.runtime.task import Task
from specinfer.runtime.temporaries import Temporary, plan_temporaries
from specinfer.runtime.trace import TEMPLATES, Recording, States, Template, Trace
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
        memories: by name; each tells who holds how much of it.

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
        self._machine: Machine = machine or OneRank()
        several = self._machine.num_ranks > 1
        self._everyone = (1 << self._machine.num_ranks) - 1
        self._executor = executor or (InOrderExecutor() if several else SerialExecutor())
        if self._machine.control is not None and not self._executor.is_in_order:
            raise ConfigError(
                f"executor {type(self._executor).__name__} runs operations in an order of its own, "
                "but each of several processes must keep that of the program, for messages to "
                "arrive where they belong; expected InOrderExecutor"
            )
        if debug:
            self._executor = CheckingExecutor(self._executor)
        self._mapper = mapper or Mapper(line(self._machine.num_ranks), processors)
        self._mapper.mesh.check_ranks(self._machine.num_ranks)
        self._distributor = Distributor(self._machine, self._mapper)
        self._analyzer = DependenceAnalyzer()
        self._regions: list[Region] = []
        self._bindings: OrderedDict[tuple[Any, ...], Binding] = OrderedDict()
        self._loops = LoopWatch()
        self._num_launches = 0
        self._num_operations = 0
        self._attached = 0
        self.traces: list[Trace] = []
        self.memories = {memory.name: memory for memory in memories or (Memory("cpu"),)}
        self._num_arenas = 0
        self._recorder: Recorder | None = None
        self._observer = observer
        self._replayed: Template | None = None
        control = self._machine.control
        self._agreement = None if control is None else Agreement(control)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the executor; launches that have not started are dropped."""
        self._executor.close()
        self._machine.close()

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
        region = Region(len(self._regions), name, shape, fields)
        attached = {f: region.check(f, array) for f, array in (arrays or {}).items()}
        dtypes = {**region.fields, **{f: array.dtype for f, array in attached.items()}}
        num_bytes = region.space.volume * sum(map(itemsize, dtypes.values()))
        self._memory_of(region).hold(name, num_bytes)
        self._add(region)
        for field, array in attached.items():
            self._attach(region, field, array)
        return region

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
        plan = plan_temporaries(values)
        if not values:
            return {}
        regions = {
            value.name: Region(id, value.name, value.shape, {"value": value.dtype})
            for id, value in enumerate(values, start=len(self._regions))
        }
        memories = {memory.name: memory for memory in map(self._memory_of, regions.values())}
        if len(memories) > 1:
            raise MapperError(
                f"arena {name}: a mapper put its values into memories {', '.join(memories)}, "
                "expected one"
            )
        memories.popitem()[1].hold(name, plan.num_bytes)
        arena = self._num_arenas
        self._num_arenas += 1
        memory = zeros((plan.num_bytes,), bytes_like(values[0].dtype))
        for value in values:
            region, offset = regions[value.name], plan.offsets[value.name]
            self._add(region)
            region.storage = Storage(arena, offset, itemsize(value.dtype))
            self._attach(region, "value", over(memory, offset, value.shape, value.dtype))
        return regions

    def _add(self, region: Region) -> None:
        self._regions.append(region)
        self._distributor.add(region)

    def _memory_of(self, region: Region) -> Memory:
        name = self._mapper.memory(region)
        try:
            return self.memories[name]
        except KeyError:
            raise MapperError(
                f"region {region.name}: a mapper put it into memory {name!r}, expected "
                f"{' or '.join(self.memories)}"
            ) from None

    def attach(self, region: Region, field: str, array: Any) -> None:
        """Make ``array`` the memory of a field: NumPy, torch, CuPy, or anything with DLPack.

        On several ranks every one attaches its own array, of the same values.

        Raises:
            LaunchError: no such field, or what cannot be its memory.
            PoisonedError: a task raised; the memory is as before.
        """
        self._check_known(region, f"region {region.name}")
        self.fence()
        self._attach(region, field, array)
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
        for rank in self._machine.ranks:
            self._machine.instances(rank).detach((region.id, field))
        self._exchanged(region, field)
        return array

    def _attach(self, region: Region, field: str, array: Any) -> None:
        array = region.check(field, array)
        for rank in self._machine.ranks:
            self._machine.instances(rank).attach((region.id, field), array)

    def _exchanged(self, region: Region, field: str) -> None:
        made = Requirement((region.id, field), region.space, WD)
        self._executor.poisoned.spreads(self._distributor.requirements_here([made]))
        if self._agreement is not None:
            self._agreement.made(made)
        self._distributor.forget((region.id, field), region)
        self._attached += 1
        if self._observer is not None:
            self._observer.exchanged(self._num_operations, (region.id, field))

    def array(self, region: Region, field: str) -> Any:
        """This process's memory of a field as it is now, without waiting: for a look.

        Raises:
            LaunchError: no such field.
        """
        self._check_known(region, region.part(None, field))
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
            otherwise: what its future gives then.
            arguments: subregions and values, by parameter; a value may be a future.

        Raises:
            LaunchError: an argument missing, unknown or of the wrong kind; two arguments of this
                launch that overlap with privileges that do not commute.
        """
        binding = self._bind(task, arguments)
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
        binding = self._bind(task, arguments, domain)
        futures = self._issue(binding, arguments, predicate, otherwise)
        colours = [point.colour for point in binding.points]
        return FutureMap(dict(zip(colours, futures, strict=True)))  # type: ignore[arg-type]

    def bind(self, task: Task, /, **arguments: Any) -> Launch:
        """Check a launch once, to issue it many times."""
        binding = self._bind(task, arguments)
        check_values(self, binding, arguments)
        return Launch(binding, {n: v for n, v in arguments.items() if n not in binding.regions})

    def issue(self, launch: Launch) -> None:
        """Issue a launch that was bound before; there is no future."""
        self._issue(launch.binding, launch.values, None, None)

    def issue_all(self, launches: Iterable[Launch]) -> None:
        """Issue launches in order."""
        for launch in launches:
            self._issue(launch.binding, launch.values, None, None)

    def _bind(
        self, task: Task, arguments: Mapping[str, Any], domain: int | tuple[int, ...] | None = None
    ) -> Binding:
        if len(arguments) != len(task.parameters) or any(
            n not in arguments for n in task.parameters
        ):
            raise LaunchError(
                f"task {task.name}: launched with {sorted(arguments)}, "
                f"expected {list(task.parameters)}"
            )
        try:
            key = (task, domain, *[arguments[name] for name in task.key_parameters])
            binding = self._bindings.get(key)
        except TypeError:  # something that is no region, and cannot be looked up
            key, binding = (), None
        if binding is None:
            if domain is None:
                binding = bind_single(task, arguments)
            else:
                binding = bind_index(task, points(domain), arguments)
            self._check_own(binding)
            if key:
                self._bindings[key] = binding
                if len(self._bindings) > BINDINGS:
                    self._bindings.popitem(last=False)
        else:
            self._bindings.move_to_end(key)
        return binding

    def _check_own(self, binding: Binding) -> None:
        """Numbers of regions mean something in their own runtime only."""
        for name, argument in binding.regions.items():
            part = argument.partition.whole if isinstance(argument, Projected) else argument
            where = f"task {binding.task.name}: argument {name}, {argument},"
            self._check_known(part.region, where)

    def _check_known(self, region: Region, where: object) -> None:
        if region not in self._regions[region.id : region.id + 1]:
            raise LaunchError(
                f"{where} is of another runtime, expected a region that this one made"
            )

    def _issue(
        self,
        binding: Binding,
        arguments: Mapping[str, Any],
        predicate: Future | None,
        otherwise: Any,
    ) -> list[Future]:
        check_values(self, binding, arguments, predicate, otherwise)
        launch = self._begin(binding, arguments, predicate, otherwise)
        if self._machine.num_ranks > 1:
            self._spread(binding, arguments, predicate)
        share = self._distributor.share(binding, keeps=predicate is not None)
        if self._agreement is not None:
            self._agreement.history.placed(share.lowered, share.fingerprint)
        futures = {
            point.colour: Future(self, launch, share.ranks_of(point.colour), point.colour)
            for point in binding.points
        }
        returns = binding.task.returns
        if not returns:
            for future in futures.values():
                future.put(None)
                future.ranks = self._everyone
        elif self._recorder is not None:
            self._recorder.results += futures.values()
        for operation in share.transfers:
            self._submit(operation)
        for executable in share.executables:
            result = futures[executable.colour] if returns else None
            self._submit(executable.call(arguments, result, predicate, otherwise))
        return list(futures.values())

    def _begin(
        self,
        binding: Binding,
        values: Mapping[str, Any],
        predicate: Future | None = None,
        otherwise: Any = None,
    ) -> int:
        if self._replayed is not None:  # also where this rank has nothing to do for the launch
            self._leave_replay()
        if self._recorder is None:
            self._loops.saw(binding)
        else:
            given = values
            if predicate is not None:
                given = {**values, "predicate": predicate, "otherwise": otherwise}
            self._recorder.launch(binding, given, self._distributor.states)
        launch = self._num_launches
        self._num_launches += 1
        if self._agreement is not None:
            if self._agreement.is_due:
                self._wait(None)
            entry = self._agreement.history.launch(
                self._num_operations, launch, binding, values, predicate, otherwise
            )
            if self._recorder is not None:
                self._recorder.launches.append(entry)
        if self._observer is not None:
            is_predicated = predicate is not None
            self._observer.launched(self._num_operations, binding, is_predicated=is_predicated)
        return launch

    def _say(self, what: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Something that is no launch, and must be the same on all ranks."""
        if self._agreement is not None:
            self._agreement.history.say(self._num_operations, what, arguments)
        if self._observer is not None:
            self._observer.said(self._num_operations, what)

    def _spread(
        self, binding: Binding, arguments: Mapping[str, Any], predicate: Future | None
    ) -> None:
        """Make every rank have the values that a launch is given, if it has not."""
        given = [v for v in (*arguments.values(), predicate) if isinstance(v, (Future, FutureMap))]
        for value in given:
            for future in [value] if isinstance(value, Future) else value:
                if future.ranks != self._everyone:
                    self._submit(ValueMove(self._machine, future))
                    future.ranks = self._everyone

    def _submit(self, operation: Operation) -> int:
        if self._replayed is not None:
            self._leave_replay()
        id = self._num_operations
        self._num_operations += 1
        if self._recorder is not None:
            self._recorder.operations.append(operation)
        executor = self._executor
        if executor.is_in_order:
            executor.submit(id, operation, ())
        else:
            waits_for = self._analyzer.launch(id, operation.requirements)
            for finished in executor.submit(id, operation.as_of_now(), waits_for):
                self._analyzer.complete(finished)
        return id

    # Waiting

    def read(self, part: Subregion | Region) -> Any:
        """The memory of a one-field subregion, once every launch that writes it has run.

        It is no copy: later launches may change it. On several ranks every one gets it.

        Raises:
            LaunchError: a subregion of several fields.
            PoisonedError: a task raised that should have made it.
            TraceError: inside a trace.
        """
        part = part.part() if isinstance(part, Region) else part
        self._check_known(part.region, part)
        if len(part.fields) > 1:
            raise LaunchError(
                f"read {part}: has {len(part.fields)} fields, expected one: `part(space, field)`"
            )
        self._refuse_in_trace(f"reads {part}")
        self._say("read", {"part": part})
        (field,) = part.fields
        key = (part.region.id, field)
        for operation in self._distributor.replicate(part):
            self._submit(operation)
        here = self._distributor.requirements_here([Requirement(key, part.space, R)])
        self._wait([self._submit(Observation(here, part))])
        for requirement in here:
            if cause := self._executor.poisoned.cause_in(requirement.key, requirement.space):
                raise PoisonedError(f"{part} was never made: {cause}")
        return self._machine.instances(self._machine.ranks[0]).view(key, part.space)

    def fence(self) -> None:
        """Return when everything issued has run.

        Raises:
            PoisonedError: a task raised.
            TraceError: inside a trace.
        """
        self._refuse_in_trace("waits at a fence")
        self._say("fence")
        self._wait(None)

    def settle(self, future: Future) -> None:
        """Return when a future has its value here; called by ``Future.get``."""
        self._refuse_in_trace("reads a future")
        if future.ranks != self._everyone:
            self._say("value", {"of": future})
            self._submit(ValueMove(self._machine, future))
            future.ranks = self._everyone
        if future.is_ready:  # there is no value to wait for, or it was asked for before
            self._wait(None)
        elif not self._executor.is_in_order:
            here = [Requirement(future.key, ONE, R)]
            self._wait([self._submit(Observation(here, f"launch {future.launch}"))])
        elif self._machine.num_ranks > 1:
            self._wait(())
        cause = self._executor.poisoned.cause_in(future.key, ONE)
        if cause is not None or not future.is_ready:
            why = cause or "it has not run, and will not"
            raise PoisonedError(f"the future of launch {future.launch} has no value: {why}")

    def agree(self, value: Any) -> Any:
        """The first rank's value, on all ranks: for what may differ, such as a measured time.

        Raises:
            TraceError: inside a trace.
        """
        self._refuse_in_trace("agrees on a value")
        return self._machine.send_value(value, 0)

    def _wait(self, ids: Sequence[int] | None) -> None:
        self._executor.wait(ids if self._agreement is None else None)
        failures = self._executor.take_failures()
        if self._agreement is not None:
            self._agreement.meet(failures, self._executor.poisoned)
        elif failures:
            error = failures[0].error
            if not isinstance(error, Exception):
                raise error
            raise PoisonedError(failures[0].story) from error

    def _refuse_in_trace(self, what: str) -> None:
        if self._recorder is not None:
            raise TraceError(
                f"the body of a trace {what}, which a replay could not do: return it, and read it "
                "behind the trace"
            )

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
        trace = Trace(self, name, body, is_strict=strict, keeps=keeps)
        self.traces.append(trace)
        return trace

    @property
    def epoch(self) -> Hashable:
        """Changes when mappers or memories change."""
        return (self._mapper.epoch, self._attached)

    @property
    def is_in_order(self) -> bool:
        """Whether operations run as they are issued."""
        return self._executor.is_in_order

    @property
    def last_replayed(self) -> Template | None:
        """The template behind which nothing else was issued yet."""
        return self._replayed

    def may_replay(self, name: str) -> bool:
        """Whether the mapper lets a trace be replayed."""
        return self._mapper.replays(name)

    def begin_run(self, name: str, bucket: Hashable, parameters: Mapping[str, Any]) -> None:
        """Take in that a trace is run.

        Raises:
            TraceError: inside another one.
        """
        if self._recorder is not None:
            raise TraceError(
                f"trace {name} is run in the body of another trace, expected launches only: call "
                "the function that it was made of"
            )
        self._say(f"trace {name}", {"bucket": bucket, **parameters})

    def begin_recording(self) -> None:
        """Keep what is issued from now on."""
        self._recorder = Recorder()

    def end_recording(self) -> Recording:
        """What was issued since then."""
        assert self._recorder is not None
        recorder, self._recorder = self._recorder, None
        return recorder.recording(self._distributor.states)

    def states_are(self, states: States) -> str | None:
        """A field that does not lie as it should; None if all do."""
        now: Mapping[FieldKey, FieldState] = self._distributor.states
        for key, state in states.items():
            if now[key] is not state:
                return f"{self._regions[key[0]].name}.{key[1]}"
        return None

    def replay(self, template: Template, *, is_recurrent: bool) -> None:
        """Run what was recorded."""
        executor, recording = self._executor, template.recording
        for future, ranks in zip(recording.results, recording.result_ranks, strict=True):
            future.ranks = ranks
            if executor.is_in_order:  # else launches before this one may still want the old value
                future.clear()
        if self._agreement is not None:
            self._agreement.history.replay(self._num_operations, recording.launches)
        if self._observer is not None:
            self._observer.replayed(self._num_operations, recording.issued)
        if executor.is_in_order:
            cast(ReplayingExecutor, executor).replay(
                self._num_operations, template.calls, recording.operations
            )
            self._num_operations += len(template.calls)
        else:
            if not is_recurrent:
                self._leave_replay()
            base = self._num_operations
            self._num_operations += len(recording.operations)
            for at, (operation, edges) in enumerate(
                zip(recording.operations, template.edges, strict=True)
            ):
                waits_for = [base + edge for edge in edges if is_recurrent or edge >= 0]
                executor.submit(base + at, operation.as_of_now(), waits_for)
        self._replayed = template
        if not is_recurrent:
            self._distributor.install(recording.after)

    def _leave_replay(self) -> None:
        """What is issued next waits for everything: replays are not in the analysis."""
        self._replayed = None
        if not self._executor.is_in_order:
            self._executor.wait(None)
            self._analyzer = DependenceAnalyzer()
