"""What an engine counts and times while it runs; it changes nothing of what is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from specinfer.scheduler.iteration import Iteration
from specinfer.scheduler.late_tree import LateTree, Tally
from specinfer.scheduler.serving import Taken
from specinfer.scheduler.token_tree import TokenTree


@dataclass(slots=True)
class Stats:
    """Counts over all requests of an engine.

    Attributes:
        speculators: their names, by drafter number.
        num_prompt_tokens: tokens of prompts, and of texts that had lost their K/V, that were
            computed.
        num_cached_tokens: tokens of texts whose K/V were found when they were admitted.
        num_preempted: how often a request gave back its K/V and waited.
        num_tokens: tokens written.
        num_steps: verification steps: one for each request and LLM pass behind its prefill.
        num_step_tokens: tokens these steps yielded; over ``num_steps`` it is the tokens per step.
        num_passes: forward passes of the LLM.
        num_nodes: speculated nodes that were verified.
        offered: by depth: how often the path got to a node above that had children.
        accepted: by depth: how often one of them was right.
        proposed_by: by drafter: nodes it proposed.
        accepted_by: by drafter: accepted nodes that it had proposed.
        num_by_lanes: iterations that ran on the device alone.
        by_nodes: those iterations by the most nodes of a text's tree that they had room for.
        by_host: iterations that the host conducted though lanes were asked for, by reason.
        seconds: time by phase: ``prefill`` (passes that verify nothing), ``draft``, ``verify`` and
            ``commit``.
    """

    speculators: tuple[str, ...] = ()
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_preempted: int = 0
    num_tokens: int = 0
    num_steps: int = 0
    num_step_tokens: int = 0
    num_passes: int = 0
    num_nodes: int = 0
    offered: Counter[int] = field(default_factory=Counter)
    accepted: Counter[int] = field(default_factory=Counter)
    proposed_by: Counter[int] = field(default_factory=Counter)
    accepted_by: Counter[int] = field(default_factory=Counter)
    num_by_lanes: int = field(default=0, compare=False)  # another way to the same
    by_nodes: Counter[int] = field(default_factory=Counter, compare=False)
    by_host: Counter[str] = field(default_factory=Counter, compare=False)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def tokens_per_step(self) -> float:
        """Tokens a verification step yields, pooled over requests; 0 before the first."""
        return self.num_step_tokens / self.num_steps if self.num_steps else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens of verification steps over the time of drafting, verifying and committing."""
        seconds = sum(self.seconds.get(phase, 0.0) for phase in ("draft", "verify", "commit"))
        return self.num_step_tokens / seconds if seconds else 0.0

    @contextmanager
    def time(self, phase: str) -> Iterator[None]:
        """Add the time of a block to ``seconds[phase]``."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + perf_counter() - start

    def took(self, iteration: Iteration, taken: Sequence[Taken]) -> None:
        """Count an iteration, and what it did for each request."""
        self.num_passes += 1
        self.num_cached_tokens += sum(admitted.cached for admitted in iteration.admitted)
        self.num_preempted += len(iteration.preempted)
        self.num_prompt_tokens += sum(chunk.num_rows for chunk in iteration.chunks)
        for one in taken:
            self.num_tokens += len(one.tokens)
            if isinstance(one.tree, LateTree):
                tally = one.tree.tally(one.tokens[: len(one.accepted)])
                self._count(tally, len(one.accepted), len(one.tokens))
            elif one.tree is not None:
                self.verified(one.tree, one.accepted, len(one.tokens))

    def verified(self, tree: TokenTree, nodes: Sequence[int], num_kept: int) -> None:
        """Count a verification.

        Args:
            tree: what was verified.
            nodes: the accepted path, without the root.
            num_kept: tokens that the request used of it, the LLM's own among them.
        """
        self._count(Tally.of(tree, nodes), len(nodes), num_kept)

    def _count(self, tally: Tally, num_accepted: int, num_kept: int) -> None:
        self.num_steps += 1
        self.num_step_tokens += num_kept
        self.num_nodes += tally.num_nodes
        self.offered.update(tally.offered)
        self.accepted.update(range(1, num_accepted + 1))
        self.proposed_by.update(tally.proposed)
        self.accepted_by.update(tally.accepted)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "cached_tokens": self.num_cached_tokens,
            "preempted": self.num_preempted,
            "tokens": self.num_tokens,
            "steps": self.num_steps,
            "tokens_per_step": self.tokens_per_step,
            "tokens_per_second": self.tokens_per_second,
            "llm_passes": self.num_passes,
            "nodes": self.num_nodes,
            "acceptance_by_depth": [
                {"depth": d, "offered": n, "accepted": self.accepted[d]}
                for d, n in sorted(self.offered.items())
            ],
            "acceptance_by_speculator": [
                {"speculator": s, "proposed": self.proposed_by[i], "accepted": self.accepted_by[i]}
                for i, s in enumerate(self.speculators)
            ],
            "iterations": {
                "lanes": self.num_by_lanes,
                "lanes_by_nodes": {str(n): count for n, count in sorted(self.by_nodes.items())},
                "host": dict(self.by_host.most_common()),
            },
            "seconds": dict(self.seconds),
        }
