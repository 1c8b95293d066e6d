"""The Python front door: ``LLM(...)``, ``compile(...)``, ``generate(...)``.

The shape of the interface is that of the original system's Python API (FlexFlow Serve): an LLM is
made, compiled with its SSMs, and asked for text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from specinfer.models.checkpoint import Checkpoint, open_checkpoint
from specinfer.models.compiler import compile_graph
from specinfer.models.definition import definition_for, load_definition
from specinfer.models.fetch import fetch, home_from_environment, locate
from specinfer.models.parallel import tensor_rules
from specinfer.models.progress import Progress, silent
from specinfer.models.tokenizer import TextStream
from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import ConfigError
from specinfer.runtime.oplog import OperationLog
from specinfer.runtime.profile.profiler import Profiler
from specinfer.runtime.trace import Trace
from specinfer.scheduler.assembly import CPU, GPU, Assembly, new_runtime, with_lookahead
from specinfer.scheduler.config import (
    DEFAULT_MODEL,
    DTYPES,
    FAST,
    SSM,
    BatchConfig,
    Draft,
    GenerationConfig,
    ParallelConfig,
    PrefixSSM,
    ServingConfig,
    SpeculationConfig,
)
from specinfer.scheduler.engine import Engine, Event
from specinfer.scheduler.errors import RequestError
from specinfer.scheduler.gpu_full import explained
from specinfer.scheduler.plan import Plan
from specinfer.scheduler.pruning import takes_any_tree
from specinfer.scheduler.request import Request
from specinfer.scheduler.request_lanes import RequestLanes
from specinfer.scheduler.sampling.logprobs import TokenLogprobs
from specinfer.scheduler.sampling.seeds import new_seed, seed_of_copy
from specinfer.scheduler.speculation import Speculation
from specinfer.scheduler.speculators.making import Maker, maker_of
from specinfer.scheduler.stats import Stats
from specinfer.scheduler.stopping import StopText
from specinfer.scheduler.verifiers.choice import AUTO, verifier_of

DEFAULT_LENGTH = 2048
"""Longest request, unless asked for more."""

Chat = Sequence[Mapping[str, str]]
Prompt = str | Chat | Sequence[int]


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A text that was written.

    Attributes:
        output_text: without the prompt and without special tokens, up to where a stop string begins
            or a stop token stands.
        output_tokens: all token ids that were written: the end-of-text token is among them if it
            was met, and so are those of a stop string.
        finish_reason: ``eos``, ``length`` or ``stop``.
        prompt_tokens: token ids of the prompt.
        seed: with which (and ``n`` 1) the same text is written again; None at temperature 0.
        logprobs: of each output token, if they were asked for.
    """

    output_text: str
    output_tokens: list[int]
    finish_reason: str
    prompt_tokens: list[int]
    seed: int | None = None
    logprobs: list[TokenLogprobs] | None = None


