"""What a serving engine is asked to do: one frozen dataclass, one YAML file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specinfer.runtime.config import from_mapping, read_yaml
from specinfer.runtime.errors import ConfigError
from specinfer.runtime.memory import budgets_from
from specinfer.scheduler.errors import TreeError
from specinfer.scheduler.iteration import PREFILL_SHARE
from specinfer.scheduler.sampling.params import SamplingParams, check_logit_bias, check_numbers
from specinfer.scheduler.speculation import Speculation
from specinfer.scheduler.speculators.drawing import DRAWS
from specinfer.scheduler.speculators.ssm import DEFAULT_EXPANSION, level_sizes
from specinfer.scheduler.verifiers.choice import AUTO, VERIFIERS

if TYPE_CHECKING:
    from specinfer.models.tokenizer import Tokenizer

DEFAULT_MODEL = "smollm2-135m"
DTYPES = ("float32", "bfloat16")
EXECUTORS = ("serial", "threads")
DEVICES = ("cpu", "cuda")
FAST = "fast"
NUMERICS = (FAST, "invariant")


def _at_least_one(config: object, *names: str) -> None:
    for name in names:
        if (value := getattr(config, name)) < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")


def _check_tree(draft: SSM | PrefixSSM) -> None:
    try:
        level_sizes(draft.expansion)
    except TreeError as error:
        raise ValueError(str(error)) from None
    if draft.nodes < 0:
        raise ValueError(f"nodes is {draft.nodes}, expected at least 1, or 0 for all")
    _one_of(draft, "draws", (AUTO, *DRAWS))


def _one_of(config: object, name: str, known: Collection[str]) -> None:
    if (value := getattr(config, name)) not in known:
        raise ValueError(f"{name} is {value!r}, expected {' or '.join(known)}")


@dataclass(frozen=True, slots=True)
class SSM:
    """A small speculative model with weights of its own.

    Attributes:
        model: a name of the catalogue, an ``owner/name`` of the hub, or a path.
        expansion: children of each node, by level of the token tree.
        nodes: most nodes of a tree, the likeliest; 0: all of the expansion's.
        draws: how children are drawn for texts that are sampled: ``auto`` (as the verifier likes it
            best), ``top_k``, ``iid``, ``without_replacement`` or ``race``.
    """

    model: str
    expansion: tuple[int, ...] = DEFAULT_EXPANSION
    nodes: int = 0
    draws: str = AUTO

    def __post_init__(self) -> None:
        _check_tree(self)

    @property
    def name(self) -> str:
        """For statistics."""
        return self.model


@dataclass(frozen=True, slots=True)
class PrefixSSM:
    """An SSM made of the LLM's own first layers: nothing to download, the weights are shared.

    Attributes:
        prefix_layers: how many; its final norm and vocabulary are the LLM's.
        expansion: children of each node, by level of the token tree.
        nodes: most nodes of a tree, the likeliest; 0: all of the expansion's.
        draws: as of :class:`SSM`.
    """

    prefix_layers: int
    expansion: tuple[int, ...] = DEFAULT_EXPANSION
    nodes: int = 0
    draws: str = AUTO

    def __post_init__(self) -> None:
        _at_least_one(self, "prefix_layers")
        _check_tree(self)

    @property
    def name(self) -> str:
        """For statistics."""
        return f"prefix:{self.prefix_layers}"


@dataclass(frozen=True, slots=True)
class NGram:
    """A speculator that looks for the last tokens in prompt and output; it costs no model.

    Attributes:
        ngram: most nodes of its tree.
        min_match: last tokens that must have stood there before.
        corpus: paths of other texts to look in: plain text, or JSON lines.
    """

    ngram: int = 16
    min_match: int = 2
    corpus: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _at_least_one(self, "ngram", "min_match")

    @property
    def name(self) -> str:
        """For statistics."""
        return "ngram"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A speculator that somebody else wrote.

    Attributes:
        plugin: where its class is: ``package.module:Class``.
        options: the class' keyword arguments.
    """

    plugin: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options: object = self.options
        if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
            raise ValueError(f"options is {options!r}, expected a mapping by name")

    @property
    def name(self) -> str:
        """For people; statistics have the speculator's own."""
        return self.plugin


