"""The task that picks tokens in lanes that sample, as the verifier ``coupled`` does.

The token at a place of a text is the winner of a race whose clocks are a function of the seed and
the place. A drafter proposes the first arrivals of the same race. So a table says all that there is
to know of a lane: its *choices* (lanes, 5) int64, the bits of temperature, top_k, top_p and min_p
as float64 numbers, and of the seed. A lane at temperature 0 has its likeliest tokens in order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from specinfer.ops.kernels import vocabulary_cuda
from specinfer.ops.noise import finish_times, key_of
from specinfer.runtime.privilege import WD, R
from specinfer.runtime.task import task
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.sampling.process import distribution
from specinfer.scheduler.speculation import UNLIMITED
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.ssm import SSMSpeculator
from specinfer.scheduler.verifiers.chance import NEXT
from specinfer.scheduler.verifiers.choice import VERIFIERS, verifier_of

CHOICE = 5
"""Numbers of a lane."""


@task(logits=R, choices=R, positions=R, names=R, tokens=WD, pure=True)
def race(
    logits: Tensor,
    choices: Tensor,
    positions: Tensor,
    names: Tensor,
    tokens: Tensor,
    behind: int,
) -> None:
    """The first arrivals of each row's race.

    What cannot arrive comes last, the lowest token first. A row of logits from which nothing can be
    drawn is taken as if the temperature were 0.

    Args:
        logits: (rows, vocabulary); each lane has as many rows.
        choices: (lanes, 5), see above.
        positions: (rows,) of a token in its text.
        names: (vocabulary,) by which numbers tokens are known; (0,): by their own.
        tokens: (rows,) or (rows, k) int64, written: by these numbers, the first to arrive first.
        behind: added to the positions, for those of the tokens that are picked.
    """
    table = tokens if tokens.dim() == 2 else tokens[:, None]
    known = names.numpy() if len(names) else np.arange(logits.shape[1])
    each = len(logits) // len(choices)
    for row, position in enumerate(positions.tolist()):
        params = _params(choices[row // each].numpy())
        scores = logits[row].double().numpy()
        times = -scores
        if not params.is_greedy and np.isfinite(scores.max()):
            shares = np.zeros(known.max() + 1)
            shares[known] = distribution(logits[row], params, [], []).numpy()
            times = finish_times(key_of(params.seed or 0, NEXT, position + behind), shares)[known]
        first = np.argsort(times, kind="stable")[: table.shape[1]]
        table.numpy()[row] = known[first]


def choices_of(params: Sequence[SamplingParams]) -> NDArray[np.int64]:
    """The table of some lanes."""
    table = np.empty((len(params), CHOICE), np.int64)
    for row, one in zip(table, params, strict=True):
        numbers = [one.temperature, one.top_k, one.top_p, one.min_p]
        row[:-1] = np.array(numbers, np.float64).view(np.int64)
        row[-1:] = np.array([one.seed or 0], np.uint64).view(np.int64)
    return table


def _params(row: NDArray[np.int64]) -> SamplingParams:
    """What stands in a row of that table."""
    temperature, top_k, top_p, min_p = row[:-1].copy().view(np.float64).tolist()
    (seed,) = row[-1:].copy().view(np.uint64).tolist()
    if temperature == 0:
        return SamplingParams()
    return SamplingParams(
        temperature=temperature, top_k=int(top_k), top_p=top_p, min_p=min_p, seed=seed
    )


def can_write(request: Request, speculators: Sequence[Speculator], verifier: str) -> bool:
    """Whether lanes can write a request.

    Tokens must be a function of logits, choices and places alone, and what is guessed has no
    limits.

    Args:
        request: to be written.
        speculators: of the engine.
        verifier: of those that sample, by name.
    """
    params = request.sampling
    if not params.is_plain or request.num_logprobs or request.speculation != UNLIMITED:
        return False
    if params.is_greedy:
        return True
    draws = [s.draws for s in speculators if isinstance(s, SSMSpeculator)]
    is_coupled = verifier_of(verifier, is_greedy=False) is VERIFIERS["coupled"]
    return is_coupled and params.typical_p == 1 and set(draws) <= {None, "race"}


@race.variant("cuda")
def _race_on_gpu(
    logits: Tensor,
    choices: Tensor,
    positions: Tensor,
    names: Tensor,
    tokens: Tensor,
    behind: int,
) -> None:
    vocabulary_cuda.race(logits, choices, positions, names, tokens, behind)
