"""SpecInfer: tree-based speculative inference on a task-graph runtime.

Names are looked up when they are first used, so that a layer can be imported without those above.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from specinfer.models.definition import load_definition
    from specinfer.models.graph import Graph
    from specinfer.runtime.errors import SpecInferError
    from specinfer.scheduler.config import (
        SSM,
        BatchConfig,
        GenerationConfig,
        NGram,
        Plugin,
        PrefixSSM,
        ServingConfig,
        SpeculationConfig,
        load_config,
    )
    from specinfer.scheduler.llm import LLM, GenerationResult
    from specinfer.scheduler.speculation import Speculation
    from specinfer.scheduler.token_tree import TokenTree, merge

__all__ = [
    "BatchConfig",
    "GenerationConfig",
    "GenerationResult",
    "Graph",
    "LLM",
    "NGram",
    "Plugin",
    "PrefixSSM",
    "SSM",
    "ServingConfig",
    "SpecInferError",
    "Speculation",
    "SpeculationConfig",
    "TokenTree",
    "__version__",
    "load_config",
    "load_definition",
    "merge",
]
__version__ = "0.1.0"

_HOME = {
    "BatchConfig": "scheduler.config",
    "GenerationConfig": "scheduler.config",
    "GenerationResult": "scheduler.llm",
    "Graph": "models.graph",
    "LLM": "scheduler.llm",
    "NGram": "scheduler.config",
    "Plugin": "scheduler.config",
    "PrefixSSM": "scheduler.config",
    "SSM": "scheduler.config",
    "ServingConfig": "scheduler.config",
    "SpecInferError": "runtime.errors",
    "Speculation": "scheduler.speculation",
    "SpeculationConfig": "scheduler.config",
    "TokenTree": "scheduler.token_tree",
    "load_config": "scheduler.config",
    "load_definition": "models.definition",
    "merge": "scheduler.token_tree",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
