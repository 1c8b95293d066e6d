"""The LLM's own continuations of many prompts: greedy, hundreds at once, with a plain K/V cache.

For a GPU: at such widths a step is bound by arithmetic, so nothing is launched from graphs. Rows
that have ended are thrown out of the batch when they are half of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from specinfer.scheduler.boost.corpus import Text
from specinfer.scheduler.boost.network import Network

PREFILL_TOKENS = 1 << 15
"""Tokens of prompts computed at once."""
CHECK_EVERY = 16
"""Steps between looks at who has ended: each look waits for the GPU."""
CACHE_STEP = 64
"""The cache is looked at up to a multiple of this."""


class _Cache:
    """K/V of a batch: (layers, 2, rows, kv_heads, length, size)."""

    def __init__(self, network: Network, rows: int, length: int) -> None:
        config, like = network.config, network.table
        shape = (config["num_hidden_layers"], 2, rows, config["num_key_value_heads"])
        self.kv = torch.zeros(
            *shape, length, network.head_size, dtype=like.dtype, device=like.device
        )

    def prefill(self, start: int, end: int) -> Any:
        """Attention of prompts: tokens see those before them; K/V of rows start to end are kept."""

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            tokens = k.shape[2]
            self.kv[layer, 0, start:end, :, :tokens] = k
            self.kv[layer, 1, start:end, :, :tokens] = v
            heads = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(heads, 1), v.repeat_interleave(heads, 1)
            return functional.scaled_dot_product_attention(q, k, v, is_causal=True)

        return attend

    def step(self, positions: Tensor, length: int) -> Any:
        """Attention of one token a row.

        Args:
            positions: (rows,).
            length: of the cache that is looked at, behind every position.
        """
        rows = torch.arange(len(positions), device=positions.device)
        seen = torch.arange(length, device=positions.device) <= positions[:, None]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.kv[layer, 0], self.kv[layer, 1]
            keys[rows, :, positions] = k[:, :, 0]
            values[rows, :, positions] = v[:, :, 0]
            # Heads that share keys are rows of one query: nothing is repeated.
            grouped = q.view(len(q), k.shape[1], -1, q.shape[3])
            mask = seen[:, None, None].expand(-1, -1, grouped.shape[2], -1)
            mixed = functional.scaled_dot_product_attention(
                grouped, keys[:, :, :length], values[:, :, :length], attn_mask=mask
            )
            return mixed.flatten(1, 2).unsqueeze(2)

        return attend


@torch.no_grad()
def write(
    network: Network,
    prompts: Sequence[NDArray[Any]],
    *,
    max_new_tokens: int,
    eos_ids: frozenset[int],
    top_k: int = 0,
) -> list[Text]:
    """Continue prompts greedily, all at once.

    Args:
        network: the LLM.
        prompts: token ids; best of similar lengths.
        max_new_tokens: most tokens to write.
        eos_ids: tokens that end a text; the one met is its last.
        top_k: likeliest tokens to keep with each token.
    """
    device = network.table.device
    # In float32, so that logits which bfloat16 holds for equal are told apart.
    table = network.table.float()
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = int(lengths.max())
    room = -(-(longest + max_new_tokens) // CACHE_STEP) * CACHE_STEP
    cache = _Cache(network, len(prompts), room)
    padded = np.zeros((len(prompts), longest), np.int64)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = prompt
    hidden = _prefill(network, torch.from_numpy(padded).to(device), lengths, cache)
    ends = torch.tensor(sorted(eos_ids), device=device)
    tokens = torch.zeros(len(prompts), max_new_tokens, dtype=torch.int64, device=device)
    top_ids = torch.zeros(*tokens.shape, top_k, dtype=torch.int32, device=device)
    top_probs = torch.zeros(*tokens.shape, top_k, dtype=torch.float16, device=device)
    counts = torch.zeros(len(prompts), dtype=torch.int64, device=device)
    alive = torch.arange(len(prompts), device=device)  # row of the batch -> prompt
    going = torch.ones(len(prompts), dtype=torch.bool, device=device)
    positions = lengths.clone()
    for step in range(max_new_tokens):
        logits = functional.linear(hidden.float(), table)
        if top_k:
            best, ids = logits.topk(top_k, -1)
            chosen = ids[:, 0]
            total = torch.logsumexp(logits, -1, keepdim=True)
            top_ids[alive, step] = ids.int()
            top_probs[alive, step] = (best - total).exp().half()
        else:
            chosen = logits.argmax(-1)
        tokens[alive, step] = chosen
        counts[alive] += going
        going &= ~torch.isin(chosen, ends)
        if step + 1 == max_new_tokens:
            break
        if (step + 1) % CHECK_EVERY == 0:
            left = int(going.sum())
            if left == 0:
                break
            if left <= len(going) // 2:
                kept = going.nonzero()[:, 0]
                cache.kv = cache.kv[:, :, kept]
                alive, chosen, positions = alive[kept], chosen[kept], positions[kept]
                going = going[kept]
        seen = min(room, -(-(longest + step + 1) // CACHE_STEP) * CACHE_STEP)
        attend = cache.step(positions, seen)
        hidden = network(chosen[:, None], positions[:, None], attend)[:, 0]
        positions += 1
    return _texts(prompts, tokens, counts, top_ids, top_probs)


def _prefill(network: Network, padded: Tensor, lengths: Tensor, cache: _Cache) -> Tensor:
    """Compute prompts, some rows at a time; return what stands behind each one's last token."""
    rows, longest = padded.shape
    width = max(1, PREFILL_TOKENS // longest)
    positions = torch.arange(longest, device=padded.device)[None]
    last = []
    for start in range(0, rows, width):
        end = min(rows, start + width)
        hidden = network(padded[start:end], positions, cache.prefill(start, end))
        last.append(hidden[torch.arange(end - start, device=padded.device), lengths[start:end] - 1])
    return torch.cat(last)


def _texts(
    prompts: Sequence[NDArray[Any]],
    tokens: Tensor,
    counts: Tensor,
    top_ids: Tensor,
    top_probs: Tensor,
) -> list[Text]:
    written, ids, probs = tokens.cpu().numpy(), top_ids.cpu().numpy(), top_probs.cpu().numpy()
    texts = []
    for row, (prompt, count) in enumerate(zip(prompts, counts.tolist(), strict=True)):
        known = (ids[row, :count], probs[row, :count]) if ids.shape[-1] else (None, None)
        texts.append(Text(np.concatenate([prompt, written[row, :count]]), len(prompt), *known))
    return texts
