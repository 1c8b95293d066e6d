from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import random_parents

from specinfer.models.batch import BatchLimits, TokenBatch, ancestor_bits, load_batch


def _members(row: list[int]) -> set[int]:
    """Numbers of the bits that are set, over all words of a mask."""
    words = [word % (1 << 64) for word in row]
    return {64 * w + bit for w, word in enumerate(words) for bit in range(64) if word >> bit & 1}


@given(st.integers(0, 200), st.integers(0, 10**6), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_the_bits_of_a_node_are_its_path_to_the_root(nodes: int, seed: int, spare: int) -> None:
    parents = random_parents(random.Random(seed), nodes)
    words = max(1, -(-nodes // 64)) + spare
    bits = ancestor_bits(np.array(parents, np.int64), words)
    assert bits.shape == (nodes, words)
    assert bits.dtype == np.int64
    for node, row in enumerate(bits.tolist()):
        path = set()
        while node >= 0:
            path.add(node)
            node = parents[node]
        assert _members(row) == path


@pytest.mark.parametrize("nodes", [64, 65, 128, 129])
def test_a_chain_fills_whole_words(nodes: int) -> None:
    bits = ancestor_bits(np.arange(-1, nodes - 1), words=3)
    assert [len(_members(row)) for row in bits.tolist()] == list(range(1, nodes + 1))


def test_limits_know_how_many_words_a_mask_has() -> None:
    assert [BatchLimits(nodes=n).words for n in (1, 64, 65, 128, 129)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("name", ["rows", "requests", "context", "nodes", "logit_rows"])
def test_limits_refuse_zero(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0, expected at least 1"):
        BatchLimits(**{name: 0})


def test_loading_fills_up_narrow_tables_with_zeros() -> None:
    def array(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array(values, np.int64)

    batch = TokenBatch(
        tokens=array(5, 6, 7),
        positions=array(0, 1, 0),
        request=array(0, 0, 1),
        slots=array(16, 17, 32),
        prefix_len=array(0, 0),
        pages=np.zeros((2, 0), np.int64),
        tree_slots=np.array([[16, 17], [32, 0]]),
        num_nodes=array(2, 1),
        chain_len=array(2, 1),
        ancestors=np.array([[1], [3], [1]]),
        logit_rows=array(2),
    )
    assert (batch.num_rows, batch.num_requests) == (3, 2)

    def old(*shape: int) -> torch.Tensor:
        return torch.full(shape, -9)

    rows = SimpleNamespace(tokens=old(3), positions=old(3), request=old(3), slots=old(3))
    requests = SimpleNamespace(prefix_len=old(2), chain_len=old(2), num_nodes=old(2))
    pages, tree, ancestors, logit_rows = old(2, 3), old(2, 4), old(3, 2), old(1)
    load_batch(rows, requests, pages, tree, ancestors, logit_rows, batch)
    for field, tensor in (*vars(rows).items(), *vars(requests).items()):
        assert tensor.tolist() == getattr(batch, field).tolist()
    assert pages.tolist() == [[0, 0, 0]] * 2
    assert tree.tolist() == [[16, 17, 0, 0], [32, 0, 0, 0]]
    assert ancestors.tolist() == [[1, 0], [3, 0], [1, 0]]
    assert logit_rows.tolist() == [2]
