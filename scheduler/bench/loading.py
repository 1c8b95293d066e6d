"""Models in memory, once, with as many decoders around them as there are ways to be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from specinfer.models.batch import BatchLimits
from specinfer.models.checkpoint import open_checkpoint
from specinfer.models.compiler import Operand, Program, compile_graph
from specinfer.models.definition import definition_for
from specinfer.models.draft_vocabulary import DraftVocabulary
from specinfer.models.fetch import home_from_environment, locate
from specinfer.models.fusion import fuse, stack_weights
from specinfer.models.model import Model, weight_regions
from specinfer.models.packing import factors, pack_weights
from specinfer.models.progress import Progress, silent
from specinfer.models.weights import load_weights
from specinfer.ops.embedding import embedding
from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import ConfigError
from specinfer.runtime.region import Region
from specinfer.scheduler.assembly import new_runtime
from specinfer.scheduler.bench.shapes import SHAPES, program_of, random_weights
from specinfer.scheduler.bench.timing import let_go, waiter
from specinfer.scheduler.config import FAST
from specinfer.scheduler.decoder import Decoder
from specinfer.scheduler.kv_pages import KVPages, num_pages
from specinfer.scheduler.plan import Plan


@dataclass(frozen=True, slots=True)
class Place:
    """Where models run.

    Attributes:
        runtime: that all of them share.
        device: ``cpu`` or ``cuda``.
        dtype: of weights, activations and K/V.
    """

    runtime: Runtime
    device: str
    dtype: torch.dtype

    @classmethod
    def new(cls, device: str, dtype: torch.dtype, numerics: str = FAST) -> Place:
        """A runtime of its own, behind those that nobody holds any more.

        Args:
            device: where models run.
            dtype: of all that is computed.
            numerics: ``fast`` or ``invariant``.

        Raises:
            ConfigError: there is no such device.
        """
        torch.set_grad_enabled(False)
        let_go(device)
        return cls(new_runtime("serial", dtype, device=device, numerics=numerics), device, dtype)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory.

    Attributes:
        name: for people.
        place: where it is.
        program: what the device runs of it.
        weights: that the program reads.
        tensors: the same numbers under the checkpoint's names.
        draft_vocabulary: the tokens that an SSM knows; None: the LLM's.
    """

    name: str
    place: Place
    program: Program
    weights: Mapping[str, Region]
    tensors: Mapping[str, Tensor]
    draft_vocabulary: DraftVocabulary | None = None

    @classmethod
    def of(cls, name: str, place: Place, program: Program, tensors: dict[str, Tensor]) -> Loaded:
        """Bring weights into the order that the device likes.

        Args:
            name: for people.
            place: where to.
            program: as compiled from the graph.
            tensors: by name in the checkpoint; taken out of it, so that nothing is held twice.
        """
        if place.device == "cpu":
            weights = pack_weights(program, tensors)
            regions = weight_regions(place.runtime, weights, f"{name}.")
            return cls(name, place, program, regions, tensors)
        fused = fuse(program)
        weights = stack_weights(fused, tensors, place.device)
        tensors.clear()
        waiter(place.device)()  # models run on a stream of their own
        regions = weight_regions(place.runtime, weights, f"{name}.")
        return cls(name, place, fused, regions, unstacked(program, fused, weights))

    @property
    def weight_bytes(self) -> int:
        """What a step reads of the weights: of a table that is only looked up, next to nothing."""
        tables = _looked_up(self.program)
        numbers = sum(prod(s) for name, s in self.program.weights.items() if name not in tables)
        return numbers * self.place.dtype.itemsize

    @property
    def token_bytes(self) -> int:
        """K/V of a token."""
        program = self.program
        numbers = 2 * program.num_layers * program.kv_heads * program.head_size
        return numbers * self.place.dtype.itemsize

    @property
    def row_operations(self) -> int:
        """Multiplications and additions of a row with the weights."""
        return 2 * sum(prod(self.program.weights[name]) for name in factors(self.program))

    def matrices(self) -> Sequence[Tensor]:
        """The weights that are multiplied with."""
        runtime = self.place.runtime
        return [runtime.read(self.weights[name].part()) for name in factors(self.program)]

    def decoder(self, requests: int, nodes: int, length: int, rows: int = 256) -> Decoder:
        """The model with room for K/V.

        Args:
            requests: most requests at once.
            nodes: most uncommitted nodes of a request, behind its root.
            length: most tokens of a request.
            rows: most rows of a step; trees of all requests always fit.
        """
        limits = BatchLimits(
            rows=max(rows, requests * (1 + nodes)),
            requests=requests,
            context=length,
            nodes=max(rows, 1 + nodes),
            logit_rows=requests * (1 + nodes),
        )
        slots = KVPages(requests * (num_pages(length) + 2), requests, max(1, nodes))
        runtime, dtype = self.place.runtime, self.place.dtype
        model = Model(runtime, self.program, self.weights, limits, slots.num_slots, dtype)
        return Decoder(model, slots)


def load_shape(name: str, place: Place) -> Loaded:
    """A model of random weights; ``name`` is one of ``SHAPES``."""
    program = program_of(name)
    tensors = random_weights(program.weights, place.dtype, place.device)
    return Loaded.of(name, place, program, tensors)


def label_of(name: str) -> str:
    """A model's name in results, where a stroke stands between parts.

    >>> label_of("models/qwen2.5-coder-0.5b.gguf"), label_of("qwen2.5-coder-0.5b")
    ('qwen2.5-coder-0.5b', 'qwen2.5-coder-0.5b')
    """
    return name.rstrip("/").rpartition("/")[2].removesuffix(".gguf")


def load_model(name: str, place: Place, progress: Progress = silent) -> Loaded:
    """A model of random weights if ``name`` is one of ``SHAPES``, else of a checkpoint.

    Raises:
        SpecInferError: a checkpoint that cannot be had or read.
    """
    if name in SHAPES:
        return load_shape(name, place)
    path = locate(name, home_from_environment())
    if path is None:
        raise ConfigError(f"{name}: there is no such model here")
    checkpoint = open_checkpoint(path)
    plan = Plan(label_of(name), checkpoint, definition_for(checkpoint.config))
    return load_plan(plan, place, progress)


def load_plan(plan: Plan, place: Place, progress: Progress = silent) -> Loaded:
    """A model of a checkpoint.

    Raises:
        SpecInferError: weights that cannot be read, or do not fit the model.
    """
    program = compile_graph(plan.graph)
    tensors = load_weights(plan.checkpoint, program.weights, place.dtype, progress)
    loaded = Loaded.of(plan.name, place, program, tensors)
    return replace(loaded, draft_vocabulary=plan.checkpoint.draft_vocabulary)


def unstacked(program: Program, fused: Program, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a fused program's weights are under the names that the program had before.

    Returns:
        Views: nothing is copied.
    """
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        parts = fused.stacks.get(name, (name,))
        heights = [program.weights[part][0] for part in parts]
        found |= zip(parts, torch.split(weight, heights), strict=True)
    return found


def _looked_up(program: Program) -> set[str]:
    """Weights of which only some rows are read."""
    uses = [
        (given.name, step.task is embedding)
        for step in program.steps
        for _, given in step.arguments
        if isinstance(given, Operand) and given.kind == "weight"
    ]
    return {name for name, _ in uses} - {name for name, is_table in uses if not is_table}
