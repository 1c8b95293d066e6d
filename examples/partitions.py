"""Partitions: a region in parts, each with a colour. Parts are subregions; they hold no data.

python examples/partitions.py
"""

from __future__ import annotations

from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import LaunchError
from specinfer.runtime.index_space import IndexSpace
from specinfer.runtime.partition import Partition, blocks, by_colour, equal, restricted

runtime = Runtime()
line = runtime.region("line", (10,), {"value": "int64"})
grid = runtime.region("grid", (4, 6), {"value": "int64"})


def show(title: str, partition: Partition) -> None:
    """Each colour with its part, and what the runtime found out about them."""
    kind = "disjoint" if partition.is_disjoint else "aliased"
    extent = "complete" if partition.is_complete else "incomplete"
    print(f"{title}: {kind}, {extent}")
    print("   ", "  ".join(f"{colour}: {part}" for colour, part in partition.parts.items()))


quarters = equal(line, 4)  # as equal as can be
show("equal", quarters)
show("blocks", blocks(line, [7, 0, 3]))  # sizes that the program chose; a part may be empty

# What a stencil reads: blocks of four and one point on each side, cut off at the edges.
halo = restricted(line, 3, IndexSpace((0,), (4,)), stride=4, reach=1)
show("with a halo", halo)

show("a grid", equal(grid, (2, 2)))  # colours are (row, column)
show("columns", blocks(grid, [2, 4], dim=1))

# A part is a subregion, and can be partitioned again.
show("a part of a part", equal(quarters[0], 2))
show("by colour", by_colour(line, {0: IndexSpace((0,), (2,)), 1: IndexSpace((8,), (10,))}))

# What a program says of its parts is checked.
try:
    by_colour(line, {part: halo[part].space for part in range(3)}, name="halo", disjoint=True)
except LaunchError as error:
    print("refused:", error)

# Prints:
# equal: disjoint, complete
#     0: line[0:3]  1: line[3:6]  2: line[6:8]  3: line[8:10]
# blocks: disjoint, complete
#     0: line[0:7]  1: line[7:7]  2: line[7:10]
# with a halo: aliased, complete
#     0: line[0:5]  1: line[3:9]  2: line[7:10]
# a grid: disjoint, complete
#     (0, 0): grid[0:2,0:3]  (0, 1): grid[0:2,3:6]  (1, 0): grid[2:4,0:3]  (1, 1): grid[2:4,3:6]
# columns: disjoint, complete
#     0: grid[0:4,0:2]  1: grid[0:4,2:6]
# a part of a part: disjoint, complete
#     0: line[0:2]  1: line[2:3]
# by colour: disjoint, incomplete
#     0: line[0:2]  1: line[8:10]
# refused: partition halo: declared disjoint, but parts 0 [0:5] and 1 [3:9] share points