class LLM:
    """A large language model whose text is written, speculatively or not.

    Args:
        model: a name of the catalogue, an ``owner/name`` of the hub, or a path; fetched if needed.
        definition: path of a YAML model definition; by default the checkpoint's type decides.
        dtype: ``float32`` or ``bfloat16``.
        home: folder of the model cache; by default the environment decides.
        progress: told while weights are fetched and read.

    Raises:
        SpecInferError: the model cannot be fetched or read, or there is no definition for it.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        definition: str | Path | None = None,
        dtype: str = "float32",
        home: Path | None = None,
        progress: Progress = silent,
    ) -> None:
        self._home = home or home_from_environment()
        self._progress = progress
        if dtype not in DTYPES:
            raise ConfigError(f"dtype is {dtype!r}, expected {' or '.join(DTYPES)}")
        self._dtype = getattr(torch, dtype)
        self._name = str(model)
        self._checkpoint = self._open(self._name)
        self._definition = (
            load_definition(definition) if definition else definition_for(self._checkpoint.config)
        )
        self.tokenizer = self._checkpoint.tokenizer()
        self._generation = GenerationConfig()
        self._speculation = SpeculationConfig()
        self._engine: Engine | None = None
        self._lanes: RequestLanes | None = None
        self._num_requests = 0

    @classmethod
    def from_config(
        cls, config: ServingConfig, *, home: Path | None = None, progress: Progress = silent
    ) -> Self:
        """A compiled LLM, as a serving configuration asks for it.

        Raises:
            SpecInferError: what making or compiling it raises.
        """
        definition = config.definition or None
        llm = cls(
            config.model, definition=definition, dtype=config.dtype, home=home, progress=progress
        )
        llm.compile(
            config.generation,
            ssms=config.drafts,
            speculation=config.speculation,
            batch=config.batch,
            executor=config.executor,
            device=config.device,
            numerics=config.numerics,
            parallel=config.parallel,
            memory=config.memory,
        )
        return llm

    @property
    def max_length(self) -> int:
        """Most tokens of a text that the model was made for."""
        return int(self._checkpoint.config["max_position_embeddings"])

    @property
    def traces(self) -> Sequence[Trace]:
        """The steps of its models, as they were recorded and replayed."""
        return self._compiled.runtime.traces

    @property
    def stats(self) -> Stats:
        """Counts and times since :meth:`compile`."""
        return self._compiled.stats

    def plan(self, draft: SSM | PrefixSSM | None = None) -> Plan:
        """What this LLM computes, or what an SSM would for it; no weights are read.

        Raises:
            SpecInferError: an SSM that cannot be had, of another vocabulary, or of too many layers.
        """
        if draft is None:
            return Plan(self._name, self._checkpoint, self._definition)
        if isinstance(draft, PrefixSSM):
            layers, num_layers = draft.prefix_layers, compile_graph(self.plan().graph).num_layers
            if layers > num_layers:
                raise ConfigError(f"prefix_layers is {layers}, but the LLM has {num_layers} layers")
            return Plan(draft.name, self._checkpoint, self._definition, layers)
        checkpoint = self._open(draft.model)
        self._check_vocabulary(draft.model, checkpoint)
        definition = definition_for(checkpoint.config)
        return Plan(draft.name, checkpoint, definition)

    def makers(self, drafts: Sequence[Draft], verifier: str = AUTO) -> list[Maker]:
        """What would make these speculators for this LLM; no weights are read.

        Raises:
            SpecInferError: what :func:`maker_of` raises.
        """
        return [maker_of(draft, verifier, self.plan, self.tokenizer) for draft in drafts]

    def compile(
        self,
        generation_config: GenerationConfig | None = None,
        *,
        ssms: Sequence[Draft] = (),
        speculation: SpeculationConfig | None = None,
        batch: BatchConfig | None = None,
        executor: str = "serial",
        device: str = "cpu",
        numerics: str = FAST,
        parallel: ParallelConfig | None = None,
        memory: Mapping[str, Any] | None = None,
        profiler: Profiler | None = None,
        log: OperationLog | None = None,
    ) -> None:
        """Read the weights and make an engine of this LLM and its speculators.

        Args:
            generation_config: how texts are written.
            ssms: speculators, whose trees are merged; none for incremental decoding.
            speculation: how much is guessed, and how it is verified.
            batch: how much is done at once.
            executor: ``serial`` or ``threads``.
            device: ``cpu`` or ``cuda``.
            numerics: ``fast`` or ``invariant``.
            parallel: how the work is spread over the ranks of ``mpirun``.
            memory: budgets by name, such as ``{"cpu": "8 GiB"}``.
            profiler: is told of tasks and requests, if there is one.
            log: of what is done, for :mod:`specinfer.runtime.validator`.

        Raises:
            SpecInferError: weights that do not fit, or an SSM that cannot speculate for this LLM.
        """
        self._speculation = speculation or SpeculationConfig()
        batch = with_lookahead(batch or BatchConfig(), device)
        verifier = self._speculation.verifier
        self._generation = generation_config or GenerationConfig()
        torch.set_grad_enabled(False)
        # An SSM that does not fit is refused before the slow reading of weights.
        makers = self.makers(ssms, verifier)
        models = [self.plan(), *(plan for maker in makers for plan, _ in maker.models)]
        rules = [rule for plan in models for rule in tensor_rules(plan.graph, plan.prefix)]
        runtime = new_runtime(
            executor,
            self._dtype,
            profiler,
            device=device,
            log=log,
            parallel=parallel,
            rules=rules,
            memory=memory,
            numerics=numerics,
        )
        assembly = Assembly(runtime, batch, self._length(batch), self._dtype, device)
        self._lanes = RequestLanes(profiler) if profiler else None
        with explained(runtime, GPU):
            self._engine = assembly.engine(
                self.plan(),
                makers,
                verifier,
                self._progress,
                is_adaptive=_is_adaptive(self._speculation, batch, device),
            )

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        generation_config: GenerationConfig | None = None,
        *,
        max_new_tokens: int | None = None,
        speculation: Speculation | None = None,
    ) -> GenerationResult | list[GenerationResult]:
        """Write the text behind a prompt, or behind each of several, all at once.

        Args:
            prompts: a text, a chat (messages with ``role`` and ``content``) or token ids, or a list
                of these.
            generation_config: how these texts are written; by default as :meth:`compile` was told.
            max_new_tokens: most tokens to write, whatever the configuration says.
            speculation: how much may be guessed for these; by default as :meth:`compile` was told.

        Returns:
            One result, or a list of them in the order of ``prompts``. With ``n`` above 1 a list in
            any case, with all texts of a prompt one after the other.
        """
        one = _is_one(prompts)
        requests = self.submit(
            [prompts] if one else prompts,  # type: ignore[list-item, arg-type]
            generation_config,
            max_new_tokens=max_new_tokens,
            speculation=speculation,
        )
        one = one and len(requests) == 1
        try:
            for _ in self.run():
                pass
        finally:  # an interrupted text is not to be finished by the next call
            for request in requests:
                if request.finish_reason is None:
                    self._compiled.cancel(request.id)
                    if self._lanes:
                        self._lanes.ended(request, "cancelled")
        results = [self.result(request) for request in requests]
        return results[0] if one else results

    def submit(
        self,
        prompts: Sequence[Prompt],
        generation_config: GenerationConfig | None = None,
        *,
        max_new_tokens: int | None = None,
        speculation: Speculation | None = None,
    ) -> list[Request]:
        """Queue prompts; :meth:`run` then serves them.

        Returns:
            ``n`` requests for each prompt, one after the other.

        Raises:
            RequestError: a prompt that cannot be served; then none of them is queued.
        """
        generation = generation_config or self._generation
        seeds = self._seeds(generation, len(prompts))
        requests = self._requests(prompts, generation, seeds, max_new_tokens)
        for request in requests:
            request.speculation = speculation or self._speculation.allowed
        for number, request in enumerate(requests):
            self._compiled.check(request, f"prompt {number // generation.n + 1}")
        for request in requests:
            self._compiled.submit(request)
            if self._lanes:
                self._lanes.submitted(request)
        self._num_requests += len(requests)
        return requests

    def check(
        self,
        prompts: Sequence[Prompt],
        generation_config: GenerationConfig | None = None,
        *,
        batch: BatchConfig | None = None,
    ) -> None:
        """Refuse prompts that could not be served, before the slow :meth:`compile`.

        Raises:
            RequestError: a prompt that cannot be served.
        """
        length = self._length(batch or BatchConfig())
        generation = generation_config or GenerationConfig()
        vocabulary = int(self._checkpoint.config["vocab_size"])
        requests = self._requests(prompts, generation, [generation.seed] * len(prompts))
        for number, request in enumerate(requests):
            request.check(length, vocabulary, f"prompt {number // generation.n + 1}")

    def run(self) -> Iterator[Event]:
        """Serve what was submitted, yielding each iteration's progress on each request."""
        events, lanes = self._compiled.run(), self._lanes
        events = _explained(events, self._compiled.runtime)
        return events if lanes is None else _watched(events, lanes)

    def result(self, request: Request) -> GenerationResult:
        """What a finished request wrote."""
        text = request.text
        return GenerationResult(
            self.tokenizer.decode(request.output) if text is None else text.text,
            request.output,
            request.finish_reason or "",
            list(request.prompt),
            request.sampling.seed,
            request.logprobs if request.num_logprobs else None,
        )

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a text, of a chat in the model's template, or as given."""
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        if prompt and isinstance(prompt[0], Mapping):
            return self.tokenizer.encode(self.tokenizer.chat(prompt))  # type: ignore[arg-type]
        return list(prompt)  # type: ignore[arg-type]

    @property
    def _compiled(self) -> Engine:
        if self._engine is None:
            raise RequestError("this LLM is not compiled: call compile() first")
        return self._engine

    def _open(self, model: str) -> Checkpoint:
        path = locate(model, self._home) or fetch(model, self._home, progress=self._progress)
        return open_checkpoint(path)

    def _check_vocabulary(self, ssm: str, checkpoint: Checkpoint) -> None:
        """Refuse an SSM whose token ids mean something else than the LLM's."""
        own = self.tokenizer.vocabulary_digest
        if (reduced := checkpoint.draft_vocabulary) is not None:
            if reduced.digest != own:
                raise ConfigError(
                    f"SSM {ssm}: its draft vocabulary was made for another tokenizer "
                    f"({reduced.digest[:12]}), expected the LLM's ({own[:12]})"
                )
            return
        tokenizer = checkpoint.tokenizer()
        if tokenizer.vocabulary_digest != own:
            raise ConfigError(
                f"SSM {ssm}: its vocabulary of {tokenizer.vocab_size} tokens differs from "
                f"the LLM's of {self.tokenizer.vocab_size}; expected the same tokens in the same "
                "order"
            )

    def _length(self, batch: BatchConfig) -> int:
        length = batch.max_length or min(self.max_length, DEFAULT_LENGTH)
        if length > self.max_length:
            raise ConfigError(
                f"batch.max_length is {length}, but the model was made for {self.max_length}"
            )
        return length

    def _requests(
        self,
        prompts: Sequence[Prompt],
        generation: GenerationConfig,
        seeds: Sequence[int | None],
        max_new_tokens: int | None = None,
    ) -> list[Request]:
        requests: list[Request] = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            tokens = self.encode(prompt)
            for copy in range(generation.n):
                own = None if seed is None else seed_of_copy(seed, copy)
                number = self._num_requests + len(requests)
                requests.append(self._request(number, tokens, generation, own, max_new_tokens))
        return requests

    def _request(
        self,
        id: int,
        prompt: Sequence[int],
        generation: GenerationConfig,
        seed: int | None,
        max_new_tokens: int | None,
    ) -> Request:
        is_cut = generation.stop or generation.stop_token_ids
        return Request(
            id=id,
            prompt=prompt,
            max_new_tokens=generation.max_new_tokens if max_new_tokens is None else max_new_tokens,
            eos_ids=frozenset() if generation.ignore_eos else self.tokenizer.eos_ids,
            sampling=generation.sampling(self.tokenizer, seed),
            stop_ids=frozenset(generation.stop_token_ids),
            num_logprobs=generation.logprobs,
            text=StopText(TextStream(self.tokenizer), generation.stop) if is_cut else None,
        )

    def _seeds(self, generation: GenerationConfig, count: int) -> list[int | None]:
        """One for each prompt, the same on all ranks; none where nothing is random."""
        if generation.temperature == 0:
            return [None] * count
        if (seed := generation.seed) is not None:
            verifier = verifier_of(self._speculation.verifier, is_greedy=False)
            if takes_any_tree(verifier):
                return [seed] * count
            # How large a tree is may follow from how far others are: noise must not be shared.
            return [seed_of_copy(seed, number * generation.n) for number in range(count)]
        seeds: list[int | None] = self._compiled.runtime.agree([new_seed() for _ in range(count)])
        return seeds


def _explained(events: Iterable[Event], runtime: Runtime) -> Iterator[Event]:
    with explained(runtime, GPU):
        yield from events


def _watched(events: Iterable[Event], lanes: RequestLanes) -> Iterator[Event]:
    for event in events:
        lanes.went_on(event.request)
        yield event


def _is_adaptive(speculation: SpeculationConfig, batch: BatchConfig, device: str) -> bool:
    if speculation.adaptive and batch.lookahead and device == CPU:  # lanes have rungs
        raise ConfigError(
            f"speculation.adaptive is true and batch.lookahead {batch.lookahead}: how large trees "
            "are must be known before they are worth anything; expected one of the two"
        )
    return not batch.lookahead if speculation.adaptive is None else speculation.adaptive


def _is_one(prompts: Prompt | Sequence[Prompt]) -> bool:
    return isinstance(prompts, str) or bool(prompts and isinstance(prompts[0], (int, Mapping)))
