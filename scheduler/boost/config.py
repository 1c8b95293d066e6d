"""What boost-tuning is asked to do: one frozen dataclass, one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specinfer.runtime.config import from_mapping, read_yaml
from specinfer.scheduler.speculators.ssm import DEFAULT_EXPANSION, level_sizes

WRITERS = ("torch", "engine")


def _at_least(least: float, config: object, *names: str) -> None:
    for name in names:
        if (value := getattr(config, name)) < least:
            raise ValueError(f"{name} is {value}, expected at least {least:g}")


def _share(config: object, *names: str) -> None:
    for name in names:
        if not 0 <= (value := getattr(config, name)) <= 1:
            raise ValueError(f"{name} is {value}, expected 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptConfig:
    """Where prompts come from.

    Attributes:
        sources: folders of Python files; ``python`` stands for this interpreter's library and the
            installed packages under a permissive licence.
        files: JSONL files of prompts: texts, or objects with ``prompt``, taken as it is, or
            ``turns``, of which the first is asked in a chat.
        functions: most heads of functions with their docstrings, from the sources.
        tasks: most heads of functions whose names are put together from lists of words.
        chat: share of the functions that are asked for in a chat, if the LLM has a template.
        max_tokens: longest prompt; longer ones are left out.
        seed: of every choice.
    """

    sources: tuple[str, ...] = ("python",)
    files: tuple[str, ...] = ()
    functions: int = 20000
    tasks: int = 0
    chat: float = 0.25
    max_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least(0, self, "functions", "tasks", "seed")
        _at_least(1, self, "max_tokens")
        _share(self, "chat")


@dataclass(frozen=True, slots=True, kw_only=True)
class WritingConfig:
    """How the LLM continues the prompts.

    Attributes:
        writer: ``torch`` (big batches, for a GPU) or ``engine`` (this project's, for CPUs).
        max_new_tokens: most tokens of a continuation.
        batch: prompts at once.
        top_k: likeliest tokens kept with each token, as soft targets; only ``torch`` knows them.
        seconds: most time; what is written then is used. 0: until all are written.
    """

    writer: str = "torch"
    max_new_tokens: int = 192
    batch: int = 512
    top_k: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.writer not in WRITERS:
            raise ValueError(f"writer is {self.writer!r}, expected {' or '.join(WRITERS)}")
        _at_least(1, self, "max_new_tokens", "batch")
        _at_least(0, self, "top_k", "seconds")
        if self.top_k and self.writer == "engine":
            raise ValueError(f"top_k is {self.top_k}, expected 0 for the engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """The shape of every SSM.

    Attributes:
        vocabulary: rows of its table: the most frequent tokens, and one row for all others.
        hidden: features of a token.
        layers: how many.
        heads: of attention.
        kv_heads: heads with keys and values of their own.
        inner: features inside the gated network.
        embeddings: a model with the LLM's tokens, whose embeddings, projected, it starts from;
            empty: random ones.
    """

    vocabulary: int = 16384
    hidden: int = 640
    layers: int = 3
    heads: int = 10
    kv_heads: int = 10
    inner: int = 1792
    embeddings: str = ""

    def __post_init__(self) -> None:
        _at_least(2, self, "vocabulary")
        _at_least(1, self, "hidden", "layers", "heads", "kv_heads", "inner")
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden is {self.hidden}, expected an even multiple of {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads is {self.heads}, expected a multiple of {self.kv_heads}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How one network is trained.

    Attributes:
        epochs: passes over the texts.
        seconds: most time; the schedule then ends there. 0: no limit.
        batch_tokens: of a step.
        row_tokens: tokens of a packed row; longer texts are cut.
        learning_rate: at the end of the warm-up.
        warmup_steps: steps of it.
        weight_decay: of matrices.
        clip: largest norm of the gradient.
        soft_targets: share of the LLM's likeliest tokens in the loss, where they were kept.
        log_every: steps between points of the loss curve.
        seed: of weights and order.
    """

    epochs: float = 3.0
    seconds: float = 0.0
    batch_tokens: int = 32768
    row_tokens: int = 512
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    soft_targets: float = 0.5
    log_every: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least(1, self, "batch_tokens", "row_tokens", "warmup_steps", "log_every")
        _at_least(0, self, "seconds", "weight_decay", "seed")
        _share(self, "soft_targets")
        if not (self.epochs > 0 and self.learning_rate > 0 and self.clip > 0):
            raise ValueError("epochs, learning_rate and clip: expected more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoostingConfig:
    """What makes several SSMs of one training.

    Attributes:
        ssms: how many.
        first: tokens of a continuation that must be reproduced for its prompt to be marked; 0: all.
        share: how many of these must be right.
        keep: share of the marked prompts that the next SSM sees all the same.
        start: the weights that SSMs behind the first start from: ``base``, as the first one did, or
            ``previous``.
        least: prompts that must be left for another SSM to be worth its training.
    """

    ssms: int = 3
    first: int = 0
    share: float = 1.0
    keep: float = 0.0
    start: str = "base"
    least: int = 1

    def __post_init__(self) -> None:
        _at_least(1, self, "ssms", "least")
        _at_least(0, self, "first")
        _share(self, "share", "keep")
        if self.start not in ("base", "previous"):
            raise ValueError(f"start is {self.start!r}, expected base or previous")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """On what it is measured.

    Attributes:
        held_out: prompts that are never trained on.
        files: JSONL files of prompts that are not trained on either; ``.gz`` is unpacked.
        expansion: children of each node of an SSM's tree, by level.
    """

    held_out: int = 0
    files: tuple[str, ...] = ()
    expansion: tuple[int, ...] = DEFAULT_EXPANSION

    def __post_init__(self) -> None:
        _at_least(0, self, "held_out")
        level_sizes(self.expansion)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoostConfig:
    """A whole boost-tuning.

    Attributes:
        out: folder of all that comes of it.
        llm: a name of the catalogue, an ``owner/name`` of the hub, or a path.
        prompts: where they come from.
        writing: how the LLM continues them.
        text_tokens: tokens of the sources' text that the network is first trained on; 0: none.
        network: the shape of every SSM.
        base: how it is trained on text, before the first SSM.
        training: how each SSM is trained on the LLM's continuations.
        boosting: how they differ.
        evaluation: on what they are measured.
    """

    out: str
    llm: str
    prompts: PromptConfig = field(default_factory=PromptConfig)
    writing: WritingConfig = field(default_factory=WritingConfig)
    text_tokens: int = 0
    network: NetworkConfig = field(default_factory=NetworkConfig)
    base: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=1.0))
    training: TrainingConfig = field(default_factory=TrainingConfig)
    boosting: BoostingConfig = field(default_factory=BoostingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        _at_least(0, self, "text_tokens")
        if not self.prompts.functions and not self.prompts.tasks and not self.prompts.files:
            raise ValueError("prompts: expected files, functions or tasks, found none of them")


def load_boost_config(path: Path) -> BoostConfig:
    """The boost-tuning that a YAML file asks for; its keys are those of :class:`BoostConfig`.

    Raises:
        ConfigError: the file cannot be read, or has a key or value that cannot be used.
    """
    data: Mapping[str, Any] = read_yaml(path)
    return from_mapping(BoostConfig, data, where=f"{path}: config")
