"""Our LLaMA and Qwen2 against those of transformers, on the same random weights."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from tiny_models import Draft, Sizes, TinyModel, make_bench, make_decoder, make_room, plain_forward
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from specinfer.scheduler.decoder import Work
from specinfer.scheduler.request import Request

NUM_TOKENS = 40
KINDS: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}
BASE = {
    "vocab_size": 64,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
SHAPES: dict[str, dict[str, Any]] = {
    "grouped K/V heads": {},
    "a K/V head for each head": {"num_key_value_heads": 6},
    "one K/V head": {"num_attention_heads": 3, "num_key_value_heads": 1},
    "tied embeddings": {"tie_word_embeddings": True},
    "head size given": {"head_dim": 10},
    "other theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "other eps": {"rms_norm_eps": 0.1},
    "one layer": {"num_hidden_layers": 1, "intermediate_size": 8},
}


def reference(kind: str, shape: str) -> Any:
    """A model of transformers with weights large enough that its text is varied."""
    config_type, model_type = KINDS[kind]
    torch.manual_seed(list(SHAPES).index(shape))
    config = config_type(**BASE | SHAPES[shape], attn_implementation="eager")
    model = model_type(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape)
            weight.copy_(1 + noise / 8 if "norm" in name else 0.3 * noise)
    return model


def ours(model: Any) -> TinyModel:
    """The same configuration and weights as a checkpoint holds them."""
    config = model.config.to_dict()
    weights = {name: weight.detach() for name, weight in model.state_dict().items()}
    if config["tie_word_embeddings"]:
        del weights["lm_head.weight"]
    return TinyModel(config, weights)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def prompt_for(shape: str) -> list[int]:
    generator = random.Random(shape)
    return [generator.randrange(BASE["vocab_size"]) for _ in range(19)]


def test_logits_of_a_prompt_and_greedy_tokens_are_those_of_transformers(
    kind: str, shape: str
) -> None:
    model, prompt = reference(kind, shape), prompt_for(shape)
    decoder = make_decoder(ours(model), Sizes(requests=1))
    make_room(decoder, 0, len(prompt) + NUM_TOKENS)
    with torch.no_grad():
        right = model(torch.tensor([prompt])).logits[0]
    for start, stop in ((0, 1), (1, 8), (8, len(prompt))):  # chunks, as long prompts are computed
        logits = decoder.step([Work(request=0, chain=prompt[start:stop])])
        found = decoder.model.runtime.read(logits)[0]
        torch.testing.assert_close(found, right[stop - 1], atol=1e-5, rtol=1e-5)

    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(NUM_TOKENS):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    assert len(set(tokens[len(prompt) :])) > 3, "the text says too little"
    bench = make_bench(ours(model), [Draft(ours(model), (2, 1, 1), layers=1)])
    written = bench.write([Request(id=0, prompt=prompt, max_new_tokens=NUM_TOKENS)])
    assert written == [tokens[len(prompt) :]]


def test_the_plain_forward_that_other_tests_trust_is_that_of_transformers(
    kind: str, shape: str
) -> None:
    model, prompt = reference(kind, shape), prompt_for(shape)
    tiny = ours(model)
    tiny.config["rope_theta"] = tiny.config["rope_parameters"]["rope_theta"]
    with torch.no_grad():
        right = model.double()(torch.tensor([prompt])).logits[0]
    plain = plain_forward(tiny, prompt).logits
    torch.testing.assert_close(plain, right, atol=1e-5, rtol=1e-5)


def test_a_configuration_with_rope_theta_at_the_top_is_read_alike() -> None:
    """As transformers wrote it before version 5, and as most checkpoints on disk still have it."""
    model = reference("llama", "other theta")
    tiny = ours(model)
    config = dict(tiny.config)
    config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"], "rope_scaling": None}
    assert TinyModel(config, tiny.weights).program() == tiny.program()
