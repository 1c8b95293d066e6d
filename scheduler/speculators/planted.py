"""For benchmarks only: a small model's cost with an acceptance that somebody chose.

What speculation yields depends on how often the drafter is right, which a pair of models decides.
To measure the machine at any acceptance, a *planted* speculator runs every step of a real SSM (its
passes, its K/V, its catch-up), then throws the proposals away: it was told beforehand what the LLM
will write, and proposes the right token as often as it was asked to, at the rank it was asked to,
and wrong tokens elsewhere. A text written with it proves nothing about the SSM. Its name in all
statistics is ``planted``, and neither the command line nor a configuration file can ask for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from specinfer.ops.noise import key_of, uniform
from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.decoder import Decoder
from specinfer.scheduler.speculators import Context
from specinfer.scheduler.speculators.drawing import Drawn
from specinfer.scheduler.speculators.making import Parts, SSMMaker
from specinfer.scheduler.speculators.proposals import ReducedVocabulary
from specinfer.scheduler.speculators.ssm import Level, SSMSpeculator
from specinfer.scheduler.token_tree import TokenTree

Acceptance = Sequence[Sequence[float]]
"""By depth and rank: how often the child of that rank is right, behind a path that is right."""
Told = Mapping[tuple[int, ...], Sequence[int]]
"""What the LLM will write, by prompt."""

NAME = "planted"
RIGHT, WRONG = range(2)
"""What a random number is for."""


class PlantedSpeculator(SSMSpeculator):
    """Runs an SSM, and proposes what it was told, as often as it was told to.

    Behind a prompt that it was not told, and behind a text that went another way, all is wrong.

    Args:
        decoder: the model that is run, as for :class:`SSMSpeculator`.
        expansion: children of each node, by level.
        acceptance: of each child; where it says nothing, 0.
        told: the LLM's own texts.
        nodes: most nodes of a tree, those that are right most often; 0: all.
        vocabulary: the tokens that the model knows; None: the LLM's.
        seed: of what is left to chance.

    Raises:
        ConfigError: acceptance that is no probability, or of more children or levels than there
            are, or an expansion that leaves no wrong token.
    """

    def __init__(
        self,
        decoder: Decoder,
        expansion: Sequence[int],
        acceptance: Acceptance,
        told: Told,
        *,
        nodes: int = 0,
        vocabulary: ReducedVocabulary | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(NAME, decoder, expansion, nodes, vocabulary)
        _check(acceptance, expansion, self._num_tokens)
        self._acceptance = acceptance
        self._told = told
        self._number_of = {prompt: number for number, prompt in enumerate(told)}
        self._seed = seed

    def grow(self, drawn: Sequence[Sequence[Drawn]]) -> Level:
        """What the model proposes was found, and is replaced."""
        width = self.expansion[self._depth]
        planted = [
            [self._planted(context, draft.tree, node, width) for node in draft.frontier]
            for context, draft in self._growing
        ]
        return super().grow(planted)

    def _planted(self, context: Context, tree: TokenTree, node: int, width: int) -> Drawn:
        depth = tree.depths[node]
        shares = [*self._acceptance[depth : depth + 1], ()][0]
        shares = [*shares, *[0.0] * (width - len(shares))]
        right = self._right(context, tree, node)
        wrong = (token for token in self._tokens_from(context, node) if token != right)
        tokens = [next(wrong) for _ in range(width)]
        if right is not None:
            prompt = tuple(context.tokens[: context.num_prompt])
            key = key_of(self._seed, RIGHT, self._number_of[prompt], len(context.tokens))
            chance = uniform(key, depth)
            rank = next((r for r, total in enumerate(accumulate(shares)) if chance < total), None)
            if rank is not None:
                tokens[rank] = right
        return Drawn(tokens, [math.log(max(share, 1e-30)) for share in shares], None)

    def _right(self, context: Context, tree: TokenTree, node: int) -> int | None:
        """The LLM's token behind a node; None where it is not known, or the node is wrong."""
        text = context.tokens
        told = self._told.get(tuple(text[: context.num_prompt]), ())
        written = [*text[context.num_prompt :], *tree.path(node)[1:]]
        is_right = len(written) < len(told) and list(told[: len(written)]) == written
        return told[len(written)] if is_right else None

    def _tokens_from(self, context: Context, node: int) -> Sequence[int]:
        """All tokens that the model knows, from one on that nothing says anything about."""
        count = self._num_tokens
        start = uniform(key_of(self._seed, WRONG, len(context.tokens)), node) * count
        ids = [(int(start) + i) % count for i in range(min(count, max(self.expansion) + 1))]
        return ids if self.vocabulary is None else self.vocabulary.to_llm(ids)


@dataclass(frozen=True, slots=True)
class PlantedMaker(SSMMaker):
    """Of a planted speculator, for benchmarks.

    Attributes:
        acceptance: of each child, by depth and rank.
        told: the LLM's own texts, by prompt.
        seed: of what is left to chance.
    """

    acceptance: Acceptance = field(kw_only=True)
    told: Told = field(kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def make(self, parts: Parts) -> PlantedSpeculator:
        """Read the weights of the model that is run."""
        return PlantedSpeculator(
            parts.decoder(*self.models[0]),
            self.expansion,
            self.acceptance,
            self.told,
            nodes=self.nodes,
            vocabulary=self.vocabulary(parts),
            seed=self.seed,
        )


def _check(acceptance: Acceptance, expansion: Sequence[int], num_tokens: int) -> None:
    if max(expansion) >= num_tokens:
        raise ConfigError(
            f"planted: expansion {list(expansion)}: expected widths below the {num_tokens} tokens "
            "that the model knows: a wrong one must be left"
        )
    if len(acceptance) > len(expansion):
        raise ConfigError(
            f"planted: acceptance of {len(acceptance)} levels, expected at most the expansion's "
            f"{len(expansion)}"
        )
    for depth, (shares, width) in enumerate(zip(acceptance, expansion, strict=False), start=1):
        if len(shares) > width or min(shares, default=0) < 0 or sum(shares) > 1 + 1e-9:
            raise ConfigError(
                f"planted: acceptance at depth {depth} is {list(shares)}, expected at most {width} "
                "probabilities that sum to at most 1"
            )
