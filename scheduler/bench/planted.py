"""Models whose agreement is chosen: random weights that know which token follows which.

Attention and gated layers give 0 in the end, and the head knows for each token its successor. So an
LLM writes along a fixed permutation of the vocabulary. The SSM has the same one, with the right
successor at rank 1, 2, ... for given shares of the tokens, and at none for the rest. Everything
else is as it would be: speeds are those of real models of these shapes that agree as often.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from specinfer.scheduler.bench.loading import Loaded, Place
from specinfer.scheduler.bench.shapes import program_of, random_weights

SHARES = (0.7, 0.1, 0.05)
"""Of tokens whose successor the SSM has at rank 1, 2 and 3."""
PROMPT = 100
"""Tokens of a prompt."""
_FALL = 0.15
"""From one rank to the next, of what a token is sure of."""


def load_planted(name: str, place: Place, shares: Sequence[float]) -> Loaded:
    """A model of these shapes that knows successors.

    Args:
        name: of :data:`specinfer.scheduler.bench.shapes.SHAPES`.
        place: where it runs.
        shares: of the tokens whose right successor has rank 1, 2, ...; all others have none.
    """
    program = program_of(name)
    weights = random_weights(program.weights, place.dtype, place.device)
    for weight, tensor in weights.items():
        if weight.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.fill_(0)
        elif tensor.ndim == 1:
            tensor.fill_(1)
    embeddings = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = head(embeddings, shares).to(place.dtype)
    return Loaded.of(name, place, program, weights)


def successors(vocabulary: int, device: str | torch.device = "cpu") -> Tensor:
    """(vocabulary,) the right successor of each token: the same wherever it is asked."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(vocabulary, generator=generator).to(device)


def head(embeddings: Tensor, shares: Sequence[float]) -> Tensor:
    """The matrix of a head that answers a token's embedding with its successor.

    Args:
        embeddings: (vocabulary, features).
        shares: as of :func:`load_planted`.

    Returns:
        (vocabulary, features) float32.
    """
    known = normalize(embeddings.float(), dim=1)
    vocabulary, device = len(known), known.device
    order = successors(vocabulary, device)
    drawn = torch.rand(vocabulary, generator=torch.Generator().manual_seed(1)).to(device)
    tokens = torch.arange(vocabulary, device=device)
    rank = torch.full((vocabulary,), len(shares), device=device)
    for at in reversed(range(len(shares))):
        rank[drawn < sum(shares[: at + 1])] = at
    matrix = torch.zeros_like(known)
    for at in range(len(shares) + 1):  # before the right one come others, somebody else's
        wrong = order[(tokens + 7 * (1 + at)) % vocabulary]
        targets = torch.where(rank == at, order, wrong)
        matrix.index_add_(0, targets, known * (1 - _FALL * at))
    return matrix * 8


def prompts(count: int, vocabulary: int) -> list[list[int]]:
    """Prompts of which no two end alike."""
    return [[(37 * i + j) % vocabulary for j in range(PROMPT)] for i in range(count)]
