"""What a serving engine is asked to do: one frozen dataclass, one YAML file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specinfer.runtime.config import from_mapping, read_yaml
from specinfer.runtime.errors import ConfigError
from specinfer.runtime.memory import budgets_from
from specinfer.scheduler.errors import TreeError
from specinfer.scheduler.speculators.drawing import DRAWS
from specinfer.scheduler.speculators.ssm import DEFAULT_EXPANSION, level_sizes
from specinfer.scheduler.verifiers.choice import AUTO, VERIFIERS

DEFAULT_MODEL = "smollm2-135m"
DTYPES = ("float32", "bfloat16")
EXECUTORS = ("serial", "threads")


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
    """

    ngram: int = 16
    min_match: int = 2

    def __post_init__(self) -> None:
        _at_least_one(self, "ngram", "min_match")

    @property
    def name(self) -> str:
        """For statistics."""
        return "ngram"


Draft = SSM | PrefixSSM | NGram


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How a text is written.

    Attributes:
        max_new_tokens: most tokens to write.
        ignore_eos: go on behind the end of the text.
    """

    max_new_tokens: int = 128
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _at_least_one(self, "max_new_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationConfig:
    """How guesses are verified.

    Attributes:
        verifier: of texts that are sampled: ``auto`` (``coupled``), ``coupled``, ``mss``,
            ``mss_without_replacement`` or ``naive``; ``greedy`` serves none. At temperature 0 the
            likeliest tokens are followed, whatever is said here.
    """

    verifier: str = AUTO

    def __post_init__(self) -> None:
        _one_of(self, "verifier", (AUTO, *VERIFIERS))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """How much is done at once.

    Attributes:
        max_requests: requests in one iteration.
        max_rows: tokens computed in one pass; trees of all requests always fit.
        max_length: most tokens of a request, prompt and output; 0: what the model allows, at most
            2048.
    """

    max_requests: int = 16
    max_rows: int = 512
    max_length: int = 0

    def __post_init__(self) -> None:
        _at_least_one(self, "max_requests", "max_rows")
        if self.max_length < 0:
            raise ValueError(f"max_length is {self.max_length}, expected at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """How the work is spread over the ranks that ``mpirun -n`` starts.

    Attributes:
        tensor: ranks that every layer is divided over.
        mapper: path of a mapper's YAML, whose rules come before those of the models; empty: none.
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
    drafts: tuple[Draft, ...] = (NGram(),)
    speculation: SpeculationConfig = field(default_factory=SpeculationConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    memory: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of(self, "dtype", DTYPES)
        _one_of(self, "executor", EXECUTORS)
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
