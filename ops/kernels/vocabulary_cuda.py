"""What runs over the vocabulary on a CUDA card; see ``vocabulary.cu``.

Logits are float32, float16 or bfloat16; rows may lie a stride apart, and are read by 16 bytes where
all of them begin at 16 bytes. NaN is never a likeliest token (for torch it is), and of equal
numbers the one of the lowest token comes first. Nothing here allocates or waits, so that a CUDA
graph can hold it: what blocks share lies in a workspace that is given. Launches that use one
workspace must run one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from specinfer.ops.kernels.cuda import TYPES, launch
from specinfer.runtime.errors import LaunchError

FILE = "vocabulary.cu"
MOST_K = 64
"""Likeliest tokens of a row that may be asked for."""
SLICE, MOST_SLICES = 8192, 32
"""Numbers of a row that a block has at most, and blocks that a row has at most."""
GRANULE = 8
"""Slices begin at multiples of it, so that they can be read by packs."""
SLICE_THREADS, WALK_THREADS, FOLLOW_THREADS = 256, 1024, 128
PACK_BYTES = 16
"""What a thread reads by one access."""
ROWS_AT_ONCE = 4096
"""Of a launch, at most."""
HEADER = ROWS_AT_ONCE + ROWS_AT_ONCE // 2
"""Words of a workspace that are zero between launches: a key and a counter for each row."""
KNOWN_ROWS = 320
"""Up to so many rows, all are looked at before a walk begins. For more, that takes longer than a
walk that reads as it goes, which takes the same time for one tree and for as many as the card has
blocks (found on an H100 with 32000 and 128256 tokens, and walks of 5 rows)."""
OWN_WORDS = HEADER + (1 << 20)
"""Of the workspace of tasks: 8 MiB, enough for the 8 likeliest tokens of 4096 rows of 200000."""


def workspace_words(rows: int, vocabulary: int, k: int = 0) -> int:
    """How many int64 a workspace should have, which must be 0 when it is new.

    With fewer :func:`top_k` takes several launches; :data:`HEADER` and :data:`KNOWN_ROWS` are the
    least for the others.

    Args:
        rows: of logits.
        vocabulary: numbers of a row.
        k: of :func:`top_k`; 0: that is not asked for.

    >>> workspace_words(64, 32000) == HEADER + KNOWN_ROWS
    True
    """
    lists = min(rows, ROWS_AT_ONCE) * _slices(vocabulary)[1] * (k + 1) if k else 0
    return HEADER + max(KNOWN_ROWS, lists)


@cache
def own_workspace(device: torch.device, stream: int) -> Tensor:
    """The workspace of all tasks on a stream, made when the first of them runs.

    Raises:
        LaunchError: that one is being captured: it would be zero only when its graph runs.
    """
    if torch.cuda.is_current_stream_capturing():
        raise LaunchError(
            "the workspace of a stream is made by the first task that needs it, and this one is "
            "being captured; expected one launch on the stream before"
        )
    return torch.zeros(OWN_WORDS, dtype=torch.int64, device=device)


def fits(logits: Tensor, k: int = 1) -> bool:
    """Whether the kernels are made for such logits."""
    vocabulary = logits.shape[1]
    return (
        logits.dtype in TYPES
        and logits.stride(1) == 1
        and 1 <= k <= min(MOST_K, vocabulary)
        and vocabulary <= SLICE * MOST_SLICES
    )


def likeliest(logits: Tensor, tokens: Tensor, workspace: Tensor) -> None:
    """See :func:`specinfer.ops.sample.likeliest`; one launch for 4096 rows.

    Args:
        logits: (rows, vocabulary).
        tokens: (rows,) int64, written; 0 where a row has no number above -inf.
        workspace: of :func:`workspace_words`.
    """
    rows, vocabulary = logits.shape
    width, slices = _slices(vocabulary)
    for first in range(0, rows, ROWS_AT_ONCE):
        some = logits[first : first + ROWS_AT_ONCE]
        launch(
            FILE,
            _name("likeliest", logits),
            (len(some) * slices,),
            SLICE_THREADS,
            [
                *_matrix(some),
                np.int32(width),
                np.int32(slices),
                workspace,
                workspace[ROWS_AT_ONCE:],
                tokens[first:],
                np.int64(tokens.stride(0)),
            ],
        )


def top_k(logits: Tensor, tokens: Tensor, log_probs: Tensor, workspace: Tensor) -> None:
    """See :func:`specinfer.ops.sample.top_k`; one launch where the workspace has room for all rows.

    A row that has a NaN has no probabilities: its ``log_probs`` are NaN.

    Args:
        logits: (rows, vocabulary).
        tokens: (rows, k) int64, written.
        log_probs: (rows, k) float32, written.
        workspace: of :func:`workspace_words`.
    """
    (rows, vocabulary), k = logits.shape, tokens.shape[1]
    width, slices = _slices(vocabulary)
    at_once = min(ROWS_AT_ONCE, (len(workspace) - HEADER) // (slices * (k + 1)))
    for first in range(0, rows, at_once):
        some = logits[first : first + at_once]
        launch(
            FILE,
            _name("top_k", logits),
            (len(some) * slices,),
            SLICE_THREADS,
            [
                *_matrix(some),
                np.int32(width),
                np.int32(slices),
                np.int32(k),
                workspace[HEADER:],
                workspace[HEADER + len(some) * slices * k :],
                workspace[ROWS_AT_ONCE:],
                tokens[first:],
                np.int64(tokens.stride(0)),
                log_probs[first:],
                np.int64(log_probs.stride(0)),
            ],
            shared_bytes=MOST_SLICES * k * workspace.itemsize,
        )


def greedy_walk(
    logits: Tensor,
    rows: Tensor,
    tokens: Tensor,
    parents: Tensor,
    first: Tensor,
    counts: Tensor,
    path_nodes: Tensor,
    path_tokens: Tensor,
    path_counts: Tensor,
    workspace: Tensor,
) -> None:
    """Accept nodes of token trees: from each root along the likeliest tokens.

    One launch; two, where there are few rows of logits (:data:`KNOWN_ROWS`). All tables are int64
    and contiguous. Nodes of a tree are numbered from its root, 0.

    Args:
        logits: (rows, vocabulary); of many rows, only those of visited nodes are read.
        rows: (nodes,) which row is behind each node; the trees' nodes in any place.
        tokens: (nodes,) of the nodes.
        parents: (nodes,) node of the same tree, before the node itself.
        first: (trees,) where in these arrays each tree begins.
        counts: (trees,) how many nodes it has, the root among them; 0: there is no tree.
        path_nodes: (trees, columns) written: nodes accepted, without the root, and -1 behind them.
            At most ``columns - 1`` are accepted.
        path_tokens: (trees, columns) written: their tokens, then the LLM's own, then -1.
        path_counts: (trees,) written: of such tokens; 0 where there is no tree.
        workspace: of :func:`workspace_words`.
    """
    columns = np.int32(path_nodes.shape[1])
    tree = (rows, tokens, parents, first, counts, path_nodes, path_tokens, path_counts, columns)
    if len(logits) <= KNOWN_ROWS:
        known = workspace[HEADER : HEADER + len(logits)]
        likeliest(logits, known, workspace)
        if len(first):
            launch(FILE, "follow_known", (len(first),), FOLLOW_THREADS, [known, *tree])
        return
    _walk("greedy_walk", logits, tree, len(first))


def process(logits: Tensor, params: Tensor, probabilities: Tensor) -> None:
    """The probabilities that :func:`sample_rows` draws from, in one launch.

    As :mod:`specinfer.scheduler.sampling.process` has them, in float32: temperature, then top_k,
    top_p and min_p, of which none parts tokens of the same logit.

    Args:
        logits: (rows, vocabulary).
        params: (rows, 4) float64: temperature, top_k, top_p and min_p, with the meanings and the
            defaults of ``SamplingParams``.
        probabilities: (rows, vocabulary) float32, written; NaN where a logit is no number, or none
            is above -inf.
    """
    _walk("process", logits, [params, probabilities, np.int64(probabilities.stride(0))])


def sample_rows(
    logits: Tensor, params: Tensor, keys: Tensor, places: Tensor, tokens: Tensor
) -> None:
    """Draw a token from each row, in one launch, without any memory for probabilities.

    Args:
        logits: (rows, vocabulary).
        params: see :func:`process`.
        keys: (rows,) int64, the bits of keys of :mod:`specinfer.ops.noise`.
        places: (rows,) int64: which of a key's uniform numbers the draw is made with, by the
            inverse of the distribution function.
        tokens: (rows,) int64, written; -1 where :func:`process` gives NaN.
    """
    _walk("sample_rows", logits, [params, keys, places, tokens])


def race(
    logits: Tensor,
    choices: Tensor,
    positions: Tensor,
    names: Tensor,
    tokens: Tensor,
    behind: int,
) -> None:
    """See :func:`specinfer.scheduler.lanes.racing.race`, in one launch; weights are float32.

    Args:
        logits: (rows, vocabulary).
        choices: (lanes, 5) int64, contiguous.
        positions: (rows,) int64.
        names: (vocabulary,) int64, or (0,).
        tokens: (rows,) or (rows, k) int64, written.
        behind: added to the positions.
    """
    k = tokens.shape[1] if tokens.dim() == 2 else 1
    _walk(
        "race",
        logits,
        [
            choices,
            np.int32(len(logits) // len(choices)),
            positions,
            np.int64(behind),
            names if len(names) else np.uint64(0),
            tokens,
            np.int64(tokens.stride(0)),
            np.int32(k),
        ],
    )


def naive_walk(
    logits: Tensor,
    params: Tensor,
    keys: Tensor,
    rows: Tensor,
    tokens: Tensor,
    parents: Tensor,
    first: Tensor,
    counts: Tensor,
    path_nodes: Tensor,
    path_tokens: Tensor,
    path_counts: Tensor,
) -> None:
    """Accept nodes of token trees along tokens that are drawn independently, in one launch.

    The answers are those of ``SeededChance`` to ``verify_naive``, rounding aside.

    Args:
        logits: as :func:`greedy_walk`.
        params: (trees, 4), see :func:`process`.
        keys: (trees, 2) int64, the bits of the keys of a tree's coins and of its draws; numbers are
            taken from place 1 on.
        rows: as :func:`greedy_walk`, as are all that follow.
        tokens: of the nodes.
        parents: of the nodes.
        first: nodes of the trees.
        counts: nodes of the trees.
        path_nodes: written.
        path_tokens: written; the last is -1 where a row has no probabilities.
        path_counts: written.
    """
    tree = (rows, tokens, parents, first, counts)
    path = (path_nodes, path_tokens, path_counts, np.int32(path_nodes.shape[1]))
    _walk("naive_walk", logits, [params, keys, *tree, *path], len(first))


def mss_walk(
    logits: Tensor,
    params: Tensor,
    keys: Tensor,
    drawn_from: Tensor,
    trial_first: Tensor,
    trial_counts: Tensor,
    trial_nodes: Tensor,
    trial_rows: Tensor,
    rows: Tensor,
    tokens: Tensor,
    parents: Tensor,
    first: Tensor,
    counts: Tensor,
    path_nodes: Tensor,
    path_tokens: Tensor,
    path_counts: Tensor,
) -> None:
    """Accept nodes of token trees by multi-step speculative sampling, in one launch.

    The answers are those of ``SeededChance`` to ``verify_mss``, rounding aside. Of logits and of
    ``drawn_from``, only the rows of visited nodes are read.

    Args:
        logits: as :func:`greedy_walk`.
        params: (trees, 4), see :func:`process`.
        keys: as :func:`naive_walk`.
        drawn_from: (any, vocabulary) float32: the very probabilities that proposals were drawn
            from.
        trial_first: (nodes,) where the proposals behind each node begin.
        trial_counts: (nodes,) how many there are. Those behind the first 64 are not tried, which
            changes no law.
        trial_nodes: (proposals,) the child, a node of the same tree, in the order they were drawn;
            a child that was drawn twice stands there twice.
        trial_rows: (proposals,) row of ``drawn_from``; -1: the proposal was certain.
        rows: as :func:`greedy_walk`, as are all that follow.
        tokens: of the nodes.
        parents: of the nodes.
        first: nodes of the trees.
        counts: nodes of the trees.
        path_nodes: written.
        path_tokens: written; the last is -1 where a row has no probabilities.
        path_counts: written.
    """
    trials = (trial_first, trial_counts, trial_nodes, trial_rows)
    tree = (rows, tokens, parents, first, counts)
    path = (path_nodes, path_tokens, path_counts, np.int32(path_nodes.shape[1]))
    drawn = (drawn_from, np.int64(drawn_from.stride(0)))
    _walk("mss_walk", logits, [params, keys, *drawn, *trials, *tree, *path], len(first))


def _walk(
    kernel: str, logits: Tensor, others: Sequence[Tensor | np.generic], blocks: int | None = None
) -> None:
    """Launch a block for each row, or so many."""
    blocks = len(logits) if blocks is None else blocks
    if blocks:
        arguments = [*_matrix(logits), *others]
        launch(FILE, _name(kernel, logits), (blocks,), WALK_THREADS, arguments)


def _slices(vocabulary: int) -> tuple[int, int]:
    """How wide the slices of a row are, and how many there are.

    >>> _slices(32000), _slices(128256), _slices(3)
    ((8000, 4), (8016, 16), (8, 1))
    """
    count = -(-vocabulary // SLICE)
    width = -(-vocabulary // (count * GRANULE)) * GRANULE
    return width, -(-vocabulary // width)


def _matrix(logits: Tensor) -> list[Tensor | np.generic]:
    """Logits as kernels take them."""
    return [logits, np.int64(logits.stride(0)), np.int32(logits.shape[1])]


def _name(kernel: str, logits: Tensor) -> str:
    """The instance for logits, by packs or number by number."""
    width = PACK_BYTES // logits.itemsize
    if logits.data_ptr() % PACK_BYTES or (len(logits) > 1 and logits.stride(0) % width):
        width = 1
    return f"{kernel}<{TYPES[logits.dtype]}, {width}>"
