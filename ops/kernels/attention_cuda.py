"""Tree attention on a GPU, and its plan; see ``attention.cu``.

Float16 and bfloat16 run on the tensor cores, in tiles of rows and keys that are shared out evenly
over a number of blocks that depends on the card alone; what requests and contexts there are is
data, so a captured launch serves all. Other numbers and head sizes have a plain kernel.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from specinfer.ops.kernels.cuda import TYPES, launch

FILE = "attention.cu"
LARGEST_HEAD = 256
PLAN_THREADS = 256
PLAIN_THREADS = 128
SHARE_THREADS = 256
MERGE_WARPS = 8
"""Of a block that merges."""
FEW_BLOCKS, MANY_BLOCKS = 3, 6
"""Such blocks at once on a multiprocessor, for few rows and for many."""
WORK_SIZE = 4
"""int32 that say how work is shared out."""

Arguments = list[Tensor | np.generic]

_FLOAT_BYTES, _SLOT_BYTES, _NUMBER_BYTES, _PAD = 4, 4, 2, 8


@dataclass(frozen=True, slots=True)
class Tile:
    """How a block works, as the template ``tree_attention`` takes it.

    Attributes:
        size: of a head.
        rows_per_warp: in units of 16.
        warps: of a block.
        keys: in a tile.
        stages: tiles in shared memory.
        blocks: at once on a multiprocessor.
    """

    size: int
    rows_per_warp: int
    warps: int
    keys: int
    stages: int
    blocks: int

    @property
    def rows(self) -> int:
        """Packed rows (a row and a query head) of a tile."""
        return 16 * self.rows_per_warp * self.warps

    @property
    def threads(self) -> int:
        """Of a block."""
        return 32 * self.warps

    @property
    def shared_bytes(self) -> int:
        """Queries, stages of keys and values, and their slots."""
        numbers = (self.rows + 2 * self.stages * self.keys) * (self.size + _PAD)
        return _NUMBER_BYTES * numbers + _SLOT_BYTES * self.stages * self.keys


def _tiles(size: int) -> dict[int, Tile]:
    """The tiles for a head size, by how many packed rows they are for."""
    if size == 256:
        return {64: Tile(256, 1, 4, 32, 2, 2)}
    return {
        64: Tile(size, 1, 4, 64, 2, 2),
        128: Tile(size, 2, 4, 64, 2, 2),
        256: Tile(size, 2, 8, 64, 4, 1),
    }


TILES = {size: _tiles(size) for size in (64, 96, 128, 256)}

SMALL_STEP = 256
"""Packed rows of a step up to which tiles of few rows are best: larger ones leave too few to be
shared out evenly."""


def tile_for(rows: int, requests: int, group: int, size: int, dtype: torch.dtype) -> Tile | None:
    """The tile for a step's shapes; None if only the plain kernel can.

    Args:
        rows: of the step.
        requests: of the step.
        group: query heads of a K/V head.
        size: of a head.
        dtype: of the numbers.
    """
    if dtype not in (torch.float16, torch.bfloat16) or size not in TILES:
        return None
    packed = -(-rows // requests) * group
    wanted = packed if rows * group > SMALL_STEP else 1
    tiles = TILES[size]
    return tiles[min((most for most in tiles if most >= wanted), default=max(tiles))]


@cache
def _multiprocessors(device: int) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _blocks(tile: Tile, device: torch.device) -> int:
    index = torch.cuda.current_device() if device.index is None else device.index
    return tile.blocks * _multiprocessors(index)


def scratch_size(tile: Tile | None, device: torch.device) -> int:
    """Bytes of scratch that a launch of :func:`tree_attention` wants."""
    if tile is None:
        return 0
    # A block leaves a part of a unit that began before, and of one that begins there.
    return _blocks(tile, device) * 2 * tile.rows * (tile.size + 2) * _FLOAT_BYTES


def most_scratch(size: int, dtype: torch.dtype, device: torch.device) -> int:
    """Bytes of scratch that are enough for launches of any rows and requests."""
    if dtype not in (torch.float16, torch.bfloat16):
        return 1
    return max([1, *(scratch_size(tile, device) for tile in TILES.get(size, {}).values())])


def plan_attention(
    positions: Tensor,
    request: Tensor,
    prefix_len: Tensor,
    chain_len: Tensor,
    num_nodes: Tensor,
    pages: Tensor,
    tree: Tensor,
    ancestors: Tensor,
    keys: Tensor,
    seen: Tensor,
    extents: Tensor,
    work: Tensor,
    kv_heads: int,
    group: int,
    tile: Tile | None,
) -> None:
    """See :func:`specinfer.ops.attention.plan_attention`.

    Args:
        positions: (rows,) int64, as is ``request``.
        request: that has the row; rows of a request lie together.
        prefix_len: (requests,) int64, as are ``chain_len`` and ``num_nodes``.
        chain_len: leading uncommitted nodes that are a chain.
        num_nodes: all uncommitted nodes.
        pages: (requests, pages) int64.
        tree: (requests, nodes) int64, slots of uncommitted nodes.
        ancestors: (rows, words) int64 bit masks over the nodes behind the chain.
        keys: (requests, keys) int32, written: slots of the prefix, then of the nodes.
        seen: (rows, words) int64, written: which uncommitted nodes each row sees.
        extents: (requests, 4) int64, written: first row, row behind the last, number of keys, and
            how many of the last of them ``seen`` is asked about.
        work: (:data:`WORK_SIZE`,) int32, written: how the work is shared out.
        kv_heads: of each layer.
        group: query heads of a K/V head.
        tile: as :func:`tile_for` says for the launches that this is the plan of.
    """
    rows, requests = len(positions), len(prefix_len)
    shares = -(-keys.shape[1] // (4 * PLAN_THREADS))
    launch(
        FILE,
        "plan_attention",
        (requests, 1 + min(64, shares)),
        PLAN_THREADS,
        [
            positions,
            request,
            np.int64(rows),
            prefix_len,
            chain_len,
            num_nodes,
            pages,
            np.int64(pages.stride(0)),
            tree,
            np.int64(tree.stride(0)),
            ancestors,
            np.int64(ancestors.stride(0)),
            keys,
            np.int64(keys.stride(0)),
            seen,
            np.int64(seen.stride(0)),
            extents,
        ],
    )
    if tile is not None:
        blocks = _blocks(tile, positions.device)
        sizes = (requests, kv_heads, group, tile.rows, tile.keys, blocks)
        arguments: Arguments = [extents, *map(np.int32, sizes), work]
        launch(FILE, "share_out", (1,), SHARE_THREADS, arguments)


def tree_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    seen: Tensor,
    extents: Tensor,
    work: Tensor,
    scratch: Tensor,
    out: Tensor,
    scale: float,
    tile: Tile | None,
) -> None:
    """See :func:`specinfer.ops.attention.tree_attention`.

    Args:
        q: (rows, heads x size), columns of a wider matrix or not.
        k: (slots, kv_heads, size) of a layer, contiguous.
        v: as ``k``.
        keys: of the plan, as are ``seen``, ``extents`` and ``work``.
        seen: (rows, words).
        extents: (requests, 4).
        work: of a plan for the same tile.
        scratch: at least :func:`scratch_size` bytes, of any content, overwritten.
        out: as ``q``, written.
        scale: multiplies the scores.
        tile: as :func:`tile_for` says.
    """
    rows, (_, kv_heads, size) = len(q), k.shape
    heads = q.shape[1] // size
    group, requests = heads // kv_heads, len(extents)
    given: Arguments = [q, np.int64(q.stride(0)), k, v]
    plan: Arguments = [keys, np.int64(keys.stride(0)), seen, np.int64(seen.stride(0))]
    layout: Arguments = [extents, np.int32(requests), np.int32(kv_heads), np.int32(group)]
    rest: Arguments = [out, np.int64(out.stride(0))]
    kind = TYPES[q.dtype]
    if tile is None or not _by_16_bytes(q, out):
        arguments = [*given, *plan, *layout, *rest, np.int32(size), np.float32(scale)]
        launch(FILE, f"plain_attention<{kind}>", (rows, heads), PLAIN_THREADS, arguments)
        return
    blocks = _blocks(tile, q.device)
    launch(
        FILE,
        f"tree_attention<{kind}, {', '.join(map(str, astuple(tile)))}>",
        (blocks,),
        tile.threads,
        [*given, *plan, *layout, work, scratch, *rest, np.float32(scale)],
        shared_bytes=tile.shared_bytes,
    )
    processors, wanted = blocks // tile.blocks, -(-rows * heads // MERGE_WARPS)
    if wanted <= FEW_BLOCKS * processors:
        at_once, at_most = 4 if size > 128 else 8, FEW_BLOCKS
    else:
        at_once, at_most = 2, MANY_BLOCKS
    launch(
        FILE,
        f"merge<{kind}, {size}, {tile.rows}, {tile.keys}, {at_once}, {at_most}>",
        (min(wanted, at_most * processors),),
        32 * MERGE_WARPS,
        [*layout, work, np.int32(blocks), scratch, np.int32(rows), *rest],
    )


def _by_16_bytes(*matrices: Tensor) -> bool:
    """Whether all rows begin at a multiple of 16 bytes."""
    return all(
        x.data_ptr() % 16 == 0 and x.stride(0) * x.element_size() % 16 == 0 for x in matrices
    )
