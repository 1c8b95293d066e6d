"""Puts an engine together: models with their weights, their K/V pools, and the speculators."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch

from specinfer.models.batch import BatchLimits, StepShape
from specinfer.models.compiler import Program, compile_graph
from specinfer.models.fusion import fuse, stack_weights
from specinfer.models.model import Model, memory_bytes, rounded, weight_regions
from specinfer.models.packing import factors, pack_weights
from specinfer.models.parallel import AXIS
from specinfer.models.progress import Progress
from specinfer.models.weights import load_weights
from specinfer.runtime.config import read_yaml
from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import ConfigError
from specinfer.runtime.executor import Executor
from specinfer.runtime.executor.in_order import InOrderExecutor
from specinfer.runtime.executor.serial import SerialExecutor
from specinfer.runtime.executor.threads import ThreadedExecutor
from specinfer.runtime.machine.start import machine_here
from specinfer.runtime.mapper.yaml import YamlMapper
from specinfer.runtime.memory import Memory, OutOfMemoryError, budgets_from
from specinfer.runtime.mesh import Mesh
from specinfer.runtime.oplog import LoggingExecutor, OperationLog
from specinfer.runtime.profile.device import CudaClock
from specinfer.runtime.profile.executor import ProfilingExecutor
from specinfer.runtime.profile.profiler import Profiler
from specinfer.runtime.region import Region
from specinfer.scheduler.adaptive import AdaptiveTrees
from specinfer.scheduler.config import (
    DEVICES,
    EXECUTORS,
    FAST,
    NUMERICS,
    BatchConfig,
    ParallelConfig,
)
from specinfer.scheduler.decoder import Decoder, Work
from specinfer.scheduler.drafting import Drafting, FixedTrees
from specinfer.scheduler.engine import Engine
from specinfer.scheduler.fitting import enough, what_fits
from specinfer.scheduler.kv_pages import KVPages, num_pages
from specinfer.scheduler.pipeline import DESK
from specinfer.scheduler.plan import Plan
from specinfer.scheduler.speculators.making import Maker, Parts
from specinfer.scheduler.step_cost import FREE, StepCost, measure_step_cost, measure_steps

CPU, GPU = "cpu", "gpu"
"""Names of memories; that of the host is torch's name of its device, too."""


def new_runtime(
    executor: str,
    dtype: torch.dtype,
    profiler: Profiler | None = None,
    *,
    device: str = CPU,
    log: OperationLog | None = None,
    parallel: ParallelConfig | None = None,
    rules: Sequence[Mapping[str, Any]] = (),
    memory: Mapping[str, Any] | None = None,
    numerics: str = FAST,
) -> Runtime:
    """A runtime on a GPU or the CPUs of this process, or of all ranks that ``mpirun`` has started.

    Args:
        executor: ``serial`` or ``threads``.
        dtype: of weights, activations and K/V.
        profiler: is told what runs, if there is one.
        device: ``cpu`` or ``cuda``.
        log: is told what is meant and what is done, if there is one.
        parallel: how the work is spread over the ranks.
        rules: which launches are divided over them, as in a mapper's YAML.
        memory: budgets by name, in bytes or as text; by default what the machine has.
        numerics: ``fast`` or ``invariant``.

    Raises:
        ConfigError: another executor, device, numerics or number of ranks than there are, a budget
            that is no size or of no memory.
    """
    if executor not in EXECUTORS:
        raise ConfigError(f"executor is {executor!r}, expected {' or '.join(EXECUTORS)}")
    if device not in DEVICES:
        raise ConfigError(f"device is {device!r}, expected {' or '.join(DEVICES)}")
    if numerics not in NUMERICS:
        raise ConfigError(f"numerics is {numerics!r}, expected {' or '.join(NUMERICS)}")
    machine = machine_here()
    parallel = parallel or ParallelConfig()
    mapper = _mapper(parallel, _processors(device, dtype, numerics), rules, device)
    _check_ranks(machine.num_ranks, mapper.mesh, parallel)
    if machine.num_ranks > 1 and executor != "serial":
        raise ConfigError(f"executor is {executor!r}, expected serial on several ranks")
    chosen = _executor(executor, device, machine.num_ranks)
    if profiler:
        chosen = ProfilingExecutor(chosen, profiler, None if device == CPU else CudaClock())
    chosen = LoggingExecutor(chosen, log) if log else chosen
    budgets = dict.fromkeys(mapper.memories) | {CPU: machine_bytes()}
    if device != CPU:
        budgets[GPU] = gpu_bytes()
    given = budgets_from(memory or {})
    if unknown := sorted(given.keys() - budgets):
        raise ConfigError(
            f"memory.{unknown[0]}: nothing is put into it, expected {' or '.join(budgets)}"
        )
    budgets |= given
    memories = [
        Memory(name, budget, device if name == GPU else CPU) for name, budget in budgets.items()
    ]
    return Runtime(chosen, machine=machine, mapper=mapper, memories=memories, observer=log)


