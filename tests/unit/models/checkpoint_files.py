"""Tiny checkpoints written from a seed: a Llama or Qwen2 of two layers, and its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
from gguf import quants
from safetensors.torch import save_file
from tokenizers import decoders, models, pre_tokenizers, trainers

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = (
    "Mars is red, Mars is reddish, Mars is dark. 1 12 123",
    "the tree, the trees; naïve café, 日本語 and 🙂👨‍👩‍👧",
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n'"
    " + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
HIDDEN, HEADS, KV_HEADS, FFN, LAYERS = 64, 4, 2, 96, 2


def train_backend() -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer of some 400 tokens; special tokens come first."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 3, trainer)
    return backend


def weights(model_type: str, vocab_size: int, tied: bool = False) -> dict[str, torch.Tensor]:
    """Random float32 weights under Hugging Face's names."""
    generator = torch.Generator().manual_seed(7)
    kv = HIDDEN // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab_size, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    if not tied:
        shapes["lm_head.weight"] = (vocab_size, HIDDEN)
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (HIDDEN,),
            f"{layer}.post_attention_layernorm.weight": (HIDDEN,),
            f"{layer}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{layer}.self_attn.k_proj.weight": (kv, HIDDEN),
            f"{layer}.self_attn.v_proj.weight": (kv, HIDDEN),
            f"{layer}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{layer}.mlp.gate_proj.weight": (FFN, HIDDEN),
            f"{layer}.mlp.up_proj.weight": (FFN, HIDDEN),
            f"{layer}.mlp.down_proj.weight": (HIDDEN, FFN),
        }
        if model_type == "qwen2":
            shapes[f"{layer}.self_attn.q_proj.bias"] = (HIDDEN,)
            shapes[f"{layer}.self_attn.k_proj.bias"] = (kv,)
            shapes[f"{layer}.self_attn.v_proj.bias"] = (kv,)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


# Written out by hand: the reader finds these names in the library's table.
_GGUF_MODULES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """GGUF's name of one of the tensors of :func:`weights`."""
    module, kind = name.rsplit(".", 1)
    if not module.startswith("model.layers."):
        return f"{_GGUF_MODULES[module]}.{kind}"
    _, _, layer, part = module.split(".", 3)
    return f"blk.{layer}.{_GGUF_MODULES[part]}.{kind}"


def _permute(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """As llama.cpp's converter has it."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    path: Path,
    tensors: dict[str, torch.Tensor],
    *,
    arch: str = "llama",
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    pre: str = "smollm",
    extra: Iterable[tuple[str, torch.Tensor]] = (),
) -> Path:
    """Write a GGUF file; matrices of a whole number of blocks a row are stored as ``kind``."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(5000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_tokenizer(writer, pre)
    for name, tensor in tensors.items():
        values = tensor.numpy()
        if arch == "llama" and "q_proj" in name:
            values = _permute(values, HEADS)
        if arch == "llama" and "k_proj" in name:
            values = _permute(values, KV_HEADS)
        _add_tensor(writer, gguf_name(name), values, kind)
    for name, tensor in extra:
        _add_tensor(writer, name, tensor.numpy(), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tensor(
    writer: Any, name: str, values: np.ndarray[Any, Any], kind: gguf.GGMLQuantizationType
) -> None:
    if values.ndim == 1:
        kind = gguf.GGMLQuantizationType.F32
    writer.add_tensor(name, quants.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)


def _add_tokenizer(writer: Any, pre: str) -> None:
    backend = train_backend()
    vocabulary = sorted(backend.get_vocab(), key=backend.get_vocab().__getitem__)
    merges = json.loads(backend.to_str())["model"]["merges"]
    padding = ["[PAD0]", "[PAD1]"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*vocabulary, "<tool>", *padding])
    kinds = [gguf.TokenType.CONTROL if t in SPECIAL else gguf.TokenType.NORMAL for t in vocabulary]
    unused = [gguf.TokenType.UNUSED] * len(padding)
    writer.add_token_types([*kinds, gguf.TokenType.USER_DEFINED, *unused])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(SPECIAL.index("<|im_end|>"))
    writer.add_bos_token_id(SPECIAL.index("<|im_start|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)


def write_folder(
    path: Path,
    tensors: dict[str, torch.Tensor],
    *,
    model_type: str = "llama",
    shards: int = 1,
    config: dict[str, Any] | None = None,
) -> Path:
    """Write a Hugging Face folder."""
    path.mkdir(exist_ok=True)
    stored = {
        "model_type": model_type,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-5,
        "vocab_size": tensors["model.embed_tokens.weight"].shape[0],
        "max_position_embeddings": 128,
        "rope_theta": 5000.0,
        "eos_token_id": 2,
        "tie_word_embeddings": "lm_head.weight" not in tensors,
    }
    (path / "config.json").write_text(json.dumps(stored | (config or {})))
    names = list(tensors)
    if shards == 1:
        save_file(tensors, path / "model.safetensors")
    else:
        where = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(names)}
        for file in sorted(set(where.values())):
            save_file({n: tensors[n] for n in names if where[n] == file}, path / file)
        index = {"metadata": {}, "weight_map": where}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    train_backend().save(str(path / "tokenizer.json"))
    settings = {"chat_template": CHATML, "eos_token": {"content": "<|im_end|>"}}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    return path
