"""Makes several steps of a program one, for processors where launches cost: a GPU.

Four rewrites, each found by who reads what whom makes, never by names:

* the two products of a gate and what lets them through become ``gated_linear``;
* a sum and its norm become ``add_rms_norm``;
* the rotation of queries and keys and the write to the K/V pool become ``rotary_write``;
* products of the same input become one, whose results are columns of its.

The weights of products that become one lie one below the other in a *stack*. A value is made once
in a program, so a step may always be moved to where its inputs are ready and nobody needs it yet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from specinfer.models.compiler import Operand, Program, Step, Value, lifetimes
from specinfer.ops.attention import tree_attention, write_kv
from specinfer.ops.elementwise import add, silu_mul
from specinfer.ops.fused import add_rms_norm, gated_linear, rotary_write
from specinfer.ops.linear import linear, linear_bias
from specinfer.ops.norm import rms_norm
from specinfer.ops.rotary import rotary
from specinfer.runtime.task import Task

_Places = dict[int, Step | None]
"""What stands in place of a step, by its number; None: nothing."""

_Stacks = dict[str, tuple[str, ...]]
"""Names of the weights in a new one, by its name."""


def fuse(program: Program) -> Program:
    """A program of fewer steps that computes the same.

    Its weights are those of :func:`stack_weights`.
    """
    for rewrite in (_gates, _sums_with_norms, _rotations_with_writes, _products):
        program = rewrite(program)
    return program


def stack_weights(
    program: Program, weights: Mapping[str, Tensor], device: str | torch.device = "cpu"
) -> dict[str, Tensor]:
    """What a program reads, on a device.

    Args:
        program: fused, or not.
        weights: by name in the checkpoint.
        device: where they shall be; one that is there already is not copied.
    """
    made: dict[str, Tensor] = {}
    for name, shape in program.weights.items():
        if name not in program.stacks:
            made[name] = weights[name].to(device)
            continue
        parts = [weights[part] for part in program.stacks[name]]
        made[name] = torch.empty(shape, dtype=parts[0].dtype, device=device)
        start = 0
        for part in parts:
            made[name][start : start + len(part)] = part
            start += len(part)
    return made


class _Flow:
    """Who makes and who reads each value of a program.

    Attributes:
        makers: number of the step that makes a value, by name.
        readers: numbers of the steps that read it; the number behind all of them reads the logits.
    """

    def __init__(self, program: Program) -> None:
        self.steps = program.steps
        self.makers: dict[str, int] = {}
        self.readers: defaultdict[str, list[int]] = defaultdict(list)
        for at, step in enumerate(program.steps):
            for parameter, given in step.arguments:
                if isinstance(given, Operand) and given.kind == "value":
                    if step.task.privileges[parameter].reads:
                        self.readers[given.name].append(at)
                    else:
                        self.makers[given.name] = at
        self.readers[program.output.name].append(len(program.steps))

    def made_by(self, task: Task, operand: Any) -> int | None:
        """The step that makes a value, if it is one of this task."""
        if not isinstance(operand, Operand) or operand.kind != "value":
            return None
        maker = self.makers[operand.name]
        return maker if self.steps[maker].task is task else None

    def is_read_once(self, operand: Operand) -> bool:
        """Whether a value is needed in one place only."""
        return len(self.readers[operand.name]) == 1


def _gates(program: Program) -> Program:
    """``silu_mul`` of two products of the same input, which nobody else reads."""
    flow, places, stacks = _Flow(program), _Places(), _Stacks()
    for at, step in enumerate(program.steps):
        if step.task is not silu_mul:
            continue
        given = dict(step.arguments)
        gate_at, up_at = (flow.made_by(linear, given[name]) for name in ("x", "y"))
        if gate_at is None or up_at is None:
            continue
        gate, up = (dict(program.steps[product].arguments) for product in (gate_at, up_at))
        if gate["x"] == up["x"] and flow.is_read_once(gate["out"]) and flow.is_read_once(up["out"]):
            weight = _stacked((gate["weight"], up["weight"]), stacks)
            places |= {gate_at: None, up_at: None}
            places[at] = _step(gated_linear, x=gate["x"], weight=weight, out=given["out"])
    return _rewritten(program, places, stacks=stacks)


def _sums_with_norms(program: Program) -> Program:
    """``add``, and the first ``rms_norm`` of the sum."""
    flow, places = _Flow(program), _Places()
    for at, step in enumerate(program.steps):
        if step.task is not rms_norm:
            continue
        given = dict(step.arguments)
        sum_at = flow.made_by(add, given["x"])
        if sum_at is not None and sum_at not in places:
            summed = dict(program.steps[sum_at].arguments)
            places[at] = None
            places[sum_at] = _step(
                add_rms_norm, **given | {"x": summed["x"], "y": summed["y"], "total": given["x"]}
            )
    return _rewritten(program, places)


def _rotations_with_writes(program: Program) -> Program:
    """``write_kv`` of keys that are turned for it, and the turning of the queries that follow."""
    flow, places = _Flow(program), _Places()
    for at, step in enumerate(program.steps):
        if step.task is not write_kv:
            continue
        written = dict(step.arguments)
        keys = flow.made_by(rotary, written["k"])
        queries = flow.made_by(rotary, _queries(program.steps[at:], written["kv"]))
        if keys is None or queries is None or not flow.is_read_once(written["k"]):
            continue
        k, q = (dict(program.steps[made].arguments) for made in (keys, queries))
        is_alike = all(q[name] == k[name] for name in ("angles", "head_size"))
        if is_alike and queries < at < min(flow.readers[q["out"].name]):
            places |= {keys: None, queries: None}
            places[at] = _step(rotary_write, **written | q | {"q": q["x"], "k": k["x"]})
    return _rewritten(program, places)


def _queries(steps: Iterable[Step], kv: Operand) -> Operand | None:
    """What the first attention of some steps to a layer's K/V asks with."""
    for step in steps:
        given = dict(step.arguments)
        if step.task is tree_attention and given["kv"] == kv:
            queries: Operand = given["q"]
            return queries
    return None