def _processors(device: str, dtype: torch.dtype, numerics: str) -> Sequence[str]:
    if device != CPU:
        # Tasks declared for a CPU are torch's own, wherever arrays lie.
        return ("cuda", "cpu") if numerics == FAST else ("cuda-invariant", "cuda", "cpu")
    if numerics != FAST:
        return ("invariant", "cpu")
    # NumPy, and so Numba, has no bfloat16; only its weights are packed.
    return ("numba", "cpu") if dtype == torch.float32 else ("packed", "cpu")


def _executor(name: str, device: str, num_ranks: int) -> Executor:
    if device != CPU:
        if num_ranks > 1 or name != "serial":
            raise ConfigError(
                f"device is {device} with executor {name} on {num_ranks} ranks, expected the "
                "executor serial on one"
            )
        # Only here: it wants a GPU and CuPy.
        from specinfer.runtime.executor.cuda import CudaExecutor

        return CudaExecutor()
    if name == "threads":
        # The workers share the cores: each task gets one of them.
        workers = torch.get_num_threads()
        return ThreadedExecutor(workers, partial(torch.set_num_threads, 1))
    return InOrderExecutor() if num_ranks > 1 else SerialExecutor()


def with_lookahead(batch: BatchConfig, device: str) -> BatchConfig:
    """The same with ``lookahead`` decided, where nobody has.

    >>> [with_lookahead(BatchConfig(), device).lookahead for device in ("cpu", "cuda")]
    [0, 1]
    """
    if batch.lookahead is not None:
        return batch
    return replace(batch, lookahead=int(device != CPU))


def gpu_bytes() -> int:
    """Memory of the GPU that nobody uses yet."""
    free, _ = torch.cuda.mem_get_info()
    return int(free)


