"""The cells of regions: a dimension is cut wherever a box of the log begins or ends.

All points of a cell have the same history, so that large regions are small arrays of cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from specinfer.runtime.validator.logs import Box

Cells = NDArray[np.int64]
"""The version of each cell."""
Mask = NDArray[np.bool_]


class Grid:
    """The cells of one region.

    Args:
        shape: of the region.
        boxes: all that are ever used.

    >>> grid = Grid((8,), [((2,), (8,)), ((0,), (4,))])
    >>> grid.shape, grid.slices(((2,), (8,)))
    ((3,), (slice(1, 3, None),))
    """

    def __init__(self, shape: Sequence[int], boxes: Iterable[Box]) -> None:
        cuts = [{0, extent} for extent in shape]
        for box in boxes:
            for d, bounds in enumerate(zip(*box, strict=True)):
                cuts[d].update(bounds)
        self._bounds = [sorted(found) for found in cuts]
        self._at = [{bound: i for i, bound in enumerate(bounds)} for bounds in self._bounds]
        self.shape = tuple(len(bounds) - 1 for bounds in self._bounds)

    def slices(self, box: Box) -> tuple[slice, ...]:
        """Selects the cells of a box."""
        return tuple(slice(at[low], at[high]) for at, low, high in zip(self._at, *box, strict=True))

    def box(self, corner: Sequence[int], box: Box) -> Box:
        """The points of one cell; counted from the first one of a box."""
        lo, hi = [], []
        for bounds, at, i, low in zip(self._bounds, self._at, corner, box[0], strict=True):
            lo.append(bounds[at[low] + i])
            hi.append(bounds[at[low] + i + 1])
        return tuple(lo), tuple(hi)
