"""From a draft's configuration to its speculator, in two steps.

A :class:`Maker` knows what a speculator will need before any weights are read: memory is counted,
and what cannot be made is refused, early. Then it makes the speculator of the :class:`Parts` that
the assembly of an engine has. A new kind of speculator is a maker, and a case of :func:`maker_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from specinfer.models.tokenizer import Tokenizer
from specinfer.scheduler.config import SSM, Draft, NGram, Plugin, PrefixSSM
from specinfer.scheduler.decoder import Decoder
from specinfer.scheduler.plan import Plan
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.corpus_files import read_texts
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.speculators.plugin import load_plugin
from specinfer.scheduler.speculators.proposals import ReducedVocabulary
from specinfer.scheduler.speculators.ssm import SSMSpeculator, most_nodes
from specinfer.scheduler.speculators.suffixes import SuffixIndex
from specinfer.scheduler.step_cost import StepCost
from specinfer.scheduler.verifiers.choice import AUTO, check_draws


@dataclass(frozen=True, slots=True)
class Parts:
    """What an engine has to make speculators of.

    Attributes:
        vocabulary: tokens of the LLM.
        step_cost: of a verification by its rows, for those who size their trees by it.
        decoder: of a model that the maker named, with room for so many nodes of a tree.
    """

    vocabulary: int
    step_cost: StepCost
    decoder: Callable[[Plan, int], Decoder]


class Maker(Protocol):
    """Makes one speculator."""

    @property
    def num_nodes(self) -> int:
        """Most nodes of a tree that it will propose, the root not counted."""
        ...

    @property
    def models(self) -> Sequence[tuple[Plan, int]]:
        """The models that it will run, and the most nodes of a tree that each computes."""
        ...

    def make(self, parts: Parts) -> Speculator:
        """The speculator."""
        ...


@dataclass(frozen=True, slots=True)
class SSMMaker:
    """Of a small model.

    Attributes:
        plan: the model.
        expansion: children of each node, by level.
        nodes: most nodes of a tree, the likeliest; 0: all.
        draws: how children are drawn; None: as the verifier likes it best.
    """

    plan: Plan
    expansion: Sequence[int]
    nodes: int = 0
    draws: str | None = None

    @property
    def num_nodes(self) -> int:
        """As many as the expansion has, or as are wanted of them."""
        return most_nodes(self.expansion, self.nodes)[0]

    @property
    def models(self) -> Sequence[tuple[Plan, int]]:
        """The one."""
        return [(self.plan, most_nodes(self.expansion, self.nodes)[1])]

    def make(self, parts: Parts) -> SSMSpeculator:
        """Read its weights."""
        decoder, vocabulary = parts.decoder(*self.models[0]), self.vocabulary(parts)
        name = self.plan.name
        return SSMSpeculator(name, decoder, self.expansion, self.nodes, vocabulary, self.draws)

    def vocabulary(self, parts: Parts) -> ReducedVocabulary | None:
        """The tokens that the model knows; None: the LLM's."""
        known = self.plan.checkpoint.draft_vocabulary
        return None if known is None else ReducedVocabulary(known, parts.vocabulary)


@dataclass(frozen=True, slots=True)
class NGramMaker:
    """Of a search.

    Attributes:
        draft: as configured.
        corpus: what is searched besides the request's own text.
    """

    draft: NGram
    corpus: SuffixIndex | None = None

    @property
    def num_nodes(self) -> int:
        """As configured."""
        return self.draft.ngram

    @property
    def models(self) -> Sequence[tuple[Plan, int]]:
        """None: its guesses cost steps of the LLM, no more."""
        return []

    def make(self, parts: Parts) -> NGramSpeculator:
        """Have it propose what is worth its rows."""
        draft, cost = self.draft, parts.step_cost
        return NGramSpeculator(draft.ngram, draft.min_match, cost, corpus=self.corpus)


@dataclass(frozen=True, slots=True)
class PluginMaker:
    """Of a class that somebody else wrote.

    Attributes:
        speculator: as the class made it.
    """

    speculator: Speculator

    @property
    def num_nodes(self) -> int:
        """As it says itself."""
        return self.speculator.max_nodes

    @property
    def models(self) -> Sequence[tuple[Plan, int]]:
        """None of the engine's."""
        return []

    def make(self, parts: Parts) -> Speculator:
        """It is made already."""
        return self.speculator


def maker_of(
    draft: Draft,
    verifier: str,
    plan_of: Callable[[SSM | PrefixSSM], Plan],
    tokenizer: Tokenizer,
) -> Maker:
    """What makes the speculator that is configured.

    Args:
        draft: the configuration.
        verifier: of texts that are sampled, by name.
        plan_of: finds the model of an SSM.
        tokenizer: of the LLM.

    Raises:
        SpecInferError: a model that cannot be had or does not fit the LLM, a way to draw that would
            change the law of the text, a corpus that cannot be read, a plug-in that is none.
    """
    match draft:
        case NGram():
            return NGramMaker(draft, _index(draft, tokenizer) if draft.corpus else None)
        case Plugin():
            return PluginMaker(load_plugin(draft.plugin, draft.options))
        case SSM() | PrefixSSM():
            if AUTO not in (draft.draws, verifier):
                check_draws(verifier, draft.draws)
            draws = None if draft.draws == AUTO else draft.draws
            return SSMMaker(plan_of(draft), draft.expansion, draft.nodes, draws)


def _index(draft: NGram, tokenizer: Tokenizer) -> SuffixIndex:
    texts = [text for path in draft.corpus for text in read_texts(Path(path))]
    return SuffixIndex([tokenizer.encode(text, add_special_tokens=False) for text in texts])