def machine_bytes() -> int:
    """Memory of this machine, whoever uses it."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _mapper(
    parallel: ParallelConfig,
    processors: Sequence[str],
    rules: Sequence[Mapping[str, Any]],
    device: str,
) -> YamlMapper:
    """The user's rules, then the models'."""
    given = read_yaml(Path(parallel.mapper)) if parallel.mapper else {}
    if not isinstance(given, dict):
        raise ConfigError(f"{parallel.mapper}: expected a mapping, got {given!r}")
    own: dict[str, Any] = {"mesh": {AXIS: parallel.tensor}, "processors": list(processors)}
    if device != CPU:
        own["memories"] = {DESK: CPU, "*": GPU}
    return YamlMapper(own | given, name=parallel.mapper or None, more=rules)


def _check_ranks(num_ranks: int, mesh: Mesh, parallel: ParallelConfig) -> None:
    """Refuse a mesh that is not the one asked for, or has another number of ranks than there are.

    A mapper's file may spread the ranks over further axes; models are divided over one of them.
    """
    tensor = parallel.tensor
    divided = mesh.size(AXIS)
    if divided != tensor:
        raise ConfigError(
            f"parallel.tensor is {tensor}, but the mesh of {parallel.mapper} is {mesh}; expected "
            f"parallel.tensor={divided} and `mpirun -n {mesh.num_ranks}`, or {AXIS}: {tensor} in "
            "the mesh"
        )
    if mesh.num_ranks == num_ranks:
        return
    runs = f"the program runs on {num_ranks} {'rank' if num_ranks == 1 else 'ranks'}"
    start = f"expected `mpirun -n {mesh.num_ranks}`"
    if mesh.num_ranks == tensor:
        raise ConfigError(
            f"parallel.tensor is {tensor}, but {runs}; {start}, or parallel.tensor={num_ranks}"
        )
    raise ConfigError(
        f"the mesh of {parallel.mapper}, {mesh}, has {mesh.num_ranks} ranks, but {runs}; {start}, "
        "or another mesh"
    )


def cost_of_steps(decoder: Decoder, nodes: int) -> StepCost:
    """Time trees on the steps of a model that serves nobody yet.

    Args:
        decoder: runs the model; its K/V are garbage afterwards, and nobody's.
        nodes: most of a request's tree, the root not counted.
    """
    limits = decoder.model.limits
    most = limits.requests * (1 + nodes)
    computed = {rounded(StepShape(rows, 1, rows), limits).rows for rows in range(1, most)}
    sizes = [*sorted(size for size in computed if size < most), most]

    def step(rows: int) -> None:
        works = []
        for request in range(-(-rows // (1 + nodes))):
            children = min(rows - request * (1 + nodes), 1 + nodes) - 1
            decoder.slots.reserve(request, 1)
            works.append(
                Work(request=request, chain=[0], tokens=[0] * children, parents=[-1] * children)
            )
        decoder.step(works)
        for work in works:
            decoder.slots.release(work.request)

    return measure_steps(step, decoder.model.runtime.fence, sizes)


@dataclass(frozen=True, slots=True)
class Assembly:
    """Makes one engine.

    Attributes:
        runtime: that all of its models share.
        batch: how much is done at once.
        length: most tokens of a request.
        dtype: of weights, activations and K/V.
        device: where they lie.
    """

    runtime: Runtime
    batch: BatchConfig
    length: int
    dtype: torch.dtype
    device: str = CPU

    def engine(
        self,
        llm: Plan,
        drafts: Sequence[Maker],
        verifier: str,
        progress: Progress,
        *,
        is_adaptive: bool,
    ) -> Engine:
        """Read all weights and connect an LLM with its speculators.

        Args:
            llm: the model whose text is written.
            drafts: make the speculators.
            verifier: by name.
            progress: is told while weights are read.
            is_adaptive: whether trees are as large as they turn out to be worth.

        Raises:
            SpecInferError: weights that do not fit their model, or that this machine has not the
                memory for what is asked.
        """
        if self.batch.lookahead and self.runtime.num_ranks > 1:
            raise ConfigError(
                f"batch.lookahead is {self.batch.lookahead} on {self.runtime.num_ranks} ranks, "
                "expected 0: every rank schedules for itself"
            )
        program = self._program(llm)
        models = [model for draft in drafts for model in draft.models]
        programs = {id(plan): self._program(plan) for plan, _ in models}
        num_nodes = sum(draft.num_nodes for draft in drafts)
        ssms = [(plan, programs[id(plan)], nodes) for plan, nodes in models]
        self._check_memory([(llm, program, num_nodes), *ssms])
        weights = self._weights(llm, program, progress)

        def decoder(plan: Plan, nodes: int) -> Decoder:
            runs, shared = programs[id(plan)], plan.checkpoint is llm.checkpoint
            own = weights if shared else self._weights(plan, runs, progress)
            return self._decoder(runs, own, nodes)

        vocabulary = program.values[program.output.name].width
        model = self._decoder(program, weights, num_nodes)
        cost = FREE
        if drafts and self.device == CPU:
            cost = self._step_cost(program, weights)
        elif drafts and (is_adaptive or not all(draft.models for draft in drafts)):
            cost = cost_of_steps(model, num_nodes)  # only who sizes trees by it
        # One policy at a time: what a speculator finds is sized by itself, or by the whole batch.
        parts = Parts(vocabulary, FREE if is_adaptive else cost, decoder)
        speculators = [draft.make(parts) for draft in drafts]
        if not (is_adaptive and speculators):
            drafting: Drafting = FixedTrees(speculators)
        else:
            rows, agree = model.model.limits.rows, self.runtime.agree
            drafting = AdaptiveTrees(speculators, cost, rows, agree)
        return Engine(
            model,
            speculators,
            drafting,
            verifier=verifier,
            prefill_share=self.batch.prefill_share,
            lookahead=self.batch.lookahead or 0,
            lanes=self.device != CPU,
        )

    def _program(self, plan: Plan) -> Program:
        program = compile_graph(plan.graph)
        return program if self.device == CPU else fuse(program)

    def _weights(self, plan: Plan, program: Program, progress: Progress) -> dict[str, Region]:
        # A stack is made of what lies in the checkpoint.
        expected = compile_graph(plan.graph).weights if program.stacks else program.weights
        weights = load_weights(plan.checkpoint, expected, self.dtype, progress)
        if self.device != CPU:
            weights = stack_weights(program, weights, self.device)
        elif self.runtime.num_ranks == 1:  # a packed matrix cannot be divided
            weights = pack_weights(program, weights)
        return weight_regions(self.runtime, weights, plan.prefix)

    def _step_cost(self, program: Program, weights: Mapping[str, Region]) -> StepCost:
        arrays = [self.runtime.read(weights[name].part()) for name in factors(program)]
        cost = measure_step_cost([array for array in arrays if isinstance(array, torch.Tensor)])
        # Times differ from rank to rank; trees must not.
        agreed: StepCost = self.runtime.agree(cost)
        return agreed

    def _check_memory(self, models: Sequence[tuple[Plan, Program, int]]) -> None:
        """Refuse what all models together have not the memory for, before weights are read.

        It is what the runtime comes to hold, but for the tokens that a step finds. Where a mapper
        has several memories to choose from, the runtime refuses, region by region.

        Args:
            models: with their programs and the nodes of their trees; the LLM first, for what is
                made of its checkpoint has its weights.
        """
        if self.runtime.memories.keys() - {CPU, GPU}:
            return
        memory = self.runtime.memories[CPU if self.device == CPU else GPU]
        free = Memory(memory.name, memory.left)
        try:
            for what, num_bytes in self._needs(models):
                free.hold(what, num_bytes)
        except OutOfMemoryError as error:
            raise ConfigError(f"{error}; {self._advice(models, memory)}") from None

    def _needs(self, models: Sequence[tuple[Plan, Program, int]]) -> list[tuple[str, int]]:
        """What all models take, in bytes, by what for and whom."""
        needs: list[tuple[str, int]] = []
        for plan, program, nodes in models:
            limits, slots = self._sizes(nodes)
            needed = memory_bytes(program, limits, slots.num_slots, self.dtype, self.device)
            if plan is models[0][0] or plan.checkpoint is not models[0][0].checkpoint:
                numbers = sum(map(prod, program.weights.values()))
                needed = {"weights": numbers * self.dtype.itemsize} | needed
            needs += ((f"{what} of {plan.name}", number) for what, number in needed.items())
        return needs

    def _advice(self, models: Sequence[tuple[Plan, Program, int]], memory: Memory) -> str:
        """What was asked for, and what of it would fit."""

        def needs(batch: BatchConfig, length: int) -> int:
            changed = replace(self, batch=batch, length=length)
            return sum(number for _, number in changed._needs(models))

        asked = (
            f"{self.batch.max_requests} requests of {self.length} tokens with trees of "
            f"{models[0][2]} nodes"
        )
        fitting = what_fits(self.batch, self.length, needs, memory.left or 0)
        budget = f"memory.{memory.name}: {enough(memory.used + needs(self.batch, self.length))}"
        if not fitting:
            return f"{asked}: not even one of them would fit; expected smaller models, or {budget}"
        return f"{asked}: would fit with {', '.join(fitting)}, smaller models or trees, or {budget}"

    def _sizes(self, nodes: int) -> tuple[BatchLimits, KVPages]:
        """The largest batch, and the K/V slots, of a model for trees of ``nodes`` nodes."""
        requests = self.batch.max_requests
        limits = BatchLimits(
            rows=max(self.batch.max_rows, requests * (1 + nodes)),
            requests=requests,
            context=self.length,
            nodes=max(self.batch.max_rows, 1 + nodes),
            logit_rows=requests * (1 + nodes),
        )
        # By default nobody ever waits for pages: one more for each is what the batcher spares.
        pages = self.batch.kv_pages or requests * (num_pages(self.length) + 1)
        return limits, KVPages(pages, requests, max(1, nodes))

    def _decoder(self, program: Program, weights: Mapping[str, Region], nodes: int) -> Decoder:
        limits, slots = self._sizes(nodes)
        model = Model(self.runtime, program, weights, limits, slots.num_slots, self.dtype)
        return Decoder(model, slots)
