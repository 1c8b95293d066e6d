"""Models for the benchmarks, and texts written with them."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.cache import Cache
from specinfer.models.batch import BatchLimits
from specinfer.models.checkpoint import Checkpoint, open_checkpoint
from specinfer.models.compiler import Program, compile_graph
from specinfer.models.definition import definition_for
from specinfer.models.fetch import fetch, home_from_environment, locate
from specinfer.models.model import Model, weight_regions
from specinfer.models.packing import pack_weights
from specinfer.models.weights import load_weights
from specinfer.scheduler.assembly import new_runtime
from specinfer.scheduler.config import BatchConfig, Draft, GenerationConfig, SpeculationConfig
from specinfer.scheduler.decoder import Decoder
from specinfer.scheduler.engine import Event
from specinfer.scheduler.kv_pages import KVPages, num_pages
from specinfer.scheduler.llm import LLM, Prompt

STDERR = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory.

    Attributes:
        checkpoint: where it came from.
        program: its compiled graph.
        weights: by name, in memory that decoders share unless they pack them.
        dtype: of weights, activations and K/V.
    """

    checkpoint: Checkpoint
    program: Program
    weights: dict[str, torch.Tensor]
    dtype: torch.dtype

    def decoder(self, *, requests: int, nodes: int, rows: int = 512, length: int = 2048) -> Decoder:
        """The model with room for K/V.

        Args:
            requests: most requests at once.
            nodes: most uncommitted nodes of a request, behind its root.
            rows: most rows of a step; trees of all requests always fit.
            length: most tokens of a request.
        """
        runtime = new_runtime("serial", self.dtype)
        trees = requests * (1 + nodes)
        limits = BatchLimits(
            rows=max(rows, trees),
            requests=requests,
            context=length,
            nodes=max(rows, 1 + nodes),
            logit_rows=trees,
        )
        slots = KVPages(requests * (num_pages(length) + 1), requests, nodes)
        regions = weight_regions(runtime, pack_weights(self.program, self.weights))
        model = Model(runtime, self.program, regions, limits, slots.num_slots, self.dtype)
        return Decoder(model, slots)


def checkpoint(name: str) -> Checkpoint:
    """Open a model of the catalogue, fetched if needed."""
    home = home_from_environment()
    return open_checkpoint(locate(name, home) or fetch(name, home))


def load(name: str, dtype: torch.dtype = torch.float32) -> Loaded:
    """Read a model of the catalogue."""
    torch.set_grad_enabled(False)
    source = checkpoint(name)
    program = compile_graph(definition_for(source.config).build(source.config))
    with STDERR.status(f"reading {name}"):
        return Loaded(source, program, load_weights(source, program.weights, dtype), dtype)


def follow(
    events: Iterator[Event], keys: Mapping[int, str], cache: Cache, title: str = "writing"
) -> None:
    """Keep each request's text and step counts in a cache as soon as it ends.

    Args:
        events: of a running engine.
        keys: cache key of each request, by its number.
        cache: gets ``output`` (token ids), ``steps`` and ``step_tokens`` (verification steps, and
            the tokens they yielded).
        title: of the progress bar.
    """
    counts = {request: [0, 0] for request in keys}

    def finished() -> Iterator[str]:
        for event in events:
            count, key = counts[event.request.id], keys[event.request.id]
            if event.tree is not None:
                count[0] += 1
                count[1] += len(event.tokens)
            if event.request.finish_reason is not None:
                cache[key] = {
                    "output": event.request.output,
                    "steps": count[0],
                    "step_tokens": count[1],
                }
                yield key

    for _ in track(finished(), title, total=len(keys), console=STDERR):
        pass


def generate(
    name: str,
    drafts: Sequence[Draft],
    prompts: Mapping[str, Prompt],
    cache: Cache,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Write the texts of all prompts in one queue; what the cache has is not written again.

    Returns:
        What :func:`follow` keeps, by prompt.
    """
    missing = [key for key in prompts if key not in cache]
    if missing:
        llm = LLM(name)
        llm.compile(
            GenerationConfig(max_new_tokens=options.tokens),
            ssms=drafts,
            speculation=SpeculationConfig(adaptive=False),
            batch=BatchConfig(max_requests=options.requests),
            device=options.device,
        )
        requests = llm.submit([prompts[key] for key in missing])
        keys = {request.id: key for request, key in zip(requests, missing, strict=True)}
        follow(llm.run(), keys, cache)
        del llm
        gc.collect()
    return {key: cache[key] for key in prompts}
