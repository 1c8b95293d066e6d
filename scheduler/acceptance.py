"""The task that verifies all trees of a step where the LLM's logits are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from specinfer.runtime.privilege import R
from specinfer.runtime.task import task
from specinfer.scheduler.sampling.logprobs import TokenLogprobs, top_logprobs
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.sampling.process import distribution, likeliest
from specinfer.scheduler.token_tree import TokenTree
from specinfer.scheduler.verifiers import Accepted, follow
from specinfer.scheduler.verifiers.chance import Probabilities, SeededChance
from specinfer.scheduler.verifiers.choice import Verifier

Found = tuple[Accepted, list[TokenLogprobs]]
"""What is accepted of a tree, and what is told of each token."""


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """A tree to verify.

    Attributes:
        tree: N nodes, of which the logits have a row each.
        tokens: prompt and output; the last one is the root.
        num_prompt: how many of them are the prompt.
        params: how the request samples.
        seed: of the request.
        verifier: says what is accepted.
        num_logprobs: likeliest tokens that are wanted with each token; 0: nothing is.
    """

    tree: TokenTree
    tokens: Sequence[int]
    num_prompt: int
    params: SamplingParams
    seed: int
    verifier: Verifier
    num_logprobs: int = 0

    def accepted(self, logits: Tensor, likeliest_tokens: Sequence[int] | None = None) -> Accepted:
        """Verify. Only rows that the path visits are looked at.

        Args:
            logits: (N, vocabulary).
            likeliest_tokens: of each row, if that is known.
        """
        if likeliest_tokens is not None and self.params.is_greedy and self.params.is_plain:
            return follow(self.tree, likeliest_tokens.__getitem__)
        if self.params.is_greedy:
            return follow(
                self.tree,
                lambda node: likeliest(logits[node], self.params, *self._texts(node)),
            )

        def rows(node: int) -> Probabilities:
            row: Probabilities = distribution(logits[node], self.params, *self._texts(node)).numpy()
            return row

        position = len(self.tokens)
        return self.verifier.verify(self.tree, rows, SeededChance(self.seed, position), position)

    def _texts(self, node: int) -> tuple[list[int], list[int]]:
        """The prompt, and the output up to a node."""
        text = [*self.tokens, *self.tree.path(node)[1:]]
        return text[: self.num_prompt], text[self.num_prompt :]

    def logprobs(self, logits: Tensor, accepted: Accepted) -> list[TokenLogprobs]:
        """What the row behind which each token was decided says of it."""
        if not self.num_logprobs:
            return []
        pairs = zip((0, *accepted.nodes), accepted.tokens, strict=True)
        return [top_logprobs(logits[node], token, self.num_logprobs) for node, token in pairs]


@task(logits=R, pure=True)
def accept(logits: Tensor, verifications: Sequence[Verification]) -> list[Found]:
    """What is accepted of each tree; logits (nodes of all trees in order, vocabulary)."""
    return _accepted(logits, verifications, None)


@accept.variant("cuda")
def _accept_on_gpu(logits: Tensor, verifications: Sequence[Verification]) -> list[Found]:
    # One wait for all rows, where a walk would wait at each node that it visits.
    is_wanted = any(v.params.is_greedy and v.params.is_plain for v in verifications)
    return _accepted(logits, verifications, logits.argmax(-1).tolist() if is_wanted else None)


def _accepted(
    logits: Tensor, verifications: Sequence[Verification], likeliest_tokens: Sequence[int] | None
) -> list[Found]:
    found, row = [], 0
    for verification in verifications:
        rows = slice(row, row + len(verification.tree))
        own = logits[rows]
        known = None if likeliest_tokens is None else likeliest_tokens[rows]
        accepted = verification.accepted(own, known)
        found.append((accepted, verification.logprobs(own, accepted)))
        row = rows.stop
    return found
