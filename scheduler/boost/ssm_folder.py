"""How a boosted SSM begins and ends: its configuration and first weights, and its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from specinfer.models.checkpoint import Checkpoint
from specinfer.models.draft_vocabulary import DraftVocabulary
from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.boost.config import NetworkConfig
from specinfer.scheduler.boost.network import Network, init_weights


def ssm_config(shape: NetworkConfig, llm: Checkpoint, rows: int, length: int) -> dict[str, Any]:
    """The ``config.json`` of an SSM.

    Args:
        shape: of the network.
        llm: whose rotary positions it shares.
        rows: of its table.
        length: of the longest text that it was trained on.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": rows,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.hidden // shape.heads,
        "max_position_embeddings": length,
        "rms_norm_eps": 1e-6,
        "rope_theta": float(llm.config["rope_theta"]),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
    }


def new_network(config: dict[str, Any], seed: int) -> Network:
    """A network with random weights."""
    network = Network(config)
    init_weights(network, seed)
    return network


def project_embeddings(network: Network, model: Checkpoint, vocabulary: DraftVocabulary) -> None:
    """Start from a larger model's embeddings, along the directions in which they differ most.

    Args:
        network: with fewer features than the model.
        model: of the LLM's tokens.
        vocabulary: the network's.

    Raises:
        ConfigError: the model has fewer features, or other tokens.
    """
    own = network.model.embed_tokens.weight
    digest = model.tokenizer().vocabulary_digest
    known = model.tensor("model.embed_tokens.weight", torch.float32)[vocabulary.ids]
    if digest != vocabulary.digest or known.shape[1] < own.shape[1]:
        raise ConfigError(
            f"network.embeddings: {model.path}: expected the LLM's tokens and at least "
            f"{own.shape[1]} features, found {known.shape[1]}"
            + ("" if digest == vocabulary.digest else " and other tokens")
        )
    with torch.no_grad():
        centred = known - known.mean(0)
        # Eigenvectors come with ascending eigenvalues: the last ones span the most.
        directions = torch.linalg.eigh(centred.T @ centred)[1][:, -own.shape[1] :]
        turned = centred @ directions
        own[: len(turned)] = turned * (0.02 / turned.std())
        own[len(turned) :] = 0.0


def save_ssm(
    network: Network, vocabulary: DraftVocabulary, folder: Path, dtype: torch.dtype
) -> None:
    """Write a folder that ``--draft`` takes; its weights appear last, and whole."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(network.config, indent=1) + "\n")
    vocabulary.save(folder)
    weights = {n: w.detach().to("cpu", dtype).contiguous() for n, w in network.named_parameters()}
    half = folder / "model.half"
    save_file(weights, half, {"format": "pt"})
    half.replace(folder / "model.safetensors")
