"""Random mappers for any number of ranks."""

from __future__ import annotations

from specinfer.runtime.mapper import random
from specinfer.runtime.mesh import Mesh

MESHES = {
    1: ({"a": 1},),
    2: ({"a": 2}, {"a": 2, "b": 1}, {"a": 1, "b": 2}),
    3: ({"a": 3},),
    4: ({"a": 4}, {"a": 2, "b": 2}),
}


class RandomMapper(random.RandomMapper):
    """A random mapper on one of the meshes of that many ranks."""

    def __init__(self, num_ranks: int, seed: int) -> None:
        meshes = MESHES[num_ranks]
        super().__init__(Mesh.of(meshes[seed % len(meshes)]), seed)