def _products(program: Program) -> Program:
    """``linear`` steps of the same input: the first makes the results of all, side by side.

    The logits stay by themselves: they are a value, not columns of one.
    """
    groups: defaultdict[tuple[Task, Operand], list[int]] = defaultdict(list)
    for at, step in enumerate(program.steps):
        given = dict(step.arguments)
        if step.task in (linear, linear_bias) and given["out"] != program.output:
            groups[step.task, given["x"]].append(at)
    places, stacks = _Places(), _Stacks()
    widths: dict[str, tuple[str, int]] = {}
    columns: dict[str, Operand] = {}
    for (task, x), group in groups.items():
        if len(group) == 1:
            continue
        members = [dict(program.steps[at].arguments) for at in group]
        names = [member["out"].name for member in members]
        made, start = _unused("+".join(names), program), 0
        for name in names:
            stop = start + program.values[name].width
            columns[name] = Operand("value", made, (start, stop))
            start = stop
        widths[made] = program.values[names[0]].rows, start
        factors = {
            parameter: _stacked([member[parameter] for member in members], stacks)
            for parameter in ("weight", "bias")
            if parameter in task.parameters
        }
        places |= dict.fromkeys(group, None)
        places[group[0]] = _step(task, x=x, **factors, out=Operand("value", made))
    return _rewritten(program, places, stacks=stacks, widths=widths, columns=columns)


def _unused(name: str, program: Program) -> str:
    """A name that no value has: this one, if possible."""
    while name in program.values:
        name += "+"
    return name


def _step(task: Task, **arguments: Any) -> Step:
    """A step with those of the arguments that the task takes."""
    return Step(task, tuple((name, arguments[name]) for name in task.parameters))


def _stacked(weights: Sequence[Operand], stacks: _Stacks) -> Operand:
    """The stack of some weights, which is entered among the others."""
    names = tuple(weight.name for weight in weights)
    name = stack_name(names)
    stacks[name] = names
    return Operand("weight", name)


def stack_name(names: Sequence[str]) -> str:
    """A name for weights that lie one below the other.

    >>> stack_name(["layers.0.q_proj.weight", "layers.0.k_proj.weight"])
    'layers.0.{q_proj,k_proj}.weight'
    """
    words = [name.split(".") for name in names]
    most = min(map(len, words)) - 1
    front = next((i for i in range(most) if len({word[i] for word in words}) > 1), most)
    back = next(
        (i for i in range(most - front) if len({word[-1 - i] for word in words}) > 1), most - front
    )
    inner = ",".join(".".join(word[front : len(word) - back]) for word in words)
    return ".".join([*words[0][:front], f"{{{inner}}}", *words[0][len(words[0]) - back :]])


def _rewritten(
    program: Program,
    places: _Places,
    *,
    stacks: _Stacks | None = None,
    widths: Mapping[str, tuple[str, int]] | None = None,
    columns: Mapping[str, Operand] | None = None,
) -> Program:
    """The program with other steps in some places.

    Args:
        program: what to change.
        places: the other steps.
        stacks: new weights: what lies in them.
        widths: new values: rows and features.
        columns: what stands for a value from now on.
    """
    columns = columns or {}

    def renamed(given: Any) -> Any:
        is_value = isinstance(given, Operand) and given.kind == "value"
        return columns.get(given.name, given) if is_value else given

    kept = [places.get(at, step) for at, step in enumerate(program.steps)]
    steps = tuple(
        Step(step.task, tuple((name, renamed(given)) for name, given in step.arguments))
        for step in kept
        if step is not None
    )
    first, last = lifetimes(steps)
    last[program.output.name] = len(steps)
    sizes = {name: (value.rows, value.width) for name, value in program.values.items()}
    sizes.update(widths or {})
    stacks, shapes = stacks or {}, dict(program.weights)
    for name, parts in stacks.items():
        heights = [shapes[part][0] for part in parts]
        shapes[name] = (sum(heights), *shapes[parts[0]][1:])
    used = {
        given.name: None
        for step in steps
        for _, given in step.arguments
        if isinstance(given, Operand) and given.kind == "weight"
    }
    return replace(
        program,
        steps=steps,
        values={name: Value(*sizes[name], first[name], last[name]) for name in first},
        weights={name: shapes[name] for name in used},
        stacks={n: parts for n, parts in (program.stacks | stacks).items() if n in used},
    )
