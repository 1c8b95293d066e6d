"""The training network against the float64 oracle, and its writer against plain greedy decoding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import TinyModel, plain_forward, plain_greedy, tiny_config, tiny_model

from specinfer.models.errors import GraphError
from specinfer.scheduler.boost.network import Network, masked
from specinfer.scheduler.boost.writer import write


def network_of(model: TinyModel) -> Network:
    network = Network(model.config)
    network.load_state_dict(model.weights)
    return network.requires_grad_(requires_grad=False)


@pytest.fixture(params=["llama", "qwen2", "tied"])
def model(request: pytest.FixtureRequest) -> TinyModel:
    if request.param == "tied":
        return tiny_model(5, tiny_config(kv_heads=6, tie_word_embeddings=True))
    return tiny_model(5, tiny_config(request.param))


def test_names_and_logits_are_those_of_the_checkpoint(model: TinyModel) -> None:
    network = network_of(model)
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    positions = torch.arange(len(tokens))[None]
    hidden = network(torch.tensor([tokens]), positions, masked(None))[0]
    right = plain_forward(model, tokens).logits
    torch.testing.assert_close((hidden @ network.table.T).double(), right, rtol=1e-4, atol=1e-4)


def test_a_mask_keeps_texts_of_a_row_apart(model: TinyModel) -> None:
    network = network_of(model)
    texts = [[3, 1, 4, 1], [5, 9, 2, 6, 5]]
    row = torch.tensor([[*texts[0], *texts[1]]])
    positions = torch.tensor([[*range(4), *range(5)]])
    same = torch.tensor([[0] * 4 + [1] * 5])
    mask = (same[:, :, None] == same[:, None]) & torch.ones(9, 9).tril().bool()
    logits = (network(row, positions, masked(mask))[0] @ network.table.T).double()
    right = torch.cat([plain_forward(model, text).logits for text in texts])
    torch.testing.assert_close(logits, right, rtol=1e-4, atol=1e-4)


def test_prompts_of_any_length_are_continued_as_one_at_a_time(model: TinyModel) -> None:
    chance = np.random.default_rng(1)
    prompts = [chance.integers(0, 40, size) for size in (1, 7, 3, 12, 70)]
    texts = write(network_of(model), prompts, max_new_tokens=20, eos_ids=frozenset())
    for prompt, text in zip(prompts, texts, strict=True):
        assert text.prompt == len(prompt)
        assert text.tokens.tolist() == [*prompt, *plain_greedy(model, prompt.tolist(), 20)]


def test_a_text_ends_at_its_eos_token(model: TinyModel) -> None:
    """Also where most rows have ended, and are thrown out of the batch."""
    chance = np.random.default_rng(2)
    prompts = [chance.integers(0, 40, 5) for _ in range(12)]
    plain = [plain_greedy(model, prompt.tolist(), 40) for prompt in prompts]
    # Tokens that some texts never get to: most rows end early, not all.
    counts = {t: sum(t in p[:12] for p in plain) for p in plain for t in p}
    chosen: set[int] = set()
    for token in sorted(counts, key=lambda t: -counts[t]):
        if any(not {*p} & {*chosen, token} for p in plain):
            chosen.add(token)
    eos = frozenset(chosen)
    texts = write(network_of(model), prompts, max_new_tokens=40, eos_ids=eos)
    ends = [next((i + 1 for i, t in enumerate(p) if t in eos), 40) for p in plain]
    assert sum(end < 16 for end in ends) > 6
    assert max(ends) == 40
    for text, tokens, end in zip(texts, plain, ends, strict=True):
        assert text.tokens[5:].tolist() == tokens[:end]


def test_likeliest_tokens_are_kept_with_their_probabilities(model: TinyModel) -> None:
    (text,) = write(
        network_of(model), [np.array([1, 2])], max_new_tokens=6, eos_ids=frozenset(), top_k=3
    )
    assert text.top_ids is not None
    assert text.top_probs is not None
    logits = plain_forward(model, text.tokens.tolist()).logits[1:-1]
    probs, ids = logits.softmax(-1).topk(3)
    assert text.top_ids.tolist() == ids.tolist()
    np.testing.assert_allclose(text.top_probs, probs.numpy(), atol=2e-3)
    assert text.top_ids[:, 0].tolist() == text.tokens[2:].tolist()


def test_another_kind_of_model_is_refused() -> None:
    with pytest.raises(GraphError, match="gpt2"):
        Network({"model_type": "gpt2"})
