"""The operators that graphs are made of, by name."""

from __future__ import annotations

from specinfer.ops.attention import ATTENTION
from specinfer.ops.elementwise import ADD, GELU, RELU, SILU_MUL
from specinfer.ops.embedding import EMBEDDING, SELECT_ROWS
from specinfer.ops.linear import LINEAR
from specinfer.ops.norm import LAYER_NORM, RMS_NORM
from specinfer.ops.rotary import ROTARY, ROTARY_ANGLES

OPERATORS = {
    operator.name: operator
    for operator in (
        ADD,
        ATTENTION,
        EMBEDDING,
        GELU,
        LAYER_NORM,
        LINEAR,
        RELU,
        RMS_NORM,
        ROTARY,
        ROTARY_ANGLES,
        SELECT_ROWS,
        SILU_MUL,
    )
}
