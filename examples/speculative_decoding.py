"""Speculative decoding with tiny random models: the same text, in fewer passes of the LLM.

The SSM is the LLM with some noise on its weights, so that it is often right. Nothing is downloaded;
for real models see ``specinfer.LLM``.

python examples/speculative_decoding.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from specinfer import BatchConfig
from specinfer.models.compiler import compile_graph
from specinfer.models.definition import definition_for
from specinfer.models.progress import silent
from specinfer.models.tokenizer import Tokenizer
from specinfer.runtime.context import Runtime
from specinfer.scheduler.assembly import Assembly
from specinfer.scheduler.plan import Plan
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators.making import SSMMaker
from specinfer.scheduler.verifiers.choice import AUTO

torch.set_num_threads(1)  # products this small are slower on two
CONFIG = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
DEFINITION = definition_for(CONFIG)
SHAPES = compile_graph(DEFINITION.build(CONFIG)).weights


@dataclass(frozen=True)
class RandomCheckpoint:
    """Weights made from a seed, with more or less noise added."""

    noise: float = 0.0
    path: Path = Path("random")
    config = CONFIG
    draft_vocabulary = None

    def names(self) -> frozenset[str]:
        """All that the model wants."""
        return frozenset(SHAPES)

    def shape(self, name: str) -> tuple[int, ...]:
        """As the model wants it."""
        return SHAPES[name]

    def tensor(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """The same in every run."""
        generator = torch.Generator().manual_seed(list(SHAPES).index(name))
        weight = torch.randn(SHAPES[name], generator=generator)
        noise = torch.randn(SHAPES[name], generator=generator)
        return torch.mul(weight + self.noise * noise, 0.4).to(dtype)

    def tokenizer(self) -> Tokenizer:
        """There is none: these texts are numbers."""
        raise NotImplementedError


llm = Plan("llm", RandomCheckpoint(), DEFINITION)
ssm = Plan("ssm", RandomCheckpoint(noise=0.05), DEFINITION)
trees, chains = SSMMaker(ssm, (2, 2, 1, 1)), SSMMaker(ssm, (1, 1, 1, 1))
assembly = Assembly(Runtime(), BatchConfig(max_requests=1), length=128, dtype=torch.float32)

texts = []
for name, drafts in (("incremental", []), ("chain of 4", [chains]), ("tree of 14", [trees])):
    engine = assembly.engine(llm, drafts, AUTO, silent, is_adaptive=False)
    request = Request(id=0, prompt=[3, 1, 4, 1, 5], max_new_tokens=60)
    engine.submit(request)
    for _ in engine.run():
        pass
    texts.append(request.output)
    stats = engine.stats
    print(f"{name:12} {stats.tokens_per_step:.2f} tokens a step, {stats.num_passes} passes")
print("the text:", *texts[0][:20], "...")
print("all texts are the same:", texts[0] == texts[1] == texts[2])
assert texts[0] == texts[1] == texts[2]

# Prints:
# incremental  1.00 tokens a step, 60 passes
# chain of 4   2.68 tokens a step, 23 passes
# tree of 14   3.28 tokens a step, 19 passes
# the text: 56 74 5 78 82 74 74 74 90 90 53 34 34 34 29 90 63 90 63 74 ...
# all texts are the same: True