Draft = SSM | PrefixSSM | NGram | Plugin


_NUMBERS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "min_new_tokens",
)
"""What a configuration and sampling parameters call alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How a text is written.

    What the numbers do to probabilities, from ``temperature`` to ``logit_bias``, is said by
    :class:`SamplingParams`.

    Attributes:
        max_new_tokens: most tokens to write.
        min_new_tokens: tokens before which nothing ends the text.
        ignore_eos: go on behind the end of the text.
        stop: texts that end the text; it is cut where the first of them begins.
        stop_token_ids: tokens that end the text, and are no part of it.
        temperature: 0: always the likeliest token.
        top_k: only the k likeliest tokens; 0: all.
        top_p: only the likeliest tokens that together have this probability.
        min_p: only tokens with at least this share of the likeliest one's probability.
        typical_p: only the most typical tokens that together have this probability.
        repetition_penalty: above 1: fewer tokens of prompt and output again.
        presence_penalty: above 0: fewer tokens of the output again.
        frequency_penalty: the same, for each time that a token stands there.
        logit_bias: what is added to logits, by token.
        bad_words: texts that are not written, neither at a text's start nor behind a space; only
            as the tokenizer divides them.
        seed: of all that is random; None: another one for each prompt and each time.
        n: texts behind each prompt; they differ in their seed.
        logprobs: likeliest tokens that are told, with their log-probabilities, for each token of
            the output; 0: nothing is told.
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    logprobs: int = 0

    def __post_init__(self) -> None:
        _at_least_one(self, "max_new_tokens", "n")
        for name in ("stop", "bad_words"):
            if isinstance(texts := getattr(self, name), str) or not all(texts):
                raise ValueError(f"{name} is {texts!r}, expected texts, none of them empty")
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens}, expected at most max_new_tokens, which "
                f"is {self.max_new_tokens}"
            )
        if self.n > 1 and self.temperature == 0:
            raise ValueError(
                f"n is {self.n} at temperature 0, where all texts are the same: expected n 1, or a "
                "temperature above 0"
            )
        if self.logprobs < 0:
            raise ValueError(f"logprobs is {self.logprobs}, expected at least 0")
        for token in self.stop_token_ids:
            if token < 0:
                raise ValueError(f"stop_token_ids has {token}, expected at least 0")
        check_numbers(self)
        check_logit_bias(self.logit_bias)

    def sampling(self, tokenizer: Tokenizer, seed: int | None) -> SamplingParams:
        """How tokens are picked.

        Args:
            tokenizer: the model's, for texts and ends.
            seed: of this text.
        """
        spellings = (text for word in self.bad_words for text in (word, f" {word}"))
        words = (tokenizer.encode(text, add_special_tokens=False) for text in spellings)
        ends = frozenset(self.stop_token_ids)
        if not self.ignore_eos:
            ends |= tokenizer.eos_ids
        return SamplingParams(
            **{name: getattr(self, name) for name in _NUMBERS},
            bad_words=tuple(dict.fromkeys(tuple(word) for word in words if word)),
            end_ids=ends if self.min_new_tokens else frozenset(),
            seed=seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationConfig:
    """How much is guessed, and how it is verified.

    Attributes:
        adaptive: whether trees are as large as they turn out to be worth; else they are as large as
            the speculators draw them. None: unless ``batch.lookahead`` is 1 or more. On a CPU it
            cannot be both.
        enabled: whether anything is guessed; a request may say otherwise, as of the next two.
        max_nodes: most nodes of a request's tree; 0: as many as the speculators propose.
        max_depth: most levels of it; 0: as deep as they go.
        verifier: of texts that are sampled: ``auto`` (``coupled``), ``coupled``, ``mss``,
            ``mss_without_replacement`` or ``naive``; ``greedy`` serves none. At temperature 0 the
            likeliest tokens are followed, whatever is said here.
    """

    adaptive: bool | None = None
    enabled: bool = True
    max_nodes: int = 0
    max_depth: int = 0
    verifier: str = AUTO

    def __post_init__(self) -> None:
        _one_of(self, "verifier", (AUTO, *VERIFIERS))
        Speculation(max_nodes=self.max_nodes, max_depth=self.max_depth)

    @property
    def allowed(self) -> Speculation:
        """What a request allows that says nothing itself."""
        return Speculation(self.enabled, self.max_nodes, self.max_depth)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """How much is done at once.

    Attributes:
        max_requests: requests in one iteration.
        max_rows: tokens computed in one pass; trees of all requests always fit.
        max_length: most tokens of a request, prompt and output; 0: what the model allows, at most
            2048.
        kv_pages: pages of each model's K/V pool, of 16 tokens; 0: as many as ``max_requests`` texts
            of ``max_length`` tokens take. With fewer, requests wait, or lose theirs and are
            computed again.
        prefill_share: of the rows of a pass, kept for prompts while there are some to compute.
        lookahead: iterations that are issued before the one before them was read. Texts come that
            much later, and trees are as large as the speculators draw them, unless
            ``speculation.adaptive`` is true. None: 1 on a GPU, 0 on a CPU.
    """

    max_requests: int = 16
    max_rows: int = 512
    max_length: int = 0
    kv_pages: int = 0
    prefill_share: float = PREFILL_SHARE
    lookahead: int | None = None

    def __post_init__(self) -> None:
        _at_least_one(self, "max_requests", "max_rows")
        for name in ("max_length", "kv_pages", "lookahead"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise ValueError(f"{name} is {value}, expected at least 0")
        if not 0 <= self.prefill_share <= 1:
            raise ValueError(f"prefill_share is {self.prefill_share}, expected 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """How the work is spread over the ranks that ``mpirun -n`` starts.

    Attributes:
        tensor: ranks that every layer is divided over.
        mapper: path of a mapper's YAML, whose rules come before those of the models; empty: none.
            Its mesh, if it has one, has an axis ``tensor`` of as many ranks; further axes are
            its own, and ``mpirun -n`` starts all ranks of it.
    """

    tensor: int = 1
    mapper: str = ""

    def __post_init__(self) -> None:
        _at_least_one(self, "tensor")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingConfig:
    """A whole engine.

    Attributes:
        model: the LLM: a name of the catalogue, an ``owner/name`` of the hub, or a path.
        definition: path of a YAML model definition; empty: by the checkpoint's model type.
        dtype: ``float32`` or ``bfloat16``.
        executor: ``serial``, or ``threads`` for independent tasks at once.
        device: ``cpu``, or ``cuda``: one GPU, with an executor of its own.
        numerics: ``fast``, or ``invariant``: a token's results have the same bits whatever else is
            in its step, so that texts are those of plain decoding in bfloat16, too.
        drafts: the speculators, merged; empty for incremental decoding.
        speculation: how their guesses are verified.
        batch: how much is done at once.
        generation: how texts are written.
        parallel: how the work is spread over ranks.
        memory: what may be held of each memory, such as ``{cpu: 8 GiB}``; by default what the
            machine has.
    """

    model: str = DEFAULT_MODEL
    definition: str = ""
    dtype: str = "float32"
    executor: str = "serial"
    device: str = "cpu"
    numerics: str = FAST
    drafts: tuple[Draft, ...] = (NGram(),)
    speculation: SpeculationConfig = field(default_factory=SpeculationConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    memory: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of(self, "dtype", DTYPES)
        _one_of(self, "executor", EXECUTORS)
        _one_of(self, "device", DEVICES)
        _one_of(self, "numerics", NUMERICS)
        try:
            budgets_from(self.memory)
        except ConfigError as error:
            raise ValueError(str(error)) from None


def load_config(path: str | Path) -> ServingConfig:
    """The serving configuration of a YAML file; its keys are those of :class:`ServingConfig`.

    Raises:
        ConfigError: the file cannot be read, or has a key or value that cannot be used.
    """
    return from_mapping(ServingConfig, read_yaml(Path(path)), where=f"{path}: config")
