"""Draws trees in lanes from the lanes' own texts."""

from __future__ import annotations

from torch import Tensor

from specinfer.runtime.context import Runtime
from specinfer.runtime.future import Future
from specinfer.runtime.privilege import R
from specinfer.runtime.region import Subregion
from specinfer.runtime.task import task
from specinfer.scheduler.lanes.matching import MOST_PLACES, match_text
from specinfer.scheduler.lanes.tables import Fetched, IntArray, Lanes, TreeTables
from specinfer.scheduler.late_tree import FlatTree
from specinfer.scheduler.speculators.ngram import NGramSpeculator


@task(tokens=R, parents=R, count=R)
def fetch_trees(tokens: Tensor, parents: Tensor, count: Tensor) -> Fetched:
    """Begin to bring trees of any shape to the host."""
    return Fetched({"tokens": tokens, "parents": parents, "count": count})


class NGramDrafter:
    """What an n-gram speculator would propose if each node were worth it.

    A step over lanes has its rows whether there are nodes for them or not.

    Args:
        runtime: issues launches.
        speculator: whose trees are drawn.
        nodes: most nodes of a tree, the root not counted.
        depth: most levels of it.
        name: of its tables.
        lanes: at most.

    Attributes:
        tree: what it draws.
        depth: most levels of that.
    """

    def __init__(
        self,
        runtime: Runtime,
        speculator: NGramSpeculator,
        nodes: int,
        depth: int,
        name: str,
        lanes: int,
    ) -> None:
        self._runtime = runtime
        self._speculator = speculator
        self.depth = min(depth, nodes)
        self.tree = TreeTables.of(runtime, name, lanes, nodes)

    def draw(self, lanes: Lanes) -> None:
        """Issue what writes the trees."""
        own = self._speculator
        self._runtime.launch(
            match_text,
            **lanes.texts,
            **self.tree.parts(lanes.count),
            min_match=own.min_match,
            max_places=own.max_places,
            max_depth=self.depth,
        )

    def take(self, lanes: Lanes, outcome: Subregion, moves: Subregion) -> None:
        """Do nothing: the texts are all that it knows."""

    def fetch(self, lanes: int) -> Future:
        """Issue what brings the trees to the host."""
        return self._runtime.launch(fetch_trees, **self.tree.parts(lanes))

    def drawn(self, fetched: dict[str, IntArray], lane: int) -> FlatTree:
        """The tree of a lane."""
        used = int(fetched["count"][lane])
        tokens, parents = (fetched[name][lane, :used].tolist() for name in ("tokens", "parents"))
        return FlatTree(tokens, parents)


def can_match(speculator: NGramSpeculator) -> bool:
    """Whether lanes can draw its trees: it searches nothing but the request's own text."""
    return speculator.corpus is None and speculator.max_places <= MOST_PLACES
