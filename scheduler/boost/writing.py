"""Has the LLM continue prompts, batch by batch, each kept in a file: a run resumes behind the last.

Batches hold prompts of similar lengths, and come in random order, so that what is written when time
runs out is a fair share of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from specinfer.models.checkpoint import Checkpoint
from specinfer.scheduler.boost.config import WritingConfig
from specinfer.scheduler.boost.corpus import Corpus, Text, load_corpus
from specinfer.scheduler.boost.network import load_network
from specinfer.scheduler.boost.watch import Budget, Watch
from specinfer.scheduler.boost.writer import write

Write = Callable[[Sequence[NDArray[Any]]], list[Text]]


def torch_writer(llm: Checkpoint, config: WritingConfig, device: str) -> Write:
    """Continues prompts in plain torch; bfloat16 on a GPU, with logits in float32."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    network = load_network(llm, dtype, device)
    eos = llm.tokenizer().eos_ids

    def run(prompts: Sequence[NDArray[Any]]) -> list[Text]:
        return write(
            network,
            prompts,
            max_new_tokens=config.max_new_tokens,
            eos_ids=eos,
            top_k=config.top_k,
        )

    return run


def engine_writer(llm: Checkpoint, config: WritingConfig) -> Write:
    """Continues prompts with the engine, without speculation."""
    # Here and not above: on a GPU nothing of the engine is needed.
    from specinfer.scheduler.config import BatchConfig, GenerationConfig
    from specinfer.scheduler.llm import LLM

    model = LLM(llm.path)
    model.compile(
        GenerationConfig(max_new_tokens=config.max_new_tokens),
        batch=BatchConfig(max_requests=config.batch),
    )

    def run(prompts: Sequence[NDArray[Any]]) -> list[Text]:
        requests = model.submit([prompt.tolist() for prompt in prompts])
        for _ in model.run():
            pass
        return [Text(np.array(r.tokens), len(r.prompt)) for r in requests]

    return run


def write_corpus(
    prompts: Corpus,
    folder: Path,
    config: WritingConfig,
    writer: Callable[[], Write],
    budget: Budget,
    watch: Watch,
) -> bool:
    """Continue all prompts, or as many as the budget allows.

    Args:
        prompts: texts without outputs.
        folder: of the files, one a batch.
        config: how many at once.
        writer: made when there is something to write.
        budget: looked at between batches.
        watch: told after each.

    Returns:
        Whether all are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order = np.argsort(prompts.prompts, kind="stable")
    batches = [order[start : start + config.batch] for start in range(0, len(order), config.batch)]
    chosen = np.random.default_rng(0).permutation(len(batches)).tolist()
    missing = [n for n in chosen if not (folder / _name(n)).is_file()]
    name = f"writing {folder.name}"
    run: Write | None = None
    start, tokens = perf_counter(), 0
    for done, number in enumerate(missing):
        if budget.is_spent:
            return False
        if run is None:
            run = writer()
            start = perf_counter()
        texts = run([prompts.prompt(text) for text in batches[number]])
        written = Corpus.of(texts, batches[number].tolist())
        written.save(folder / _name(number))
        tokens += written.num_outputs
        speed = tokens / (perf_counter() - start)
        note = f"{tokens:,} tokens, {speed:,.0f} tokens/s"
        watch(name, len(batches) - len(missing) + done + 1, len(batches), note)
    return True


def read_written(folder: Path) -> Corpus:
    """What was written so far, by number of prompt."""
    return load_corpus(*sorted(folder.glob("*.safetensors")))


def _name(batch: int) -> str:
    return f"{batch:05}.safetensors"
