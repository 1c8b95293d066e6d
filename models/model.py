"""A model ready to run: a program with its regions, and the one forward pass over a token batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch

from specinfer.models.batch import BatchLimits, StepShape, TokenBatch, load_batch
from specinfer.models.compiler import Operand, Program
from specinfer.ops.attention import PAGE_SLOTS, WORK_SIZE, HeadShape, plan_attention, scratch_bytes
from specinfer.runtime.arrays import HOST
from specinfer.runtime.context import Runtime
from specinfer.runtime.future import Future, Parameter
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.privilege import WD
from specinfer.runtime.region import Region, Subregion
from specinfer.runtime.task import task
from specinfer.runtime.temporaries import Temporary, plan_temporaries

STEP_SHAPES = 64
"""Sizes of steps whose traces are kept."""


def weight_regions(
    runtime: Runtime, weights: Mapping[str, torch.Tensor], prefix: str = ""
) -> dict[str, Region]:
    """A region for each weight, over the tensor's own memory; names start with ``prefix``."""
    return {
        name: runtime.region(f"{prefix}{name}", tuple(w.shape), {"value": w.dtype}, {"value": w})
        for name, w in weights.items()
    }


def temporaries(
    program: Program, limits: BatchLimits, dtype: torch.dtype, prefix: str = ""
) -> list[Temporary]:
    """The results of a program's operators, in program order; names start with ``prefix``."""
    sizes = {"rows": limits.rows, "logit_rows": limits.logit_rows}
    return [
        Temporary(f"{prefix}{name}", (sizes[v.rows], v.width), dtype, v.first, v.last)
        for name, v in program.values.items()
    ]


