"""What one iteration is told to do, and how much it may: values between batcher and engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

PREFILL_SHARE = 0.25
"""Of the rows of a pass, unless somebody says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """The most that one iteration does.

    Attributes:
        rows: tokens that a pass of the LLM computes.
        requests: requests that run at once.
        chunk: tokens of one request's chunk.
        nodes: nodes of one request's tree, the root not counted; 0: no speculation.
        depth: levels of a tree below its root.
        prefill_share: of the rows, kept for prompts as long as there are that many to compute.
        draft_rows: tokens of texts that a pass of an SSM computes; 0: as many as the LLM.

    >>> Budgets(rows=64, requests=8, chunk=32, nodes=20, depth=8).prefill_rows
    16
    """

    rows: int
    requests: int
    chunk: int
    nodes: int = 0
    depth: int = 0
    prefill_share: float = PREFILL_SHARE
    draft_rows: int = 0

    def __post_init__(self) -> None:
        least = {"rows": 1, "requests": 1, "chunk": 1, "nodes": 0, "depth": 0, "draft_rows": 0}
        for name, least_value in least.items():
            if (value := getattr(self, name)) < least_value:
                raise ValueError(f"{name} is {value}, expected at least {least_value}")
        if not 0 <= self.prefill_share <= 1:
            raise ValueError(f"prefill_share is {self.prefill_share}, expected 0 to 1")
        if self.rows < self.requests:
            raise ValueError(
                f"rows is {self.rows}, expected at least {self.requests}: one for each request"
            )

    @property
    def prefill_rows(self) -> int:
        """Rows that are kept for prompts, whatever decodes: one for each other request is not."""
        return max(1, min(ceil(self.rows * self.prefill_share), self.rows - self.requests + 1))

    def most_iterations(self, prompt_tokens: int, new_tokens: int) -> int:
        """How many iterations a request takes at most, from when it is the oldest one.

        >>> Budgets(rows=64, requests=8, chunk=32).most_iterations(prompt_tokens=33, new_tokens=10)
        12
        """
        return ceil(prompt_tokens / min(self.prefill_rows, self.chunk)) + new_tokens - 1


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that runs from now on.

    Attributes:
        request: its number.
        cached: how many of its first tokens need not be computed, for their K/V were found.
    """

    request: int
    cached: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of a request's text that a model is to compute and commit.

    Attributes:
        request: its number.
        start: the first one, in prompt and output.
        stop: behind the last one.
        is_last: whether nothing is left behind it: the LLM then writes the next token, and an SSM
            draws a tree.
    """

    request: int
    start: int
    stop: int
    is_last: bool

    @property
    def num_rows(self) -> int:
        """Tokens to compute."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Decode:
    """A request whose tree is verified.

    Attributes:
        request: its number.
        nodes: most nodes of its tree, the root not counted.
        depth: most levels below the root, and so most nodes that can be accepted.
    """

    request: int
    nodes: int
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """What is to be done, oldest request first in every list.

    Attributes:
        admitted: who runs from now on.
        preempted: who waits again; the text goes on when it is admitted anew.
        chunks: what the LLM computes of texts that it has not all of.
        decodes: whose trees it verifies.
        drafts: by SSM, what it computes of texts before it draws; who is missing is not asked.
        freed: by model, the LLM first: whose K/V were given back since the last iteration began,
            before anyone was admitted.
    """

    admitted: tuple[Admitted, ...] = ()
    preempted: tuple[int, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    decodes: tuple[Decode, ...] = ()
    drafts: tuple[tuple[Chunk, ...], ...] = ()
    freed: tuple[tuple[int, ...], ...] = ()

    @property
    def num_rows(self) -> int:
        """Most rows of the LLM's pass."""
        return sum(c.num_rows for c in self.chunks) + sum(1 + d.nodes for d in self.decodes)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an iteration did for a request.

    Attributes:
        tokens: those it got: none behind a chunk that was not the last.
        has_ended: whether its text ends with them.
    """

    tokens: Sequence[int] = ()
    has_ended: bool = False


Allocate = Callable[[Sequence[Decode], int], Sequence[int]]
"""(requests with their most nodes, rows to share) -> nodes of each. It decides speed, not texts."""


def equal_shares(decodes: Sequence[Decode], rows: int) -> list[int]:
    """As many nodes for each, and what one cannot use for the others; the first get what is odd.

    >>> equal_shares([Decode(0, 1, 1), Decode(1, 9, 4), Decode(2, 9, 4)], rows=8)
    [1, 4, 3]
    """
    shares = [0] * len(decodes)
    rows = min(rows, sum(decode.nodes for decode in decodes))
    while rows:
        wanting = [at for at, decode in enumerate(decodes) if shares[at] < decode.nodes]
        each, odd = divmod(rows, len(wanting))
        for nth, at in enumerate(wanting):
            more = min(each + (nth < odd), decodes[at].nodes - shares[at])
            shares[at] += more
            rows -= more
    return shares