def tables(limits: BatchLimits) -> dict[str, tuple[tuple[int, ...], dict[str, torch.dtype]]]:
    """What a batch is written to, and attention's plan of it: shape and fields, by name."""
    integer = torch.int64
    requests, keys = limits.requests, limits.context + limits.nodes
    return {
        "rows": (
            (limits.rows,),
            dict.fromkeys(("tokens", "positions", "request", "slots"), integer),
        ),
        "requests": (
            (requests,),
            dict.fromkeys(("prefix_len", "chain_len", "num_nodes"), integer),
        ),
        "pages": ((requests, -(-limits.context // PAGE_SLOTS)), {"i": integer}),
        "tree": ((requests, limits.nodes), {"i": integer}),
        "ancestors": ((limits.rows, limits.words), {"i": integer}),
        "logit_rows": ((limits.logit_rows,), {"i": integer}),
        "keys": ((requests, keys), {"i": torch.int32}),
        "seen": ((limits.rows, limits.words), {"i": integer}),
        "extents": ((requests, 4), {"i": integer}),
        "work": ((WORK_SIZE,), {"i": torch.int32}),
    }


def kv_shape(program: Program, num_slots: int) -> tuple[int, ...]:
    """(layers, slots, kv_heads, head_size) of a K/V pool."""
    return program.num_layers, num_slots, program.kv_heads, program.head_size


def head_shape(program: Program, dtype: torch.dtype) -> HeadShape:
    """Of a program's attention layers."""
    group = program.heads // program.kv_heads
    return HeadShape(program.kv_heads, group, program.head_size, dtype)


def memory_bytes(
    program: Program,
    limits: BatchLimits,
    num_slots: int,
    dtype: torch.dtype,
    device: str = HOST,
) -> dict[str, int]:
    """What a :class:`Model` of these sizes holds beside its weights, by what for."""
    return {
        "K/V pool": 2 * prod(kv_shape(program, num_slots)) * dtype.itemsize,
        "results of operators": plan_temporaries(temporaries(program, limits, dtype)).num_bytes,
        "batch tables": sum(
            prod(shape) * sum(dtype.itemsize for dtype in fields.values())
            for shape, fields in tables(limits).values()
        ),
        "scratch of attention": program.kv_heads
        * scratch_bytes(head_shape(program, dtype), device),
    }


def rounded(shape: StepShape, limits: BatchLimits) -> StepShape:
    """The next larger of a few sizes of step; none is larger than the limits.

    >>> rounded(StepShape(37, 3, 37), BatchLimits())
    StepShape(rows=48, requests=4, wanted=48)
    """
    return StepShape(
        min(_rounded(shape.rows), limits.rows),
        min(_rounded(shape.requests), limits.requests),
        min(_rounded(shape.wanted), limits.logit_rows),
    )


def _rounded(count: int) -> int:
    """A power of two, from 32 on also what lies half between, and from 256 on four of these.

    With many rows a step costs what is computed, and rows that are nobody's cost as much as others.

    >>> [_rounded(count) for count in (0, 1, 3, 33, 65, 250, 260, 528, 1000, 1100)]
    [0, 1, 4, 48, 96, 256, 320, 640, 1024, 1280]
    """
    if count > 256:
        step = 1 << (count - 1).bit_length() - 3
        return -(-count // step) * step
    power = 1 << max(0, count - 1).bit_length() if count else 0
    between = power // 4 * 3
    return between if power >= 64 and count <= between else power


class Model:
    """A compiled graph bound to memory.

    Args:
        runtime: issues the launches.
        program: what to launch.
        weights: a region for each of the program's weights; models may share them.
        limits: the largest batch.
        num_slots: size of the K/V pool, in tokens.
        dtype: of activations and K/V.

    Attributes:
        kv: the K/V pool: (layers, slots, kv_heads, head_size), fields ``k`` and ``v``.
    """

    def __init__(
        self,
        runtime: Runtime,
        program: Program,
        weights: Mapping[str, Region],
        limits: BatchLimits,
        num_slots: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.runtime = runtime
        self.program = program
        self.limits = limits
        self._weights = weights
        name = program.name
        shape = kv_shape(program, num_slots)
        self.kv = runtime.region(f"{name}.kv", shape, {"k": dtype, "v": dtype})
        self._tables = {
            table: runtime.region(f"{name}.{table}", shape, fields)
            for table, (shape, fields) in tables(limits).items()
        }
        self._heads = head_shape(program, dtype)
        size = scratch_bytes(self._heads, runtime.device_of(self.kv))
        self._scratch = runtime.region(
            f"{name}.scratch", (program.kv_heads, size), {"i": torch.uint8}
        )
        values = temporaries(program, limits, dtype, f"{program.name}.value.")
        made = runtime.temporaries(f"{program.name}.values", values).values()
        self._values = dict(zip(program.values, made, strict=True))
        # A GPU replays a step as one graph for its shape: there must not be too many shapes.
        self._is_captured = runtime.device_of(self.kv) != HOST
        self._step = runtime.trace(f"{program.name}.step", self._launch_step, keeps=STEP_SHAPES)

    @property
    def vocabulary(self) -> int:
        """Tokens that logits are given for."""
        return self.program.values[self.program.output.name].width

    def forward(self, batch: TokenBatch) -> Subregion:
        """Issue the launches of one step.

        Returns:
            (logit rows, vocabulary) part of a region: logits of the rows asked for, and then
            padding, if there is any. The next step writes the same memory.
        """
        shape = batch.shape
        if self._is_captured:
            shape = rounded(shape, self.limits)
        self._step(shape, batch=batch)
        return self._logits(shape)

    def issue(self, batch: Future, shape: StepShape) -> Subregion:
        """Issue the launches of one step, as a part of somebody else's trace.

        Args:
            batch: the future of what to compute.
            shape: of the step; what the batch leaves of it is padding.

        Returns:
            Logits, as of :meth:`forward`, then padding.
        """
        self._launch_step(shape, batch)
        return self._logits(shape)

    def inputs(self, shape: StepShape) -> dict[str, Any]:
        """Where a step of this shape finds what to compute, by argument of ``load_batch``."""
        rows, requests, wanted = shape
        tables = self._tables
        return {
            "rows": tables["rows"].rows(0, rows),
            "requests": tables["requests"].rows(0, requests),
            "pages": tables["pages"].rows(0, requests),
            "tree": tables["tree"].rows(0, requests),
            "ancestors": tables["ancestors"].rows(0, rows),
            "logit_rows": tables["logit_rows"].rows(0, wanted),
        }

    def compute(self, shape: StepShape) -> Subregion:
        """Issue the launches of one step whose :meth:`inputs` others have written.

        Returns:
            Logits, as of :meth:`forward`.
        """
        self._launch_program(shape)
        return self._logits(shape)

    def start_anew(self) -> None:
        """Go on behind launches that failed: what they have not written is not missed.

        K/V are lost: what will be read must be written before.
        """
        for region in (self.kv, self._tables["keys"], self._scratch):
            self.runtime.launch(lose, memory=region.part())

    def _logits(self, shape: StepShape) -> Subregion:
        return self._values[self.program.output.name].rows(0, shape.wanted)

    def _launch_step(self, shape: StepShape, batch: Parameter | Future) -> None:
        """The body of the trace: every launch of a step of this shape."""
        self.runtime.launch(load_batch, **self.inputs(shape), batch=batch)
        self._launch_program(shape)

    def _launch_program(self, shape: StepShape) -> None:
        launch, tables = self.runtime.launch, self._tables
        rows, requests, wanted = shape
        step_rows = IndexSpace((0,), (rows,))
        parts = self.inputs(shape)
        plan: dict[str, Any] = {
            "keys": tables["keys"].rows(0, requests),
            "seen": tables["seen"].rows(0, rows),
            "extents": tables["extents"].rows(0, requests),
            "work": tables["work"].part(),
            "scratch": self._scratch.part(),
        }
        sizes = {"rows": rows, "logit_rows": wanted}
        resolve: dict[str, Callable[[Operand], Subregion]] = {
            "input": lambda given: (
                parts[given.name]
                if given.name in parts
                else tables["rows"].part(step_rows, given.name)
            ),
            "weight": lambda given: self._weights[given.name].part(),
            "kv": lambda given: self._layer(int(given.name)),
            "plan": lambda given: plan[given.name],
            "value": lambda given: self._value(given, sizes[self.program.values[given.name].rows]),
        }
        known = parts | plan | {"heads": self._heads}
        planned: dict[str, Any] = {name: known[name] for name in plan_attention.parameters}
        launch(plan_attention, **planned)
        for step in self.program.steps:
            arguments: dict[str, Any] = {
                name: resolve[value.kind](value) if isinstance(value, Operand) else value
                for name, value in step.arguments
            }
            launch(step.task, **arguments)

    def _value(self, operand: Operand, rows: int) -> Subregion:
        part = self._values[operand.name].rows(0, rows)
        if operand.columns is None:
            return part
        return part.region.part(part.space.along(1, *operand.columns))

    def _layer(self, layer: int) -> Subregion:
        _, *rest = self.kv.shape
        return self.kv.part(IndexSpace((layer, 0, 0, 0), (layer + 1, *rest)))


@task(memory=WD)
def lose(memory: Any) -> None:
    """Whatever is there, is as good as anything else."""
